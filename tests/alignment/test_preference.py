"""The preference stage: it learns, by every loss; how a batch is cut changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from hanlin.alignment.policy import answer_scores, sum_by_sequence
from hanlin.alignment.preference import (
    PREFERENCE_STAGE,
    RRHF_STAGE,
    AlignmentLoop,
    AlignmentOptimizer,
    PreferenceSettings,
    RrhfSettings,
    preference_objective,
)
from hanlin.artifacts import HanlinError, StageContext
from hanlin.data.pairs import GroupsSource, render_rankings
from hanlin.data.preferences import read_rankings
from hanlin.models import Transformer
from hanlin.models.hub import load_model
from hanlin.models.lora_settings import LoraSettings
from hanlin.tokenization import Tokenizer
from hanlin.training.loop import accumulate
from hanlin.training.parallel import World
from hanlin.training.precision import WorkingCopy
from tests.alignment.toy import loop, make_model, make_pairs, make_rankings, tiny_config

LOSSES = ["dpo", "ipo", "kto", "orpo", "simpo", "robust-dpo", "rrhf"]


def settings_of(loss: str, data: object, **changes: Any) -> Any:
    optimizer = AlignmentOptimizer(learning_rate=2e-3)
    made = loop(AlignmentLoop, optimizer=optimizer, **{"steps": 20, **changes})
    if loss == "rrhf":
        return RrhfSettings(model="base", data=str(data), sft_weight=0.1, loop=made)
    return PreferenceSettings(model="base", data=str(data), loss=loss, loop=made)


@pytest.mark.parametrize("loss", LOSSES)
def test_it_learns_which_answers_are_better(loss, tmp_path):
    base = make_model(tmp_path / "base")
    data = make_rankings(tmp_path / "rows.jsonl", 60) if loss == "rrhf" else make_pairs(tmp_path / "rows.jsonl")
    stage = RRHF_STAGE if loss == "rrhf" else PREFERENCE_STAGE
    settings = settings_of(loss, data, steps=60 if loss == "rrhf" else 20)
    (tmp_path / "out").mkdir()
    figures = stage.run(settings, StageContext(tmp_path / "out", {"model": base}, 1))
    validation = figures["validation"]
    assert validation["last"]["loss"] < validation["first"]["loss"]
    if loss == "rrhf":  # its hinge asks for no more than equality, so near ties are what it leaves
        assert validation["last"]["loss"] < 0.7 * validation["first"]["loss"]
    else:
        assert validation["last"]["accuracy"] >= 0.9
    read = figures["data"]["groups"]
    assert read["read"] == read["kept"] + read["dropped"]
    load_model(tmp_path / "out")


def test_adapters_learn_it_too(tmp_path):
    base = make_model(tmp_path / "base")
    settings = settings_of("dpo", make_pairs(tmp_path / "rows.jsonl"), steps=40)
    settings = settings.model_copy(update={"lora": LoraSettings(rank=8)})
    (tmp_path / "out").mkdir()
    figures = PREFERENCE_STAGE.run(settings, StageContext(tmp_path / "out", {"model": base}, 1))
    first, last = figures["validation"]["first"], figures["validation"]["last"]
    assert first["chosen"] == pytest.approx(0, abs=1e-6) and last["loss"] < first["loss"]
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").is_file()


@pytest.mark.parametrize("loss", ["dpo", "ipo", "robust-dpo", "kto"])
def test_at_the_reference_nothing_is_preferred(loss, tmp_path):
    base = make_model(tmp_path / "base")
    settings = settings_of(loss, make_pairs(tmp_path / "rows.jsonl"), steps=1)
    (tmp_path / "out").mkdir()
    figures = PREFERENCE_STAGE.run(settings, StageContext(tmp_path / "out", {"model": base}, 1))
    first = figures["validation"]["first"]
    # Rows packed otherwise round otherwise.
    assert first["chosen"] == pytest.approx(0, abs=1e-6) and first["rejected"] == pytest.approx(0, abs=1e-6)
    if loss == "dpo":
        assert first["loss"] == pytest.approx(0.6931472, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_padding_and_micro_batches_change_nothing(loss, tmp_path):
    """Gradients in float64, by any layout and in pieces of any size."""
    tokenizer = Tokenizer.bytes()
    path = make_rankings(tmp_path / "rows.jsonl", 8) if loss == "rrhf" else make_pairs(tmp_path / "rows.jsonl", 8)
    rankings, _ = read_rankings(path)
    if loss == "kto":
        rankings = [part for one in rankings for part in one.apart()][:8]
    rendered, _ = render_rankings(rankings, tokenizer, 128)
    settings = settings_of(loss, path)
    objective = preference_objective(settings)
    model = Transformer(tiny_config(tokenizer))
    model.init_weights(4)
    model.double()
    batch = GroupsSource(rendered, len(rendered), 0).step(0)
    torch.manual_seed(0)
    logp = sum_by_sequence(answer_scores(model, batch).logprobs, batch).detach()
    batch.of_sequence["reference"] = logp + torch.randn_like(logp)
    batch.of_sequence["baseline"] = torch.full_like(logp, 0.3)
    found: list[list[torch.Tensor]] = []
    for layout, rows in (
        ("shared", 8),
        ("packed", 8),
        ("shared", 3),
        ("padded", 8),
        ("padded-left", 8),
        ("packed", 1),
        ("padded", 3),
    ):
        working = WorkingCopy(model, "fp32")
        sums = accumulate(
            working,
            objective,
            replace(batch, layout=layout).parts(0, rows),
            torch.device("cpu"),
            World(),
        )
        assert sums.tokens == batch.rows
        found.append([grad.clone() for grad in working.gradients()])
    size = max(float(grad.abs().max()) for grad in found[0])
    assert size > 0
    for other in found[1:]:
        for one, two in zip(found[0], other):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-9 * size)


def test_a_model_without_room_for_the_prompt_is_told(tmp_path):
    base = make_model(tmp_path / "base")
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "x" * 300, "chosen": "yes", "rejected": "no"}) + "\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(HanlinError, match=r"none of 1 preferences can be used; the first: .*takes \d+ of 128 tokens"):
        PREFERENCE_STAGE.run(settings_of("dpo", path), StageContext(tmp_path / "out", {"model": base}, 1))


def test_beta_of_a_loss_that_has_none_is_refused():
    with pytest.raises(ValueError, match="orpo has no beta"):
        PreferenceSettings(model="base", loss="orpo", beta=0.1)

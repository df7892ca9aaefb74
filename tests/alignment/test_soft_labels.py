"""What a preference says of itself (confidence, margin), KTO's mismatched pairs, and rows that can't be rendered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hanlin.alignment.policy import answer_scores, sum_by_sequence
from hanlin.alignment.preference import PREFERENCE_STAGE, AlignmentLoop, PreferenceSettings, preference_objective
from hanlin.alignment.reference import KtoSource
from hanlin.alignment.rollouts import pick
from hanlin.alignment.sampler import RenderedPrompts
from hanlin.artifacts import HanlinError, StageContext
from hanlin.data.pairs import RenderedGroups, render_rankings
from hanlin.data.preferences import Ranking, read_preferences, read_rankings
from hanlin.data.prompts import Prompt
from hanlin.models import Transformer, hub
from hanlin.models.lora_settings import LoraSettings
from hanlin.tokenization import Message, Tokenizer
from tests.alignment.test_preference import LOSSES, settings_of
from tests.alignment.toy import loop, make_model, make_pairs, tiny_config
from tests.conftest import Told

TOKENIZER = Tokenizer.bytes()


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair(number: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"q {number}", "chosen": f"yes {number}", "rejected": "no" * number, **more}


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_an_unsure_preference_is_the_expected_one(loss: str, tmp_path: Path) -> None:
    sure = [0.5, 0.6, 0.9, 1.0]
    rows = [pair(number + 1, metadata={"confidence": one}) for number, one in enumerate(sure)]
    rankings, report = read_rankings(write(tmp_path / "rows.jsonl", rows))
    assert not report.quarantined
    if loss == "kto":
        rankings = [part for one in rankings for part in one.apart()]
    settings = settings_of(loss, "x")
    if loss != "rrhf":
        settings = settings.model_copy(update={"sft_weight": 0.3})
    objective = preference_objective(settings)
    network = Transformer(tiny_config(TOKENIZER))
    network.init_weights(4)
    network.double()
    batch = render_rankings(rankings, TOKENIZER, 64)[0].sequences(range(len(rankings)))
    logp = sum_by_sequence(answer_scores(network, batch).logprobs, batch).detach()
    torch.manual_seed(0)
    batch.of_sequence |= {"reference": logp + torch.randn_like(logp), "baseline": torch.full_like(logp, 0.3)}
    plain = {name: values for name, values in batch.of_sequence.items() if name != "confidence"}
    certain = replace(batch, of_sequence=plain)
    if loss in ("kto", "rrhf"):
        scores = 1 - plain["scores"] if loss == "kto" else plain["scores"].view(-1, 2).flip(1).flatten()
        turned = replace(batch, of_sequence={**plain, "scores": scores})
    else:
        order = [place for first in range(0, 8, 2) for place in (first + 1, first)]
        turned = replace(pick(certain, order), groups=batch.groups)
        turned.of_sequence["scores"] = plain["scores"]
    for place in range(batch.rows):
        found, one, two = (
            objective(network, given.slice(place, place + 1)).loss_sum.item() for given in (batch, certain, turned)
        )
        chance = sure[place // 2 if loss == "kto" else place]
        assert found == pytest.approx(chance * one + (1 - chance) * two)
        assert one != pytest.approx(two)


def test_what_rows_say_is_honoured_or_refused(tmp_path: Path) -> None:
    judged = {"prompt": "q", "completion": "yes", "label": False, "metadata": {"confidence": 0.8}}
    ranked = {"prompt": "q", "responses": ["a", "b"], "scores": [0.0, 2.0], "metadata": {"confidence": 0.7}}
    path = write(tmp_path / "rows.jsonl", [judged, ranked, pair(1, margin=0), pair(2, margin=-0.5)])
    preferences, report = read_preferences(path)
    assert [one.confidence for one in preferences] == [0.8, 0.7, None]
    assert "row 4 (line 4): preference: the margin -0.5 is below 0" in str(report.quarantined[0])
    assert Ranking.of(preferences[2]).scores == [1.0, 0.0] and preferences[2].metadata["margin"] == 0
    rankings, _ = read_rankings(path)
    assert [one.confidence for one in rankings] == [0.8, 0.7, None] and rankings[1].scores == [0.0, 2.0]
    three = {**ranked, "responses": ["a", "b", "c"], "scores": [1.0, 2.0, 3.0]}
    _, report = read_rankings(write(tmp_path / "three.jsonl", [ranked, three]))
    assert "metadata.confidence is a pair's, but this row ranks 3 answers" in report.quarantined[0].reason


def groups_of(prompts: list[list[int]], answers: list[list[int]], counted: list[list[bool]]) -> RenderedGroups:
    count = len(prompts)
    return RenderedGroups(
        np.array([token for one, two in zip(prompts, answers) for token in one + two], np.int32),
        np.array([mark for one, marks in zip(prompts, counted) for mark in [False] * len(one) + marks]),
        np.array([len(one) + len(two) for one, two in zip(prompts, answers)]),
        np.array([len(one) for one in answers]),
        np.ones(count, np.int64),
        np.ones(count),
        np.ones(count),
        [{} for _ in prompts],
    )


def test_mismatched_pairs_fit_and_keep_their_marks() -> None:
    prompts, answers = [[1] * 5, [2] * 9, [3] * 2], [[11, 12, 13], [21], [*range(31, 39)]]
    counted = [[True, False, True], [True], [True] * 6 + [False, True]]
    settings = loop(AlignmentLoop, sequence_length=10)
    source = KtoSource(groups_of(prompts, answers, counted), 3, 0, np.zeros(3), None, settings)
    found, order = source.mismatched(0), source.indices(0)
    assert found.marks is not None
    pieces = zip(
        found.input_ids.split(found.lengths.tolist()),
        found.answer_lengths.tolist(),
        found.marks.split(found.answer_lengths.tolist()),
    )
    for place, (ids, size, marks) in enumerate(pieces):
        own, other = order[place], order[(place + 1) % 3]
        room = 10 - len(prompts[own])
        assert ids.tolist() == prompts[own] + answers[other][:room]
        assert size == len(answers[other][:room]) and marks.tolist() == counted[other][:room]
    assert int(found.lengths.max()) == 10
    whole = KtoSource(
        groups_of(prompts, answers, [[True] * len(one) for one in answers]), 3, 0, np.zeros(3), None, settings
    )
    assert whole.mismatched(0).marks is None


def test_kto_needs_two_answers_to_mismatch(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"loop\.rows must be 2 or more"):
        PreferenceSettings(model="b", loss="kto", loop=AlignmentLoop(rows=1))
    assert PreferenceSettings(model="b", loss="dpo", loop=AlignmentLoop(rows=1)).loop.rows == 1
    with pytest.raises(HanlinError, match="a step has 4 of 1 judged answers"):
        KtoSource(groups_of([[1]], [[2]], [[True]]), 4, 0, np.zeros(1), None, AlignmentLoop())
    rows = [{"prompt": f"q {number}", "completion": "yes", "label": number % 2 == 0} for number in range(6)]
    settings = settings_of("kto", write(tmp_path / "rows.jsonl", rows), steps=1)
    told = Told()
    context = StageContext(tmp_path / "out", {"model": make_model(tmp_path / "base")}, 1, told)
    context.workdir.mkdir()
    figures = PREFERENCE_STAGE.run(settings.model_copy(update={"validation_fraction": 0.2}), context)
    assert figures["data"]["validation"] == 1 and figures["validation"]["last"] is None
    assert any("a single judged answer is held out" in line for line in told.lines)


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_of_a_base_in_fewer_bits_the_reference_is_the_rounded_model(
    loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, loaded = make_model(tmp_path / "base"), 0
    kept = hub.load_model

    def load(*given: Any, **more: Any) -> Any:
        nonlocal loaded
        loaded += 1
        return kept(*given, **more)

    monkeypatch.setattr(hub, "load_model", load)
    settings = settings_of(loss, make_pairs(tmp_path / "rows.jsonl", 24), steps=2)
    settings = settings.model_copy(update={"lora": LoraSettings(rank=4, base="int4"), "validation_fraction": 0.2})
    (tmp_path / "out").mkdir()
    figures = PREFERENCE_STAGE.run(settings, StageContext(tmp_path / "out", {"model": base}, 1))
    first, last = figures["validation"]["first"], figures["validation"]["last"]
    assert first["chosen"] == pytest.approx(0, abs=1e-6) and first["rejected"] == pytest.approx(0, abs=1e-6)
    assert last["chosen"] != 0
    # The reference takes no memory of its own.
    assert loaded == 1


def test_what_the_template_refuses_is_left_out_with_its_reason(tmp_path: Path) -> None:
    source = (tmp_path / "template.jinja").as_posix()
    Path(source).write_text(
        "{%- for m in messages %}{%- if 'bad' in m.content %}{{ raise_exception('no bad words') }}{%- endif %}"
        "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
    )
    tokenizer = Tokenizer.bytes()
    tokenizer.chat_template = Path(source).read_text()
    rows = [pair(1), {**pair(2), "rejected": "bad"}, {**pair(3), "prompt": "long" * 30}]
    rankings, _ = read_rankings(write(tmp_path / "rows.jsonl", rows))
    rendered, account = render_rankings(rankings, tokenizer, 64)
    assert len(rendered) == 1 and account.read == 3 == account.kept + len(account.dropped)
    assert "row 2" in account.dropped[0] and "no bad words" in account.dropped[0]
    assert "row 3" in account.dropped[1] and "of 64 tokens" in account.dropped[1]
    asked = [Prompt([Message("user", text)], metadata={"file": "p", "row": 1}) for text in ("good", "bad")]
    prompts = RenderedPrompts(asked, tokenizer, 64, 8)
    assert len(prompts) == 1 and "p, row 1: " in prompts.dropped[0] and "no bad words" in prompts.dropped[0]

"""PPO, GRPO and RLOO as stages: they learn a reward, and notice when probabilities differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hanlin.alignment import rewards
from hanlin.alignment.actor_critic import ActorCritic
from hanlin.alignment.checks import check_probabilities
from hanlin.alignment.policy_gradient import (
    GRPO_STAGE,
    PPO_STAGE,
    RLOO_STAGE,
    GrpoSettings,
    PolicyLoop,
    PpoSettings,
    RlooSettings,
)
from hanlin.alignment.policy_losses import policy_objective
from hanlin.alignment.policy_settings import ClipSettings, GrpoRollout, KlSettings, PpoRollout, RlooRollout
from hanlin.alignment.preference import AlignmentOptimizer
from hanlin.alignment.rollouts import pick
from hanlin.artifacts import HanlinError, StageContext, read_jsonl
from hanlin.data.batch import Batch
from hanlin.models import Transformer
from hanlin.models.hub import load_model
from hanlin.models.lora_settings import LoraSettings
from hanlin.models.losses import cross_entropy
from hanlin.models.reward import RewardModel
from hanlin.tokenization import Tokenizer
from hanlin.training.loop import accumulate
from hanlin.training.parallel import World
from hanlin.training.precision import WorkingCopy
from tests.alignment.test_policy import sequences
from tests.alignment.toy import loop, make_model, tiny_config


def make_prompts(path: Path, count: int = 12) -> Path:
    rows = [{"prompt": f"say {chr(97 + number)}", "answers": ["a"]} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def plain(prompt: Any, text: str) -> float:
    """A reward that a byte model can find by chance: how many of 8 bytes are ASCII."""
    return sum(sign.isascii() for sign in text) / 8


@pytest.fixture
def easy(monkeypatch):
    monkeypatch.setitem(rewards.PROGRAMS, "exact", plain)


def settings_of(kind: str, data: Path, **changes: Any) -> Any:
    made = loop(
        PolicyLoop, rows=32, optimizer=AlignmentOptimizer(learning_rate=3e-3), micro_rows=16, **{"steps": 24, **changes}
    )
    common = {"model": "base", "data": str(data), "program": "exact", "max_new_tokens": 8, "loop": made}
    if kind == "ppo":
        return PpoSettings(**common, rollout=PpoRollout(prompts=64, inner_epochs=2), kl=KlSettings(coefficient=0.01))
    if kind == "grpo":
        return GrpoSettings(**common, rollout=GrpoRollout(prompts=8, samples=8), kl=KlSettings(coefficient=0.01))
    return RlooSettings(**common, rollout=RlooRollout(prompts=8, samples=8), kl=KlSettings(coefficient=0.01))


STAGES = {"ppo": PPO_STAGE, "grpo": GRPO_STAGE, "rloo": RLOO_STAGE}


@pytest.mark.parametrize("kind", ["ppo", "grpo", "rloo"])
def test_the_reward_rises(kind, tmp_path, easy):
    base = make_model(tmp_path / "base")
    (tmp_path / "out").mkdir()
    context = StageContext(tmp_path / "out", {"model": base}, 1)
    settings = settings_of(kind, make_prompts(tmp_path / "p.jsonl"), steps=48 if kind == "ppo" else 24)
    figures = STAGES[kind].run(settings, context)
    curve = figures["rollouts"]
    journal = read_jsonl(tmp_path / "out" / "rollouts.jsonl")
    assert (
        len(journal) == len(curve) == 12
        and journal[3]["prompts"][0].startswith("p.jsonl:")
        and curve[0]["kl_answer"] == pytest.approx(0, abs=1e-4)
    )
    assert curve[-1]["reward"] > curve[0]["reward"] + 0.1
    assert curve[-1]["kl_answer"] > 0
    load_model(tmp_path / "out")


def test_adapters_alone_are_trained_and_the_reference_is_without_them(tmp_path, easy):
    base = make_model(tmp_path / "base")
    (tmp_path / "out").mkdir()
    settings = settings_of("grpo", make_prompts(tmp_path / "p.jsonl"), steps=6)
    settings = settings.model_copy(update={"lora": LoraSettings(rank=4)})
    figures = GRPO_STAGE.run(settings, StageContext(tmp_path / "out", {"model": base}, 1))
    curve = figures["rollouts"]
    assert curve[0]["kl_answer"] == pytest.approx(0, abs=1e-4) and curve[-1]["kl_answer"] != 0
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
    load_model(tmp_path / "out")


def test_early_stop_gives_the_rest_of_a_rollout_up(tmp_path, easy):
    base = make_model(tmp_path / "base")
    settings = settings_of("grpo", make_prompts(tmp_path / "p.jsonl"), steps=12)
    rollout = settings.rollout.model_copy(update={"inner_epochs": 3, "early_stop": 1e-9})
    (tmp_path / "out").mkdir()
    figures = GRPO_STAGE.run(
        settings.model_copy(update={"rollout": rollout}), StageContext(tmp_path / "out", {"model": base}, 1)
    )
    # The first step is on policy; after the second one the policy has moved, and the other four are given up.
    assert [row["step"] for row in figures["rollouts"]] == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("normalise", ["token", "sequence", "sum"])
def test_rows_padding_and_micro_batches_change_nothing(normalise):
    tokenizer = Tokenizer.bytes()
    model = Transformer(tiny_config(tokenizer))
    model.init_weights(2)
    model.double()
    batch = sequences(count=12)
    total = int(batch.answer_lengths.sum())
    torch.manual_seed(1)
    for name in ("old", "reference", "advantages"):
        batch.of_token[name] = torch.randn(total, dtype=torch.float64) - (3.0 if name != "advantages" else 0.0)
    batch.of_sequence["coefficient"] = torch.full((12,), 0.3, dtype=torch.float64)
    batch.of_sequence["per_token"] = torch.ones(12, dtype=torch.float64)
    objective = policy_objective(ClipSettings(), KlSettings(within="loss", estimator="k2"), normalise)
    found = []
    for layout, rows in (
        ("shared", 12),
        ("packed", 12),
        ("shared", 3),
        ("padded", 12),
        ("padded-left", 5),
        ("packed", 1),
        ("packed", 7),
    ):
        working = WorkingCopy(model, "fp32")
        given: Any = replace(batch, layout=layout)
        sums = accumulate(working, objective, given.parts(0, rows), torch.device("cpu"), World())
        found.append(([grad / sums.tokens for grad in working.gradients()], sums.metrics["loss"] / sums.tokens))
    size = max(float(grad.abs().max()) for grad in found[0][0])
    assert size > 0
    for gradients, loss in found[1:]:
        assert loss == pytest.approx(found[0][1])
        for one, two in zip(found[0][0], gradients):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-9 * size)


def test_text_beside_the_answers_has_its_own_divisor():
    """PPO-ptx: the text's loss a token, times its weight, in pieces of any size; and the critic learns its returns."""
    tokenizer = Tokenizer.bytes()
    policy = Transformer(tiny_config(tokenizer))
    policy.init_weights(2)
    trunk = Transformer(tiny_config(tokenizer))
    trunk.init_weights(3)
    model = ActorCritic(policy, RewardModel.init_from(trunk, 0)).double()
    batch = sequences(count=8)
    total = int(batch.answer_lengths.sum())
    torch.manual_seed(1)
    for name in ("old", "reference", "advantages", "values", "returns"):
        batch.of_token[name] = torch.randn(total, dtype=torch.float64)
    ids = torch.randint(0, 200, (8, 17))
    batch.beside = Batch(ids[:, :-1], ids[:, 1:], torch.arange(16).expand(8, 16))
    batch.of_sequence["share"] = torch.full((8,), total / ids[:, 1:].numel(), dtype=torch.float64)
    batch.of_sequence["per_token"] = torch.ones(8, dtype=torch.float64)
    without = policy_objective(ClipSettings(), KlSettings(), "token", 0.5)
    objective = policy_objective(ClipSettings(), KlSettings(), "token", 0.5, 0.7)
    found = []
    # Of 8 rows of text and 8 groups every part has some; of 3 rows some parts have none.
    for rows in (8, 2, 3):
        working = WorkingCopy(model, "fp32")
        sums = accumulate(working, objective, batch.parts(0, rows), torch.device("cpu"), World())
        found.append(([grad / sums.tokens for grad in working.gradients()], sums.metrics["loss"] / sums.tokens))
    base = accumulate(WorkingCopy(model, "fp32"), without, batch.parts(0, 8), torch.device("cpu"), World())
    text = cross_entropy(policy.hidden(ids[:, :-1]), policy.head_weight, ids[:, 1:])
    expected = base.metrics["loss"] / base.tokens + 0.7 * float(text.nll) / ids[:, 1:].numel()
    assert found[0][1] == pytest.approx(expected)
    for gradients, loss in found[1:]:
        assert loss == pytest.approx(found[0][1])
        for one, two in zip(found[0][0], gradients):
            torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-10)


def test_parts_without_text_have_the_same_metrics():
    tokenizer = Tokenizer.bytes()
    policy = Transformer(tiny_config(tokenizer))
    policy.init_weights(2)
    policy.double()
    batch = sequences(count=8)
    total = int(batch.answer_lengths.sum())
    torch.manual_seed(1)
    for name in ("old", "reference", "advantages"):
        batch.of_token[name] = torch.randn(total, dtype=torch.float64)
    ids = torch.randint(0, 200, (3, 17))
    batch.beside = Batch(ids[:, :-1], ids[:, 1:], torch.arange(16).expand(3, 16))
    batch.of_sequence["share"] = torch.full((8,), 8 / ids[:, 1:].numel(), dtype=torch.float64)
    batch.of_sequence["per_token"] = torch.full((8,), 8 / total, dtype=torch.float64)
    objective = policy_objective(ClipSettings(), KlSettings(), "sum", 0.0, 0.7)
    found = []
    for rows in (8, 1):
        sums = accumulate(WorkingCopy(policy, "fp32"), objective, batch.parts(0, rows), torch.device("cpu"), World())
        found.append({name: value / sums.tokens for name, value in sums.metrics.items()})
    assert found[0] == pytest.approx(found[1])
    # Diagnostics are a token's, though the loss counts answers.
    assert 0 < found[0]["entropy"] < 7 and 0 <= found[0]["clipped"] <= 1


def test_probabilities_that_differ_are_refused():
    sampled = torch.tensor([-1.0, -2.0])
    check_probabilities(sampled, sampled + 1e-5, 1e-3)
    with pytest.raises(HanlinError, match=r"differ by up to 0\.1 nats"):
        check_probabilities(sampled, sampled - 0.1, 1e-3)
    with pytest.raises(HanlinError, match="differ by up to nan"):
        check_probabilities(sampled, torch.tensor([float("nan"), -2.0]), 1e-3)


def test_picking_keeps_what_belongs_together():
    batch = sequences(count=6)
    total = int(batch.answer_lengths.sum())
    owner = batch.sequence_of_token()
    batch.of_token["owner"] = owner.clone()
    batch.of_sequence["number"] = torch.arange(6)
    found = pick(batch, [4, 0, 3])
    assert found.of_sequence["number"].tolist() == [4, 0, 3]
    assert found.of_token["owner"].tolist() == [
        number for number in (4, 0, 3) for _ in range(int(batch.answer_lengths[number]))
    ]
    starts = (batch.lengths.cumsum(0) - batch.lengths).tolist()
    expected = [batch.input_ids[starts[n] : starts[n] + int(batch.lengths[n])] for n in (4, 0, 3)]
    assert torch.equal(found.input_ids, torch.cat(expected)) and total == len(owner)

"""What is checked when a policy begins, and that rollouts are the same for all ranks, rows and layouts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from hanlin.alignment import reference, rewards
from hanlin.alignment.actor_critic import ActorCritic
from hanlin.alignment.checks import check_distance, check_reference
from hanlin.alignment.kl import estimate
from hanlin.alignment.policy import answer_scores, divergences
from hanlin.alignment.policy_gradient import GRPO_STAGE, PPO_STAGE, GrpoSettings, PolicyLoop, PpoSettings
from hanlin.alignment.policy_losses import policy_objective
from hanlin.alignment.policy_settings import ClipSettings, GrpoRollout, KlSettings, PpoRollout, RlooRollout
from hanlin.alignment.rollouts import Samples, credited
from hanlin.artifacts import HanlinError, StageContext, read_jsonl
from hanlin.artifacts.store import external
from hanlin.models import Transformer
from hanlin.models.lora import add_lora
from hanlin.models.lora_settings import LoraSettings
from hanlin.models.reward import RewardModel
from hanlin.tokenization import Tokenizer
from hanlin.training.loop import accumulate
from hanlin.training.parallel import World
from hanlin.training.precision import WorkingCopy
from tests.alignment.ranks import learn
from tests.alignment.test_policy import model, plain, sequences
from tests.alignment.test_policy_gradient import make_prompts, settings_of
from tests.alignment.test_policy_gradient import plain as easy_reward
from tests.alignment.toy import make_model, tiny_config
from tests.data.corpora import make_shards
from tests.ranks import run_ranks


@torch.no_grad()
def test_the_exact_distance_is_the_sum_over_the_vocabulary() -> None:
    policy, other, given = model(), model(), sequences(count=4)
    for parameter in other.parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    expected: list[torch.Tensor] = []
    for ids, answer in zip(given.input_ids.split(given.lengths.tolist()), given.answer_lengths.tolist()):
        one, two = (network(ids[None]).log_softmax(-1)[0, -answer - 1 : -1] for network in (policy, other))
        expected.append((one.exp() * (one - two)).sum(-1))
    found = divergences(policy, other, given, chunk=3)
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-12)
    assert float(found.min()) > 0
    torch.testing.assert_close(divergences(policy, policy, given), torch.zeros_like(found), rtol=0, atol=1e-12)
    # Without its adapters the policy is its own reference.
    add_lora(policy, LoraSettings(rank=2), 0)
    assert float(divergences(policy, None, given).abs().max()) == 0
    for name, parameter in policy.named_parameters():
        if name.endswith(".b"):
            parameter.add_(0.1)
    moved = divergences(policy, None, given)
    assert float(moved.min()) > 0
    # What is sampled estimates it: k1 of a token drawn from π, here the likeliest one, is no more than log(1/π_ref).
    drawn = answer_scores(policy, given).logprobs
    assert bool((estimate(drawn, plain(model(), given), "k3") >= 0).all())


def test_a_distance_that_cannot_be_is_refused() -> None:
    check_distance(torch.tensor([0.0, 1e-5, -1e-6]), 1e-3, at_reference=True)
    check_distance(torch.tensor([0.0, 0.3]), 1e-3, at_reference=False)
    with pytest.raises(HanlinError, match=r"is 0\.3 nats: the policy does not begin as its reference"):
        check_distance(torch.tensor([0.0, 0.3]), 1e-3, at_reference=True)
    for at_reference in (True, False):
        for wrong in (-0.1, float("nan")):
            with pytest.raises(HanlinError, match="can't be below 0"):
                check_distance(torch.tensor([0.2, wrong]), 1e-3, at_reference=at_reference)
    with pytest.raises(HanlinError, match=r"differ by up to 0\.1 nats"):
        check_reference(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -2.1]), 2e-3)


@pytest.mark.parametrize("by", [1e-3, float("nan")])
def test_a_run_whose_reference_is_another_model_stops_before_its_first_step(
    by: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rewards.PROGRAMS, "exact", easy_reward)
    kept = reference.frozen

    def wrong(network: Any, loop: Any) -> Any:
        made = kept(network, loop)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(by * torch.randn(parameter.shape))
        return made

    monkeypatch.setattr(reference, "frozen", wrong)
    context = StageContext(tmp_path / "out", {"model": make_model(tmp_path / "base")}, 1)
    context.workdir.mkdir()
    settings = settings_of("grpo", make_prompts(tmp_path / "p.jsonl"), steps=2)
    with pytest.raises(HanlinError, match=r"before the first step the log-prob|can't be below 0"):
        GRPO_STAGE.run(settings, context)
    assert not list((context.workdir / "rollouts").glob("*.json"))


def test_rollouts_that_are_no_whole_steps_are_refused_in_the_settings() -> None:
    given: dict[str, Any] = {"model": "m", "data": "p", "program": "exact"}
    with pytest.raises(ValidationError, match=r"8 prompts × 4 samples = 32 answers, .* multiple of the 64 of a step"):
        GrpoSettings(**given, rollout=GrpoRollout(prompts=8, samples=4), loop=PolicyLoop(rows=64))
    with pytest.raises(ValidationError, match="multiple of the 48"):
        PpoSettings(**given, loop=PolicyLoop(rows=48))


def test_the_critic_and_the_policy_learn_the_same_however_rows_are_laid_out() -> None:
    """PPO with a critic in float64: loss, metrics and every gradient, by any layout and in pieces of any size."""
    tokenizer = Tokenizer.bytes()
    policy, trunk = Transformer(tiny_config(tokenizer)), Transformer(tiny_config(tokenizer))
    policy.init_weights(2)
    trunk.init_weights(3)
    both = ActorCritic(policy, RewardModel.init_from(trunk, 0)).double()
    batch = sequences(count=12)
    with torch.no_grad():
        logp, values = answer_scores(policy, batch).logprobs, both.values(batch, batch.in_rows())
    torch.manual_seed(1)
    samples = Samples(batch, logp, torch.arange(12) % 4 != 0, [""] * 12, list(range(12)))
    rollout = PpoRollout(missing_end_penalty=0.5, whiten_rewards=True)
    old = logp + 0.3 * torch.randn_like(logp)
    figures = credited(
        batch, samples, {"reward": torch.randn(12)}, old, logp - 0.1, values, 0.05, KlSettings(), rollout
    )
    assert figures["ended"] == pytest.approx(0.75)
    batch.of_sequence["per_token"] = torch.ones(12, dtype=torch.float64)
    found: list[tuple[list[torch.Tensor], dict[str, float]]] = []
    for layout, rows in (
        ("shared", 12),
        ("packed", 12),
        ("shared", 3),
        ("padded", 12),
        ("padded-left", 12),
        ("padded-left", 5),
        ("packed", 1),
    ):
        working = WorkingCopy(both, "fp32")
        objective = policy_objective(ClipSettings(), KlSettings(), "token", 0.5)
        given: Any = replace(batch, layout=layout)
        sums = accumulate(working, objective, given.parts(0, rows), torch.device("cpu"), World())
        means = {name: value / sums.tokens for name, value in sums.metrics.items()}
        found.append(([grad / sums.tokens for grad in working.gradients()], means))
    assert found[0][1]["value_loss"] > 0 and 0 < found[0][1]["clipped"] < 1
    for gradients, means in found[1:]:
        assert means == pytest.approx(found[0][1], abs=1e-6)
        for one, two in zip(found[0][0], gradients):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_whitened_rewards_keep_their_mean() -> None:
    batch = sequences(count=8)
    logp = torch.zeros(int(batch.answer_lengths.sum()))
    samples = Samples(batch, logp, torch.ones(8, dtype=torch.bool), [""] * 8, list(range(4)))
    given = torch.tensor([1.0, 9.0, 4.0, 2.0, 7.0, 3.0, 5.0, 9.0])
    rollout = RlooRollout(samples=2, whiten_rewards=True)
    figures = credited(batch, samples, {"reward": given}, logp, logp, None, 0.0, KlSettings(), rollout)
    white = batch.of_sequence["reward"]
    assert figures["reward"] == pytest.approx(5) == pytest.approx(float(white.mean()))
    assert float(white.std(unbiased=False)) == pytest.approx(1)
    gained = batch.of_token["advantages"][batch.answer_lengths.cumsum(0) - 1]
    assert gained.tolist() == pytest.approx(
        ((given.view(4, 2) - given.view(4, 2).flip(1)) / given.std(unbiased=False)).flatten().tolist()
    )


def test_ppo_learns_text_beside_its_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PPO-ptx with whitened rewards, as a stage: the text's loss falls, and is there in every step."""
    monkeypatch.setitem(rewards.PROGRAMS, "exact", easy_reward)
    make_shards(tmp_path / "tokens", [62, 62, 62, 62])
    inputs = {"model": make_model(tmp_path / "base"), "text": external(tmp_path / "tokens")}
    (tmp_path / "tokens/tokenizer").mkdir()
    shutil.copy(tmp_path / "base/tokenizer.json", tmp_path / "tokens/tokenizer")
    settings = settings_of("ppo", make_prompts(tmp_path / "p.jsonl"), steps=12)
    changes = {"rollout": PpoRollout(prompts=64, whiten_rewards=True), "text": "t", "text_weight": 5.0, "text_rows": 1}
    (tmp_path / "out").mkdir()
    figures = PPO_STAGE.run(settings.model_copy(update=changes), StageContext(tmp_path / "out", inputs, 1))
    lines = [line for line in read_jsonl(tmp_path / "out" / "metrics.jsonl") if "text_loss" in line]
    assert len(lines) == figures["steps"] == 12 and all(line["value_loss"] > 0 for line in lines)
    assert lines[0]["text_loss"] > 5 and lines[-1]["text_loss"] < lines[0]["text_loss"] - 0.2
    assert len(figures["rollouts"]) == 6
    (tmp_path / "tokens/tokenizer/tokenizer.json").write_text("{}")
    (tmp_path / "other").mkdir()
    with pytest.raises(HanlinError, match="another tokenizer"):
        PPO_STAGE.run(settings.model_copy(update=changes), StageContext(tmp_path / "other", inputs, 1))


def test_two_ranks_train_on_the_rollouts_of_the_first(tmp_path: Path) -> None:
    ranks = run_ranks("tests.alignment.ranks", tmp_path)
    alone = learn(tmp_path / "alone", 0)
    assert not torch.equal(alone["before"], alone["after"])
    for name, values in alone.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        torch.testing.assert_close(ranks[0][name], values, rtol=0, atol=1e-10)

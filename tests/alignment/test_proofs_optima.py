"""What the proofs are measured by is right: tables, and the optima."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hanlin.alignment.best_of_n import BestOfNSettings, best_place, write_choices
from hanlin.alignment.policy import answer_scores, sum_by_sequence
from hanlin.alignment.proofs import by_pairs, optima
from hanlin.alignment.proofs.table import Space, TablePolicy, TableReward, TableSampler
from hanlin.alignment.proofs.worlds import BETA, PAIRS, Stationary, World
from hanlin.data.prompts import Prompt
from hanlin.tokenization import Message

SPACE = Space(letters=2, longest=3, prompts=2)


def test_probabilities_of_a_table_are_those_that_the_objectives_see() -> None:
    policy = TablePolicy(SPACE, 3)
    chances = policy.probabilities()
    torch.testing.assert_close(chances.sum(1), torch.ones(2, dtype=torch.float64))
    size = len(SPACE.answers)
    batch = SPACE.sequences([0] * size + [1] * size, [*range(size)] * 2, [1] * 2 * size)
    logs = sum_by_sequence(answer_scores(policy, batch).logprobs, batch)
    torch.testing.assert_close(logs.detach().exp(), chances.reshape(-1))


def test_sequences_are_the_answers_by_number_and_a_fixed_batch_is_the_same() -> None:
    batch = SPACE.sequences([1, 0, 1], [0, 14, 5], [2, 1])
    assert batch.input_ids.split(batch.lengths.tolist())[1].tolist() == [SPACE.tokens, *SPACE.answers[14]]
    assert batch.labels().tolist() == [token for number in (0, 14, 5) for token in SPACE.answers[number]]
    fixed = Stationary(batch).step(0)
    assert fixed.slice(0, 2) is fixed and fixed.in_rows() is fixed.in_rows()
    torch.testing.assert_close(fixed.in_rows().before_answers, batch.in_rows().before_answers)
    torch.testing.assert_close(fixed.slice(1, 2).input_ids, batch.slice(1, 2).input_ids)


def test_samples_of_a_table_follow_its_probabilities() -> None:
    policy = TablePolicy(SPACE, 3)
    found = TableSampler(SPACE).sample(policy, [0, 1], 20_000, seed=1)
    counts = torch.tensor([int(text) for text in found.texts]).view(2, -1)
    for prompt in range(2):
        share = torch.bincount(counts[prompt], minlength=15).double() / 20_000
        assert 2 * 20_000 * optima.divergence(share[None], policy.probabilities()[prompt : prompt + 1]) < 42.6
    logs = sum_by_sequence(found.logprobs, found.sequences).exp()
    expected = policy.probabilities()[torch.arange(2).repeat_interleave(20_000), counts.reshape(-1)]
    torch.testing.assert_close(logs, expected)
    assert found.ended.tolist() == [SPACE.answers[number][-1] == 2 for number in counts.flatten().tolist()]


def test_a_table_has_a_reward_of_its_own_for_every_answer() -> None:
    model = TableReward(SPACE)
    for number in range(30):
        (own,) = torch.autograd.grad(model.rewards(SPACE.everything)[number], model.table)
        with torch.no_grad():
            model.table.add_(own, alpha=number + 1)
    assert model.all().flatten().tolist() == list(range(1, 31))


def test_the_tilted_policy_is_the_best_there_is() -> None:
    """No other policy has a higher reward less KL: tried against ten thousand."""
    world = World.drawn(SPACE, 0)

    def worth(policy: torch.Tensor) -> torch.Tensor:
        kl = torch.special.xlogy(policy, policy / world.base).sum(-1)
        return (policy * world.rewards).sum(-1) - 0.5 * kl

    best = worth(optima.tilted(world.base, world.rewards, 0.5))
    generator = torch.Generator().manual_seed(0)
    others = torch.randn((10_000, 2, 15), dtype=torch.float64, generator=generator).softmax(-1)
    assert bool((worth(others) < best).all())


def test_the_preference_optimum_is_the_tilted_one_where_preferences_are_from_rewards() -> None:
    world = World.drawn(SPACE, 1)
    chance = optima.preferred(world.rewards)
    found = optima.direct_preference(world.base, chance, 0.5)
    torch.testing.assert_close(found, optima.tilted(world.base, world.rewards, 0.5))


def test_the_other_way_round_is_the_best_under_its_own_price() -> None:
    world = World.drawn(Space(letters=5, longest=1), 2)
    found = optima.reverse_held(world.base, world.rewards, 0.5)
    torch.testing.assert_close(found.sum(1), torch.ones(1, dtype=torch.float64))

    def worth(policy: torch.Tensor) -> torch.Tensor:
        return (policy * world.rewards).sum(-1) - 0.5 * torch.special.xlogy(world.base, world.base / policy).sum(-1)

    generator = torch.Generator().manual_seed(0)
    others = torch.randn((10_000, 1, 6), dtype=torch.float64, generator=generator).softmax(-1)
    assert bool((worth(others) < worth(found)).all())


@pytest.mark.parametrize("weight", [0.0, 0.01, 0.3])
def test_centred_rewards_are_where_the_loss_is_least(weight: float) -> None:
    rewards = World.drawn(SPACE, 4).rewards
    chance = optima.preferred(rewards)
    found = optima.centred_rewards(chance, weight).requires_grad_()
    first, second = torch.tensor(SPACE.pairs).unbind(1)
    loss = torch.zeros((), dtype=torch.float64)
    for one, p in zip(found, chance[:, first, second]):
        gap = one[first] - one[second]
        loss = loss - (p * gap.sigmoid().log() + (1 - p) * (-gap).sigmoid().log()).sum()
        loss = loss + weight * (one[first] + one[second]).square().sum()
    (gradient,) = torch.autograd.grad(loss, found)  # the loss is convex
    assert float(gradient.abs().max()) < 1e-9
    if weight == 0:
        torch.testing.assert_close(found.detach(), rewards - rewards.mean(1, keepdim=True))


def test_the_distance_from_n_labels_has_the_predicted_mean_and_deviation() -> None:
    """Of IPO, whose optimum for given labels is a closed form, over 4,000 draws."""
    world = World.drawn(PAIRS, 3)
    chance = optima.preferred(world.rewards).expand(4_000, -1, -1)
    share = by_pairs.share_won(chance, torch.full((4_000,), 400), 1)
    assert float((share + share.transpose(1, 2) - 1).abs().max()) < 1e-12
    found = optima.identity_preference(world.base, share, by_pairs.TAU)
    best = optima.identity_preference(world.base, chance[:1], by_pairs.TAU)
    kl = torch.special.xlogy(found, found / best).sum(1) * 400 * 21
    error = optima.identity_preference_error(world.rewards[0], by_pairs.TAU)
    mean, deviation = optima.expected_divergence(best[0], error)
    assert float(kl.mean()) == pytest.approx(mean, abs=4 * deviation / 4_000**0.5)
    assert float(kl.std()) == pytest.approx(deviation, rel=0.1)


def test_the_fitted_scores_have_the_predicted_errors() -> None:
    """Of DPO's optimum for given labels, by Newton's method, over 300 draws."""
    world = World.drawn(PAIRS, 3)
    chance = optima.preferred(world.rewards).expand(300, -1, -1)
    share = by_pairs.share_won(chance, torch.full((300,), 400), 2)
    found = optima.direct_preference(world.base.expand(300, -1), share, BETA)
    best = optima.tilted(world.base, world.rewards, BETA)
    kl = torch.special.xlogy(found, found / best).sum(1) * 400 * 21
    mean, deviation = optima.expected_divergence(best[0], optima.direct_preference_error(world.rewards[0], BETA))
    assert float(kl.mean()) == pytest.approx(mean, abs=4 * deviation / 300**0.5)


@pytest.mark.parametrize("levels", [None, 2])
def test_the_best_of_n_by_listing_all_draws(levels: int | None) -> None:
    world = World.drawn(PAIRS, 3)
    worth = world.rewards if levels is None else (world.rewards * levels).floor()
    base, rewards = world.base[0].tolist(), worth[0].tolist()
    expected = [0.0] * 7
    for draw in itertools.product(range(7), repeat=3):
        best = draw[best_place([rewards[answer] for answer in draw])]
        expected[best] += math.prod(base[answer] for answer in draw)
    assert optima.best_of(world.base, worth, 3)[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("count", [2, 4, 16])
def test_kl_of_best_of_n_is_between_its_bounds_which_meet(count: int) -> None:
    allowed: list[float] = []
    for answers in (5, 50, 500):
        base = torch.randn(1, answers, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(1)
        rewards = torch.rand(1, answers, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        kl = optima.divergence(optima.best_of(base, rewards, count), base)
        allowed.append(optima.best_of_gap(base, rewards, count))
        assert 0 <= optima.best_of_bound(count) - kl <= allowed[-1]
    assert allowed[0] > 10 * allowed[2]


def test_the_kl_that_best_of_n_reports_is_the_bound(tmp_path: Path) -> None:
    settings = BestOfNSettings(model="m", data="p.jsonl", program="exact", samples=8)
    row: dict[str, Any] = {
        "prompt": 0,
        "answers": [*"abcdefgh"],
        "ended": [True] * 8,
        "reward": [float(k) for k in range(8)],
    }
    figures = write_choices(settings, [row], [Prompt([Message("user", "q")], ["a"])], tmp_path)
    assert [line["n"] for line in figures["best_of"]] == [1, 2, 4, 8]
    for line in figures["best_of"]:
        assert line["kl_bound"] == pytest.approx(optima.best_of_bound(line["n"]))

"""The proofs hold, and what they are measured by is right."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

from hanlin.alignment.policy import answer_scores, sum_by_sequence
from hanlin.alignment.proofs import optima
from hanlin.alignment.proofs.proofs import PROOFS, World
from hanlin.alignment.proofs.table import Space, TablePolicy, TableSampler
from tests.conftest import hanlin


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PROOFS))
def test_the_proof_holds(name):
    found = PROOFS[name](7)
    assert found.holds, found


SPACE = Space(letters=2, longest=3, prompts=2)


def test_probabilities_of_a_table_are_those_that_the_objectives_see():
    policy = TablePolicy(SPACE, 3)
    chances = policy.probabilities()
    torch.testing.assert_close(chances.sum(1), torch.ones(2, dtype=torch.float64))
    answers = SPACE.answers()
    prompts = [0] * len(answers) + [1] * len(answers)
    batch = SPACE.sequences(prompts, answers + answers, [1] * len(prompts))
    logs = sum_by_sequence(answer_scores(policy, batch).logprobs, batch)
    torch.testing.assert_close(logs.detach().exp(), chances.reshape(-1))


def test_samples_of_a_table_follow_its_probabilities():
    policy = TablePolicy(SPACE, 3)
    found = TableSampler(SPACE).sample(policy, [0, 1], 20_000, seed=1)
    counts = torch.tensor([int(text) for text in found.texts]).view(2, -1)
    for prompt in range(2):
        share = torch.bincount(counts[prompt], minlength=15).double() / 20_000
        assert 2 * 20_000 * optima.divergence(share[None], policy.probabilities()[prompt : prompt + 1]) < 42.6
    logs = sum_by_sequence(found.logprobs, found.sequences).exp()
    expected = policy.probabilities()[torch.arange(2).repeat_interleave(20_000), counts.reshape(-1)]
    torch.testing.assert_close(logs, expected)


def test_the_tilted_policy_is_the_best_there_is():
    """No other policy has a higher reward less KL: tried against ten thousand."""
    world = World.drawn(SPACE, 0)

    def worth(policy: torch.Tensor) -> torch.Tensor:
        kl = torch.special.xlogy(policy, policy / world.base).sum(-1)
        return (policy * world.rewards).sum(-1) - 0.5 * kl

    best = worth(optima.tilted(world.base, world.rewards, 0.5))
    generator = torch.Generator().manual_seed(0)
    others = torch.randn((10_000, 2, 15), dtype=torch.float64, generator=generator).softmax(-1)
    assert bool((worth(others) < best).all())


def test_the_preference_optimum_is_the_tilted_one_where_preferences_are_from_rewards():
    world = World.drawn(SPACE, 1)
    chance = optima.preferred(world.rewards)
    found = optima.direct_preference(world.base, chance, 0.5)
    torch.testing.assert_close(found, optima.tilted(world.base, world.rewards, 0.5))


def test_the_other_way_round_is_the_best_under_its_own_price():
    world = World.drawn(Space(letters=5, longest=1), 2)
    found = optima.reverse_held(world.base, world.rewards, 0.5)
    torch.testing.assert_close(found.sum(1), torch.ones(1, dtype=torch.float64))

    def worth(policy: torch.Tensor) -> torch.Tensor:
        return (policy * world.rewards).sum(-1) - 0.5 * torch.special.xlogy(world.base, world.base / policy).sum(-1)

    generator = torch.Generator().manual_seed(0)
    others = torch.randn((10_000, 1, 6), dtype=torch.float64, generator=generator).softmax(-1)
    assert bool((worth(others) < worth(found)).all())


def test_the_best_of_n_by_listing_all_draws():
    world = World.drawn(Space(letters=2, longest=1), 3)
    base, rewards = world.base[0].tolist(), world.rewards[0].tolist()
    expected = [0.0] * 3
    for draw in itertools.product(range(3), repeat=4):
        best = max(draw, key=lambda answer: rewards[answer])
        expected[best] += math.prod(base[answer] for answer in draw)
    assert optima.best_of(world.base, world.rewards, 4)[0].tolist() == pytest.approx(expected)


def test_the_command_prints_the_table_and_writes_it(tmp_path):
    ended = hanlin("prove", "--only", "dpo", "--seeds", "2", "--json", tmp_path / "table.json")
    assert ended.returncode == 0, ended.stderr
    assert "DPO, all pairs" in ended.stdout
    rows = json.loads((tmp_path / "table.json").read_text())["proofs"]
    assert [row["seed"] for row in rows] == [0, 1] and all(row["holds"] for row in rows)
    assert hanlin("prove", "--only", "nothing").returncode == 2

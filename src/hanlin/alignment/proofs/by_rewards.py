"""Proofs of the reward model: the rewards that it learns, and how well it orders answers."""

from __future__ import annotations

import torch
from torch import Tensor

from hanlin.alignment.proofs import optima
from hanlin.alignment.proofs.by_pairs import all_pairs, share_won
from hanlin.alignment.proofs.table import Space, TableReward
from hanlin.alignment.proofs.worlds import SHORT, Proof, Stationary, World, run
from hanlin.alignment.reward import RewardSettings, reward_objective

LABELS = 200
"""Drawn labels of each of the 105 pairs"""
DRAWS = 20_000
"""Of the estimate's error, for the bound on what may be lost"""


def learned(space: Space, chance: Tensor, centring: float, seed: int) -> Tensor:
    """The rewards [prompts, answers] of a table trained by the stage `reward`'s objective on all pairs, of which the
    first is preferred with probability `chance`."""
    model = TableReward(space)
    objective = reward_objective(RewardSettings(model="", centring=centring))
    run(model, objective, Stationary(all_pairs(space, chance)), 300, 0.05, seed)
    return model.all()


def centred(rewards: Tensor) -> Tensor:
    """Less their mean, of each prompt."""
    return rewards - rewards.mean(1, keepdim=True)


def expected_accuracy(found: Tensor, chance: Tensor, space: Space) -> float:
    """The share of new Bradley-Terry labels, over all pairs alike, with which the rewards `found` agree; a tie agrees
    with half of them."""
    first, second = torch.tensor(space.pairs).unbind(1)
    p = chance[:, first, second]
    sign = torch.sign(found[:, first] - found[:, second])
    return float((0.5 + sign * (p - 0.5)).mean())


def recovers(seed: int) -> Proof:
    """From all pairs, without centring: r up to a constant."""
    world = World.drawn(SHORT, seed)
    found = learned(SHORT, optima.preferred(world.rewards), 0.0, seed)
    true = centred(world.rewards)
    return Proof(
        "reward model, all pairs",
        seed,
        float((centred(found) - true).abs().max()),
        float(true.abs().max()),
        1e-5,
        0.2,
        "largest error of a reward, up to a constant; control: untrained",
    )


def centring(seed: int) -> Proof:
    """From all pairs, with the stage's usual centring: where the penalty leads, a little nearer to 0 than r."""
    world = World.drawn(SHORT, seed)
    chance = optima.preferred(world.rewards)
    usual = RewardSettings(model="").centring
    found = learned(SHORT, chance, usual, seed)
    predicted = optima.centred_rewards(chance, usual)
    true = centred(world.rewards)
    scale = float((centred(found) * true).sum() / true.square().sum())
    lost = expected_accuracy(true, chance, SHORT) - expected_accuracy(found, chance, SHORT)
    return Proof(
        "reward model, centring",
        seed,
        float((found - predicted).abs().max()),
        float((centred(found) - true).abs().max()),
        1e-5,
        0.01,
        f"largest error of a reward, from the minimum with centring {usual:g}; control: from r, up to a constant",
        f"rewards are {scale:.3f} of r, up to a constant; accuracy lost: {lost:.1g}",
    )


def accuracy(seed: int) -> Proof:
    """From labels drawn by Bradley and Terry: the accuracy of the best judge, but for what labels' noise costs.

    The bound is the loss of accuracy that the maximum-likelihood estimate has once in a thousand times, by draws of its
    asymptotic errors.
    """
    world = World.drawn(SHORT, seed)
    chance = optima.preferred(world.rewards)
    share = share_won(chance, torch.full((SHORT.prompts,), LABELS), seed)
    found = learned(SHORT, share, 0.0, seed)
    first, second = torch.tensor(SHORT.pairs).unbind(1)
    ceiling = expected_accuracy(world.rewards, chance, SHORT)
    generator = torch.Generator().manual_seed(seed)
    lost = torch.zeros(DRAWS, dtype=torch.float64)
    for rewards, p in zip(world.rewards, chance):
        error = optima.fitted_scores_error(rewards) / (LABELS * len(first))
        values, vectors = torch.linalg.eigh(error)
        noise = torch.randn(DRAWS, len(rewards), dtype=torch.float64, generator=generator)
        drawn = rewards + noise * values.clamp(min=0).sqrt() @ vectors.T
        gap = p[first, second] - 0.5
        agrees = torch.sign(drawn[:, first] - drawn[:, second])
        lost += (gap.abs() - agrees * gap).mean(1) / SHORT.prompts
    reached = expected_accuracy(found, chance, SHORT)
    return Proof(
        "reward model, accuracy",
        seed,
        ceiling - reached,
        ceiling - 0.5,
        float(lost.quantile(0.999)),
        0.05,
        f"E max(p, 1-p) less the accuracy, from {LABELS * len(first):,} drawn pairs a prompt; bound: lost to the "
        "labels' noise once in 1,000; control: untrained",
        f"accuracy {reached:.4f}, the best judge's {ceiling:.4f}",
    )

"""Proofs of best-of-n: its distribution, and its KL from the reference."""

from __future__ import annotations

import itertools
import math

import torch

from hanlin.alignment.best_of_n import best_place
from hanlin.alignment.proofs import optima
from hanlin.alignment.proofs.table import Space, TableSampler
from hanlin.alignment.proofs.worlds import BANDIT, PAIRS, Proof, World

COUNT = 4
DRAWS = 40_000
MANY = Space(letters=5, longest=4)
"""781 answers"""


def drawn(seed: int) -> Proof:
    """The best of four of the reference's answers, chosen by the stage's own function: its distribution, from 40,000
    draws, against the formula."""
    world = World.drawn(PAIRS, seed)
    samples = TableSampler(PAIRS).sample(world.reference, [0] * DRAWS, COUNT, seed)
    numbers = torch.tensor([int(text) for text in samples.texts])
    rewards = world.rewards[0, numbers].tolist()
    best = [start + best_place(rewards[start : start + COUNT]) for start in range(0, len(rewards), COUNT)]
    found = torch.bincount(numbers[best], minlength=len(PAIRS.answers)).double()[None] / DRAWS
    predicted = optima.best_of(world.base, world.rewards, COUNT)
    return Proof(
        f"best of {COUNT}",
        seed,
        optima.divergence(found, predicted),
        optima.divergence(world.base, predicted),
        # Twice draws · KL is χ² with 6 degrees of freedom: over 27.9 once in 10,000 seeds.
        27.9 / (2 * DRAWS),
        0.1,
        f"KL of {DRAWS:,} draws to the formula; bound: once in 10,000 by chance; control: the reference",
    )


def listed(seed: int) -> Proof:
    """The same by listing all 1,296 draws, with rewards of which some are equal: distribution and KL are the formula's,
    and KL is below log n - (n-1)/n, which reports print."""
    world = World.drawn(BANDIT, seed)
    rewards = (world.rewards * 3).floor()
    base, worth = world.base[0].tolist(), rewards[0].tolist()
    chances = [0.0] * len(base)
    for draw in itertools.product(range(len(base)), repeat=COUNT):
        best = draw[best_place([worth[answer] for answer in draw])]
        chances[best] += math.prod(base[answer] for answer in draw)
    found = torch.tensor([chances], dtype=torch.float64)
    predicted = optima.best_of(world.base, rewards, COUNT)
    kl, bound = optima.divergence(found, world.base), optima.best_of_bound(COUNT)
    error = float((found - predicted).abs().max())
    apart = optima.best_of(world.base, rewards + 1e-6 * world.rewards, COUNT)
    return Proof(
        f"best of {COUNT}, listed",
        seed,
        max(error, abs(kl - optima.divergence(predicted, world.base)), kl - bound),
        float((found - apart).abs().max()),
        1e-12,
        1e-3,
        "largest error of the formula, for each chance and for KL, with ties; control: of the formula without ties",
        f"KL {kl:.4f}, log n - (n-1)/n {bound:.4f}",
    )


def limit(seed: int) -> Proof:
    """Where no answer is likely, KL is log n - (n-1)/n: of 781 answers nearly, of 6 not."""
    generator = torch.Generator().manual_seed(seed)
    gaps, allowed = list[float](), list[float]()
    for space in (MANY, BANDIT):
        shape = (1, len(space.answers))
        base = (0.5 * torch.randn(shape, dtype=torch.float64, generator=generator)).softmax(1)
        rewards = torch.rand(shape, dtype=torch.float64, generator=generator)
        gaps.append(optima.best_of_bound(COUNT) - optima.divergence(optima.best_of(base, rewards, COUNT), base))
        allowed.append(optima.best_of_gap(base, rewards, COUNT))
    return Proof(
        f"best of {COUNT}, {len(MANY.answers)} answers",
        seed,
        gaps[0],
        gaps[1],
        allowed[0],
        0.01,
        "how far KL is below log n - (n-1)/n; bound: from the answers' chances; control: of 6 answers",
    )

"""What each algorithm should reach, computed without it: closed forms, enumeration, or a solver in float64.

Policies here are probabilities [prompts, answers] of every answer, rewards likewise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def tilted(reference: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """π ∝ π_ref · exp(r / β): what maximises E[r] - β KL(π ‖ π_ref) (Rafailov et al. 2023, eq. 4)."""
    return (reference.log() + rewards / beta).softmax(1)


def divergence(policy: Tensor, optimum: Tensor) -> float:
    """KL(π ‖ π*) in nats, the mean over prompts."""
    return float(torch.special.xlogy(policy, policy / optimum).sum(1).mean())


def preferred(rewards: Tensor) -> Tensor:
    """[prompts, answers, answers] the chance that the first is preferred to the second, after Bradley and Terry."""
    return torch.sigmoid(rewards[:, :, None] - rewards[:, None, :])


def identity_preference(reference: Tensor, chance: Tensor, tau: float) -> Tensor:
    """IPO's optimum over all pairs alike: π ∝ π_ref · exp((p(y ≻ others) - 1/2) / τ) (Azar et al. 2023, eq. 12 and 17).

    The regression of h(y, y') = f(y) - f(y') on (p(y ≻ y') - 1/2) / τ has f(y) = its mean over y'.
    """
    return (reference.log() + ((chance - 0.5) / tau).mean(2)).softmax(1)


def direct_preference(reference: Tensor, chance: Tensor, beta: float) -> Tensor:
    """DPO's optimum over all pairs alike when the first of a pair is preferred with probability `chance`: π ∝ π_ref ·
    exp(f / β), f the best fit of a Bradley-Terry model. By Newton's method, to 1e-12."""
    prompts, answers = reference.shape
    found = torch.zeros_like(reference)
    eye = torch.full((answers, answers), 1.0 / answers, dtype=reference.dtype)
    for prompt in range(prompts):
        fit = found[prompt]
        for _ in range(100):
            modelled = torch.sigmoid(fit[:, None] - fit[None, :])
            slope = (chance[prompt] - modelled).fill_diagonal_(0).sum(1)
            spread = (modelled * (1 - modelled)).fill_diagonal_(0)
            # The sum of all is free: the added matrix holds it at 0.
            change = torch.linalg.solve(spread.sum(1).diag() - spread + eye, slope)
            fit = fit + change
            if float(change.abs().max()) < 1e-12:
                break
        found[prompt] = fit
    return (reference.log() + found / beta).softmax(1)


def reverse_held(reference: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """What maximises E[r] - β KL(π_ref ‖ π), where k3 as a loss leads: π = β π_ref / (λ - r), λ so that it sums to 1.
    By bisection."""
    low = rewards.max(1, keepdim=True).values + 1e-12
    high = low + beta + 1.0
    while bool(((beta * reference / (high - rewards)).sum(1) > 1).any()):
        high = high + beta + 1.0
    for _ in range(200):
        middle = (low + high) / 2
        above = (beta * reference / (middle - rewards)).sum(1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return beta * reference / (high - rewards)


def sign_normalised(reference: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """Where GRPO with groups of two leads when it divides by the group's deviation: an answer is then credited with
    ±1/√2 for being the better or the worse one, whatever by, so π ∝ π_ref · exp(E_π[sign(r - r')] / (√2 β)), which has
    π on both sides. By damped iteration, to 1e-13."""
    signs = torch.sign(rewards[:, :, None] - rewards[:, None, :])
    policy = reference
    for _ in range(100_000):
        credit = (signs * policy[:, None, :]).sum(2) / math.sqrt(2)
        following = 0.5 * policy + 0.5 * (reference.log() + credit / beta).softmax(1)
        if float((following - policy).abs().max()) < 1e-13:
            break
        policy = following
    return policy


def best_of(reference: Tensor, rewards: Tensor, count: int) -> Tensor:
    """The distribution of the best of `count` answers drawn from the reference, where no two rewards are equal:
    F(y)^n - F(before y)^n, F the chance of a reward up to y's."""
    order = rewards.argsort(1)
    cumulative = reference.gather(1, order).cumsum(1)
    before = torch.cat([torch.zeros_like(cumulative[:, :1]), cumulative[:, :-1]], 1)
    found = torch.empty_like(reference)
    return found.scatter(1, order, cumulative**count - before**count)


def best_of_bound(count: int) -> float:
    """log n - (n - 1) / n: KL of best-of-n from its reference at most (Beirami et al. 2024; equal where no answer is
    likely)."""
    return math.log(count) - (count - 1) / count

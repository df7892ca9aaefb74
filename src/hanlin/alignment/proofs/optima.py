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
    """The distribution of the best of `count` answers drawn from the reference: F^n - F_before^n for all answers of one
    reward together, F the chance of a reward up to theirs and F_before of one below; answers of equal reward share it
    as the reference does, since the first drawn is taken."""
    smaller = (rewards[:, :, None] > rewards[:, None, :]).to(reference)
    equal = (rewards[:, :, None] == rewards[:, None, :]).to(reference)
    before = (smaller * reference[:, None, :]).sum(2)
    level = (equal * reference[:, None, :]).sum(2)
    return reference / level * ((before + level) ** count - before**count)


def best_of_bound(count: int) -> float:
    """log n - (n - 1) / n: KL of best-of-n from its reference at most (Beirami et al. 2024; equal where no answer is
    likely)."""
    return math.log(count) - (count - 1) / count


def best_of_gap(reference: Tensor, rewards: Tensor, count: int) -> float:
    """By how much KL of best-of-n may fall short of `best_of_bound`, of one prompt whose rewards all differ.

    The bound is KL of the density n u^(n-1) from the uniform one, u = F in [0, 1]; KL of best-of-n is that of its
    masses over the answers' intervals [a, b] of u. The difference is the mean, over answers, of KL within an interval.
    There the log-density spans (n - 1) log(b / a), and a log-density that spans R has a KL of R²/8 at most (Hoeffding's
    lemma); within the first interval, [0, b], it is the whole bound.
    """
    order = rewards[0].argsort()
    chosen = best_of(reference, rewards, count)[0, order]
    ends = reference[0, order].cumsum(0)
    spans = (count - 1) * (ends[1:] / ends[:-1]).log()
    within = torch.minimum(spans.square() / 8, spans)
    return float(chosen[0] * best_of_bound(count) + (chosen[1:] * within).sum())


def centred_rewards(chance: Tensor, weight: float) -> Tensor:
    """What the reward model's loss leads to over all pairs alike, with `weight` times (r + r')² beside it: the best fit
    of a Bradley-Terry model, drawn to 0. By Newton's method, to 1e-12; weight 0: the fit whose mean is 0."""
    prompts, answers, _ = chance.shape
    eye = torch.eye(answers, dtype=chance.dtype)
    ones = torch.ones_like(eye)
    # Σ over pairs of (r + r')² has the matrix (K - 2) I + 1 1ᵀ; without it the mean is free, and is held.
    pull = 2 * weight * ((answers - 2) * eye + ones) if weight else ones
    found = torch.zeros(prompts, answers, dtype=chance.dtype)
    for prompt in range(prompts):
        fit = found[prompt].clone()
        for _ in range(100):
            modelled = torch.sigmoid(fit[:, None] - fit[None, :])
            slope = (chance[prompt] - modelled).fill_diagonal_(0).sum(1) - pull @ fit
            spread = (modelled * (1 - modelled)).fill_diagonal_(0)
            change = torch.linalg.solve(spread.sum(1).diag() - spread + pull, slope)
            fit = fit + change
            if float(change.abs().max()) < 1e-12:
                break
        found[prompt] = fit
    return found


# ---------------------------------------------------------------------- from N labels


def spread_of_labels(rewards: Tensor) -> Tensor:
    """[answers, answers] Σ over pairs of p (1 - p) (e_i - e_j)(e_i - e_j)ᵀ, of one prompt's Bradley-Terry labels."""
    chance = preferred(rewards[None])[0]
    variance = (chance * (1 - chance)).fill_diagonal_(0)
    return variance.sum(1).diag() - variance


def fitted_scores_error(rewards: Tensor) -> Tensor:
    """[answers, answers] N times the covariance of Bradley-Terry scores fitted to N labels, as many of every pair, less
    their mean, for large N: the inverse of the information of one label, as of every fit by maximum likelihood."""
    pairs = len(rewards) * (len(rewards) - 1) / 2
    return pairs * torch.linalg.pinv(spread_of_labels(rewards), hermitian=True, rtol=1e-9)


def direct_preference_error(rewards: Tensor, beta: float) -> Tensor:
    """N times the covariance of log π/π_ref, up to a constant, that DPO finds from N labels: of the fitted scores over
    β."""
    return fitted_scores_error(rewards) / beta**2


def identity_preference_error(rewards: Tensor, tau: float) -> Tensor:
    """The same of IPO, whose log π/π_ref is the mean over the others of (share of labels won - 1/2) / τ."""
    pairs = len(rewards) * (len(rewards) - 1) / 2
    return pairs * spread_of_labels(rewards) / (tau * len(rewards)) ** 2


def expected_divergence(policy: Tensor, error: Tensor) -> tuple[float, float]:
    """(mean, standard deviation) of N · KL(π ‖ π*), for large N, where log π has errors of covariance `error` / N.

    KL is then δᵀ A δ / 2 with A = diag(π*) - π* π*ᵀ and normal δ: mean tr(A C) / 2, variance tr((A C)²) / 2.
    """
    product = (policy.diag() - torch.outer(policy, policy)) @ error
    return float(product.trace()) / 2, math.sqrt(float((product @ product).trace()) / 2)

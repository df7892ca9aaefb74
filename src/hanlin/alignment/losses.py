"""What each direct method minimises: DPO and its family, side by side.

All take sums over an answer's tokens, log π(y|x), of the policy and (where there is one) of the reference. Of pairs,
column 0 is the chosen answer and column 1 the rejected one. Δ = log π(y|x) - log π_ref(y|x) throughout, and
h = Δ(chosen) - Δ(rejected). Every function returns one loss a pair (or answer), not reduced.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dpo(delta: Tensor, beta: float) -> Tensor:
    """-log σ(β h) (Rafailov et al. 2023, eq. 7); delta [P, 2] -> [P]."""
    return -F.logsigmoid(beta * _gap(delta))


def robust_dpo(delta: Tensor, beta: float, flip: float) -> Tensor:
    """DPO's loss as it would be without noise, in expectation, when a share `flip` < 1/2 of the labels is wrong
    (Chowdhury et al. 2024, eq. 12): ((1-ε) L(h) - ε L(-h)) / (1-2ε)."""
    gap = beta * _gap(delta)
    return -((1 - flip) * F.logsigmoid(gap) - flip * F.logsigmoid(-gap)) / (1 - 2 * flip)


def ipo(delta: Tensor, beta: float) -> Tensor:
    """(h - 1/(2β))² (Azar et al. 2023, eq. 17, whose τ is β); delta [P, 2] -> [P]."""
    return (_gap(delta) - 1 / (2 * beta)).square()


def kto(delta: Tensor, desirable: Tensor, baseline: Tensor, beta: float, weights: tuple[float, float]) -> Tensor:
    """λ (1 - σ(±β (Δ - z))) of single answers (Ethayarajh et al. 2024, eq. 8), + for desirable ones.

    delta [S]; desirable bool [S]; baseline z [] or [S], a KL ≥ 0 without gradient; weights (λ_D, λ_U).
    """
    sign = torch.where(desirable, 1.0, -1.0).to(delta)
    weight = torch.where(desirable, weights[0], weights[1]).to(delta)
    return weight * torch.sigmoid(-sign * beta * (delta - baseline))


def orpo(logp: Tensor, lengths: Tensor, weight: float) -> Tensor:
    """-log p̄(chosen) - λ log σ(log odds(chosen) / odds(rejected)), p̄ the geometric mean over tokens (Hong et al. 2024,
    eq. 6 and 7); logp and lengths [P, 2] -> [P]. There is no reference."""
    mean = logp / lengths
    odds = mean - _log1mexp(mean)
    return -mean[:, 0] - weight * F.logsigmoid(odds[:, 0] - odds[:, 1])


def simpo(logp: Tensor, lengths: Tensor, beta: float, margin: float) -> Tensor:
    """-log σ(β (mean log p(chosen) - mean log p(rejected)) - γ) (Meng et al. 2024, eq. 6); [P, 2] -> [P]."""
    mean = logp / lengths
    return -F.logsigmoid(beta * (mean[:, 0] - mean[:, 1]) - margin)


def rrhf(logp: Tensor, lengths: Tensor, scores: Tensor, weight: float) -> Tensor:
    """Σ over pairs with score_i < score_j of max(0, p_i - p_j), and `weight` times -log π of the best answer, for one
    ranking (Yuan et al. 2023, eq. 2 to 4); all [K] -> []. p is the mean log-probability of a token."""
    mean = logp / lengths
    worse = scores[:, None] < scores[None, :]
    ranking = torch.where(worse, F.relu(mean[:, None] - mean[None, :]), 0.0).sum()
    return ranking - weight * logp[int(scores.argmax())]


def bradley_terry(rewards: Tensor, margins: Tensor | None = None) -> Tensor:
    """-log σ(r(chosen) - r(rejected) - m) (Bradley & Terry 1952; with a margin Touvron et al. 2023, eq. 2);
    rewards [P, 2], margins [P] -> [P]."""
    gap = _gap(rewards)
    return -F.logsigmoid(gap if margins is None else gap - margins)


def _gap(values: Tensor) -> Tensor:
    return values[:, 0] - values[:, 1]


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) of x < 0 without cancellation (Mächler 2012)."""
    x = x.clamp(max=-1e-7)
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))

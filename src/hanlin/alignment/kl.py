"""The policy's distance from its reference: estimators of it, and what its price is."""

from __future__ import annotations

import math

from torch import Tensor

from hanlin.alignment.policy_settings import Estimator, KlSettings


def estimate(logprobs: Tensor, reference: Tensor, estimator: Estimator) -> Tensor:
    """KL(π ‖ π_ref) from tokens drawn from π, one estimate a token (Schulman 2020, "Approximating KL divergence"): with
    d = log π - log π_ref, k1 = d, k2 = d² / 2, k3 = e^-d - 1 + d. k1 and k3 are unbiased, k3 is never negative."""
    difference = logprobs - reference
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    return (-difference).exp() - 1 + difference


def next_coefficient(coefficient: float, measured: float, answers: int, settings: KlSettings) -> float:
    """β after a rollout of `answers` whose KL was `measured` nats an answer (Ziegler et al. 2019, section 2.2, whose
    1 + x is e^x here)."""
    if settings.target is None:
        return coefficient
    error = min(0.2, max(-0.2, measured / settings.target - 1))
    # Never 0 or below, however short the horizon: a policy must not be paid for leaving its reference.
    return coefficient * math.exp(error * answers / settings.horizon)

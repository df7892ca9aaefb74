"""Expected loss of a model of a given size after given tokens: the law by which shapes are compared."""

from __future__ import annotations

import math

# Fit of Besiroglu et al. 2024 ("Chinchilla scaling: a replication attempt", table 1) to Hoffmann et al. 2022:
# L = E + A / N^a + B / D^b in nats a token of their tokenizer. Only comparisons between shapes on one corpus are made
# with it, so its constant term plays no part.
E, A, B, ALPHA, BETA = 1.8172, 482.01, 2085.43, 0.3478, 0.3658
HALF_LIFE = 15.39
"""Epochs over which a repetition's worth decays by 1/e (Muennighoff et al. 2023, section 3.2: R*_D)."""


def effective_tokens(tokens: float, unique: float) -> float:
    """What `tokens` seen are worth when only `unique` are distinct (Muennighoff et al. 2023, eq. 5)."""
    if tokens <= unique:
        return tokens
    repetitions = tokens / unique - 1
    return unique + unique * HALF_LIFE * (1 - math.exp(-repetitions / HALF_LIFE))


def expected_loss(parameters: float, tokens: float, unique: float) -> float:
    """Nats a token for a model of `parameters` (embedding excluded, head included) after `tokens` of training."""
    return E + A / parameters**ALPHA + B / effective_tokens(tokens, unique) ** BETA


def batch_tokens(flops: float) -> float:
    """Tokens a step that train best at this compute (DeepSeek LLM, Bi et al. 2024, eq. 1: 0.2920 · C^0.3271)."""
    return 0.2920 * flops**0.3271

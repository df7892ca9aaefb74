"""Expected loss of a model of a given size after given tokens: the law by which shapes are compared; and the batch."""

from __future__ import annotations

import math

# L = E + A / N^a + B / D^b in nats a token (Hoffmann et al. 2022, eq. 2), with the constants that Besiroglu et al. 2024
# found for it ("Chinchilla scaling: a replication attempt", table 1), but for A. Their models are a thousand times
# larger than the smallest here, and of AdamW; with A = 482 the law chose models that were too small. 900 gives the
# order of the runs in docs/benchmarks.md ("One dial"), and far from them 8 tokens a weight where 482 gives 20.
# Only comparisons between shapes on one corpus are made with it, so its constant term plays no part.
E, A, B, ALPHA, BETA = 1.8172, 900.0, 2085.43, 0.3478, 0.3658
HALF_LIFE = 15.39
"""Epochs over which a repetition's worth decays by 1/e (Muennighoff et al. 2023, appendix A: R*_D)."""
STEP_TOKENS = 2.0
"""Tokens of a step by the root of the run's tokens: 2,000 at a million, 0.6 million at a hundred billion."""


def effective_tokens(tokens: float, unique: float) -> float:
    """What `tokens` seen are worth when only `unique` are distinct (Muennighoff et al. 2023, eq. 5)."""
    if tokens <= unique:
        return tokens
    repetitions = tokens / unique - 1
    return unique + unique * HALF_LIFE * (1 - math.exp(-repetitions / HALF_LIFE))


def expected_loss(parameters: float, tokens: float, unique: float) -> float:
    """Nats a token for a model of `parameters` (embedding excluded, head included) after `tokens` of training."""
    return E + A / parameters**ALPHA + B / effective_tokens(tokens, unique) ** BETA


def step_tokens(tokens: float) -> float:
    """Tokens a step that train best in a run of `tokens`.

    The batch above which tokens are wasted grows with the data and hardly with the model (Zhang et al. 2024, "How does
    critical batch size scale in pre-training?"). The root and its factor are ours: they fit the small runs measured
    here, and half a million tokens a step at a hundred billion, where the field is.
    """
    return STEP_TOKENS * tokens**0.5

"""Reward against distance: how far optimising a reward went, and when it stopped to pay.

Gao et al. 2023 ("Scaling Laws for Reward Model Overoptimization", eq. 1 and 2): with d = sqrt(KL), the gold reward
gained is d (α - β d) under best-of-n, and d (α - β log d) under reinforcement learning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal


def fit_curve(
    curve: Sequence[dict[str, float]], measure: str, form: Literal["rl", "best-of-n"] = "rl"
) -> dict[str, Any] | None:
    """Fit Gao's form to rollouts' `measure` over their `kl_answer` by least squares, both coefficients and the reward
    at distance 0 free. None where fewer than 5 rollouts are away from the reference.

    Returns {alpha, beta, start, rms (of the residuals), points, peak_kl (where the fit is highest; none: it never
    falls within reach), measure, form}.
    """
    import numpy as np

    points = [(math.sqrt(row["kl_answer"]), row[measure]) for row in curve if row["kl_answer"] > 1e-6]
    if len(points) < 5:
        return None
    distance, reward = (np.array(column) for column in zip(*points))
    second = -distance * np.log(distance) if form == "rl" else -distance * distance
    table = np.stack([distance, second, np.ones_like(distance)], 1)
    (alpha, beta, start), *_ = np.linalg.lstsq(table, reward, rcond=None)
    peak: float | None = None
    if beta > 0:
        at = math.exp(min(50.0, alpha / beta - 1)) if form == "rl" else alpha / (2 * beta)
        peak = float(at * at) if at > 0 else None
    return {
        "alpha": float(alpha),
        "beta": float(beta),
        "start": float(start),
        "rms": float(np.sqrt(np.mean((table @ np.array([alpha, beta, start]) - reward) ** 2))),
        "points": len(points),
        "peak_kl": peak,
        "measure": measure,
        "form": form,
    }

"""Reward against distance: how far optimising a reward went, and when it stopped to pay.

Gao et al. 2023 ("Scaling Laws for Reward Model Overoptimization", eq. 1 and 2): with d = sqrt(KL), the gold reward
gained is d (α - β d) under best-of-n, and d (α - β log d) under reinforcement learning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

LEAST_POINTS = 6
"""Points of different distance that a fit needs: twice as many as it has coefficients."""
SURE = 3.0
"""So many standard errors must a slope be away from 0 to be called a rise or a fall."""

Form = Literal["rl", "best-of-n"]


def fit_curve(curve: Sequence[Mapping[str, float]], measure: str, form: Form = "rl") -> dict[str, Any] | None:
    """Fit Gao's form to `measure` over `kl_answer` by least squares: both coefficients, and the reward at distance 0.
    An estimate of KL below 0 counts as 0. None where there are fewer than `LEAST_POINTS` distances, or they lie so that
    the coefficients cannot be told apart.

    Returns {alpha, beta, start, alpha_error, beta_error (standard errors, of points that err independently), rms (of
    the residuals), points, farthest (the largest distance), slope and slope_error (there), course ("rises", "falls",
    "level": the slope there, if it is beyond its error), peak_kl (where the fit is highest; none: it never falls
    within reach), measure, form}.
    """
    import numpy as np

    points = measured(curve, measure)
    if len({distance for distance, _ in points}) < LEAST_POINTS:
        return None
    distance, reward = (np.array(column) for column in zip(*points))
    table = np.stack([distance, -_bend(distance, form), np.ones_like(distance)], 1)
    if np.linalg.matrix_rank(table) < 3:
        return None
    found = np.linalg.lstsq(table, reward, rcond=None)[0]
    alpha, beta, start = found.tolist()
    residuals = table @ found - reward
    spread = np.linalg.pinv(table.T @ table) * float(residuals @ residuals) / (len(points) - 3)
    peak: float | None = None
    if beta > 0:
        at = math.exp(min(50.0, alpha / beta - 1)) if form == "rl" else alpha / (2 * beta)
        peak = at * at if at > 0 else None
    farthest = float(distance.max())
    along = np.array([1.0, -(1 + math.log(farthest)) if form == "rl" else -2 * farthest, 0.0])
    slope, error = float(along @ found), math.sqrt(max(0.0, float(along @ spread @ along)))
    return {
        "alpha": alpha,
        "beta": beta,
        "start": start,
        "alpha_error": math.sqrt(max(0.0, float(spread[0, 0]))),
        "beta_error": math.sqrt(max(0.0, float(spread[1, 1]))),
        "rms": float(np.sqrt(np.mean(residuals**2))),
        "points": len(points),
        "farthest": farthest,
        "slope": slope,
        "slope_error": error,
        "course": "level" if abs(slope) <= SURE * error else "rises" if slope > 0 else "falls",
        "peak_kl": peak,
        "measure": measure,
        "form": form,
    }


def measured(curve: Sequence[Mapping[str, float]], measure: str) -> list[tuple[float, float]]:
    """(distance, value) of the points that have both, the nearest first: distance is sqrt(KL of an answer, nats)."""
    pairs = [(row.get("kl_answer"), row.get(measure)) for row in curve]
    known = [(math.sqrt(max(0.0, kl)), value) for kl, value in pairs if kl is not None and value is not None]
    return sorted(pair for pair in known if all(map(math.isfinite, pair)))


def fitted(fit: Mapping[str, Any], distance: float) -> float:
    """The value of a fit at a distance."""
    bend = distance * distance
    if fit["form"] == "rl":
        bend = distance * math.log(distance) if distance > 0 else 0.0
    return fit["start"] + fit["alpha"] * distance - fit["beta"] * bend


def _bend(distance: Any, form: Form) -> Any:
    """What β is multiplied by: d log d, which is 0 at 0, or d²."""
    import numpy as np

    return distance * np.log(np.where(distance > 0, distance, 1.0)) if form == "rl" else distance * distance

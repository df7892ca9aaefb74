"""Spikes: noticing them, and writing down what the batch held and which tokens were hard."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hanlin.training.settings import SpikeSettings

RARE = 100
"""A token seen fewer times than this in training counts as rare: its embedding has hardly been trained."""
TOKENS_REPORTED = 50


@dataclass
class Detector:
    """Compares each step to the accepted ones before it.

    A loss is a spike when it stands above the present level by `least_rise`, by `loss_deviations` standard deviations
    of the usual noise, and by twice the highest rise among the accepted steps; the gradient norm's logarithm likewise.
    """

    settings: SpikeSettings
    least_norm: float = 0.0
    """Gradient norms up to this one are never spikes, however small those before were."""
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    """Natural logarithms of gradient norms."""

    def judge(self, loss: float, norm: float) -> dict[str, Any] | None:
        """Why this step is a spike ({measure, value, median, deviation, deviations}), or None."""
        for measure, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                return {"measure": measure, "value": None, "median": None, "deviation": None, "deviations": None}
        if not self.settings.enabled or len(self.losses) < self.settings.minimum:
            return None
        settings = self.settings
        level, deviation = robust(self.losses)
        needed = max(settings.least_rise, settings.loss_deviations * deviation, 2 * highest_rise(self.losses))
        if loss > level + needed:
            return _reason("loss", loss, level, deviation, loss - level)
        log_norm = math.log(max(norm, 1e-30))
        level, deviation = robust(self.norms)
        needed = max(math.log(5), settings.gradient_deviations * deviation, 2 * highest_rise(self.norms))
        if norm > self.least_norm and log_norm > level + needed:
            return _reason("gradient norm", norm, math.exp(level), deviation, log_norm - level)
        return None

    def accept(self, loss: float, norm: float) -> None:
        """Remember an ordinary step."""
        self.losses.append(loss)
        self.norms.append(math.log(max(norm, 1e-30)))
        del self.losses[: -self.settings.window], self.norms[: -self.settings.window]

    def state(self) -> dict[str, list[float]]:
        return {"losses": self.losses, "norms": self.norms}

    def load(self, state: dict[str, list[float]]) -> None:
        self.losses, self.norms = list(state["losses"]), list(state["norms"])


def robust(values: Sequence[float]) -> tuple[float, float]:
    """The present level of a noisy, slowly moving series, and the standard deviation of its noise.

    Level: the median of the last nine values. Noise: 1.4826 · the median of |successive differences| / √2, which is the
    standard deviation were the noise normal and independent (von Neumann 1941, with a median in place of the mean).
    Unlike the MAD around one median it does not take the loss's fall early in training for noise; a fifth of the values
    may be outliers.
    """
    level = statistics.median(values[-9:])
    steps = [abs(after - before) for before, after in itertools.pairwise(values)]
    return level, 1.4826 * statistics.median(steps) / math.sqrt(2) if steps else 0.0


def highest_rise(values: Sequence[float]) -> float:
    """How far a value has stood above the level before it, at most: noise with a long tail (batches of a few short
    conversations, a mixture of easy and hard sources) is known by it, which no median shows."""
    rises = [value - statistics.median(values[place - 9 : place]) for place, value in enumerate(values) if place >= 9]
    return max(rises, default=0.0)


def _reason(measure: str, value: float, level: float, deviation: float, rise: float) -> dict[str, Any]:
    deviations = rise / deviation if deviation else None
    return {"measure": measure, "value": value, "median": level, "deviation": deviation, "deviations": deviations}


def batch_of_step(step: int, skipped: Sequence[int]) -> int:
    """The position in the data of training step `step` (both from 0): the step-th one that is not in `skipped`."""
    position = step
    for passed in sorted(skipped):
        if passed <= position:
            position += 1
    return position


def in_a_row(history: Sequence[dict[str, Any]], step: int, recovery: int) -> int:
    """How many spikes in a row a spike at `step` makes, itself counted: the count starts anew when training got
    `recovery` steps past the furthest step that the row had reached."""
    row, furthest = 0, -1
    for past in history:
        row = row + 1 if row and past["step"] <= furthest + recovery else 1
        furthest = past["step"] if row == 1 else max(furthest, past["step"])
    return row + 1 if row and step <= furthest + recovery else 1


def documents_of(trace: list[dict[str, Any]], losses: Tensor, trained: Tensor) -> list[dict[str, Any]]:
    """The batch's documents with their mean losses, the hardest first.

    trace: as `Source.trace` gives it, each entry with `row` and `positions` [first, last]; losses, trained [B, T].
    """
    found: list[dict[str, Any]] = []
    for entry in trace:
        first, last = entry["positions"]
        here = trained[entry["row"], first : last + 1]
        count = int(here.sum())
        total = float(losses[entry["row"], first : last + 1][here].double().sum()) if count else 0.0
        found.append({**entry, "trained_tokens": count, "loss": _finite(total / count) if count else None})
    return sorted(found, key=lambda entry: -math.inf if entry["loss"] is None else -entry["loss"])


def hardest_tokens(
    labels: Tensor, losses: Tensor, trained: Tensor, counts: Tensor | None, spell: Callable[[int], str] | None
) -> list[dict[str, Any]]:
    """The labels with the highest losses: {id, text, loss, row, position, seen}; `seen` is how often the training data
    has the token, where that is known."""
    masked = torch.where(
        trained, losses.double().nan_to_num(posinf=1e30), torch.full_like(losses, -1.0, dtype=torch.float64)
    )
    flat = masked.reshape(-1)
    values, places = flat.topk(min(TOKENS_REPORTED, int(trained.sum())))
    found: list[dict[str, Any]] = []
    for value, place in zip(values.tolist(), places.tolist()):
        row, position = divmod(place, labels.shape[1])
        token = int(labels[row, position])
        found.append(
            {
                "id": token,
                "text": spell(token) if spell else None,
                "loss": _finite(value),
                "row": row,
                "position": position,
                "seen": int(counts[token]) if counts is not None else None,
            }
        )
    return found


def rare_share(tokens: list[dict[str, Any]]) -> float | None:
    """Which share of the hardest tokens is rare; None where counts are not known."""
    known = [token["seen"] for token in tokens if token["seen"] is not None]
    return sum(seen < RARE for seen in known) / len(known) if known else None


def standing_out(documents: list[dict[str, Any]], usual: float | None) -> list[dict[str, Any]]:
    """Documents (of at least 8 trained tokens) whose loss is far above what is usual: the median of the batch's
    documents, or the run's loss before the spike, whichever is less."""
    known = [entry for entry in documents if entry["loss"] is not None and entry["trained_tokens"] >= 8]
    if not known:
        return []
    median = statistics.median(entry["loss"] for entry in known)
    median = median if usual is None else min(median, usual)
    return [entry for entry in known if entry["loss"] > max(1.5 * median, median + 0.5)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) and value < 1e29 else None

"""Gates: the model before and after a stage on the same items; a paired test says whether the run may go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from hanlin.artifacts import HanlinError, Settings

if TYPE_CHECKING:
    from hanlin.evaluation.statistics import Comparison

LOWER_IS_BETTER = frozenset({"bits_per_byte"})


class Gate(Settings):
    """One condition on the model just trained."""

    task: str
    """Name of a task of this exam."""
    metric: str = ""
    """One of the task's metrics; none: its first (accuracy, or bits_per_byte)."""
    require: Literal["better", "not-worse"]
    """`better`: the gain over the model before is shown to be more than `margin`. `not-worse`: a loss of `margin` or
    more is ruled out (a test of non-inferiority). Both are claims that the data must support: too few items stop the
    run."""
    margin: float = Field(default=0.0, ge=0)
    """In the metric's unit (0.02 = two points of accuracy, 0.02 bits per byte). `not-worse` needs one above 0: that
    nothing at all was lost cannot be shown from a sample."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """The test's level: the chance that a model that does not meet the condition passes."""

    @model_validator(mode="after")
    def _check(self) -> Gate:
        if self.require == "not-worse" and self.margin == 0:
            raise ValueError(
                "`require: not-worse` needs a `margin` above 0, such as 0.02: the loss that you would accept"
            )
        return self


def decide(
    gate: Gate,
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
    before_name: str,
) -> dict[str, Any]:
    """The verdict on one gate, for figures and for people.

    `before` and `after` map item ids to the item's values (metric → 0/1, or bits and bytes). Only items that both
    models were asked are compared; of the model just trained, none may be missing unless `before` was asked fewer on
    purpose.

    Returns {task, metric, require, margin, alpha, before, after, difference, low, high, p_value, n, test, passed,
    text}; `difference` is after − before in the metric's own direction. Raises HanlinError when nothing can be
    compared.
    """
    shared = [item for item in after if item in before and _comparable(before[item], after[item])]
    if not shared:
        raise HanlinError(f"gate on {gate.task}: the models before and after were not asked a single item in common.")
    metric = gate.metric or _first_metric(after[shared[0]])
    old, new = [before[item] for item in shared], [after[item] for item in shared]
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    threshold = gate.margin if gate.require == "better" else -gate.margin
    comparison, first, second = _compare(gate, metric, old, new, sign, threshold)
    low, high = sorted((sign * comparison.low, sign * comparison.high))
    passed = comparison.p_value < gate.alpha
    verdict: dict[str, Any] = {
        "task": gate.task,
        "metric": metric,
        "require": gate.require,
        "margin": gate.margin,
        "alpha": gate.alpha,
        "before": first,
        "before_model": before_name,
        "after": second,
        "difference": sign * comparison.difference,
        "low": low,
        "high": high,
        "p_value": comparison.p_value,
        "n": comparison.n,
        "test": comparison.test,
        "passed": passed,
    }
    verdict["text"] = describe(verdict)
    return verdict


def _comparable(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    """A document that was cut elsewhere is not the same item."""
    return before.get("bytes") == after.get("bytes")


def _first_metric(values: Mapping[str, float]) -> str:
    return "bits_per_byte" if "bits" in values else next(iter(values))


def _compare(
    gate: Gate,
    metric: str,
    old: Sequence[Mapping[str, float]],
    new: Sequence[Mapping[str, float]],
    sign: float,
    threshold: float,
) -> tuple[Comparison, float, float]:
    """The comparison with gains counted positive, and the metric before and after."""
    # numpy is for those who compare: the settings above are read by every `hanlin run`.
    from hanlin.evaluation.statistics import paired_proportions, paired_ratio

    if metric == "bits_per_byte" and "bits" in new[0]:
        if len(new) < 2:
            raise HanlinError(f"gate on {gate.task}: one document alone can't be tested; hold out more.")
        sizes = [row["bytes"] for row in new]
        first, second = ([sign * row["bits"] for row in rows] for rows in (old, new))
        comparison = paired_ratio(first, second, sizes, threshold)
        total = sum(sizes)
        return comparison, sum(row["bits"] for row in old) / total, sum(row["bits"] for row in new) / total
    if metric not in new[0]:
        known = ["bits_per_byte"] if "bits" in new[0] else list(new[0])
        raise HanlinError(f"gate on {gate.task}: it has no metric {metric!r}. Metrics: {', '.join(known)}.")
    first, second = [row[metric] for row in old], [row[metric] for row in new]
    return paired_proportions(first, second, threshold), sum(first) / len(first), sum(second) / len(second)


def describe(verdict: Mapping[str, Any]) -> str:
    """A verdict for people: the numbers, and what was asked."""
    head = (
        f"{verdict['task']}, {verdict['metric']}: {verdict['before']:.4g} ({verdict['before_model']}) → "
        f"{verdict['after']:.4g}, difference {verdict['difference']:+.4g} (95 % interval {verdict['low']:+.4g} to "
        f"{verdict['high']:+.4g}, {verdict['n']} items, p = {verdict['p_value']:.2g}, {verdict['test']})"
    )
    if verdict["require"] == "better":
        asked = "a gain" if verdict["margin"] == 0 else f"a gain of more than {verdict['margin']:g}"
    else:
        asked = f"that a loss of {verdict['margin']:g} or more be ruled out"
    return f"{head}; it asks for {asked} at p < {verdict['alpha']:g}."

"""Gates: the model before and after a stage on the same items; a paired test says whether the run may go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from hanlin.artifacts import HanlinError, Settings

if TYPE_CHECKING:
    from hanlin.evaluation.statistics import Comparison

Values = Mapping[str, float]
"""An item's metrics, or its bits and bytes."""
LOWER_IS_BETTER = frozenset({"bits_per_byte", "refused", "refused_answerable", "complied", "invented"})


class Gate(Settings):
    """One condition on the model just trained."""

    task: str
    """Name of a task of this exam."""
    metric: str = ""
    """One of the task's metrics; none: its first (accuracy, score or bits_per_byte)."""
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
    before: Mapping[str, Values],
    after: Mapping[str, Values],
    before_name: str,
) -> dict[str, Any]:
    """The verdict on one gate, for figures and for people.

    `before` and `after` map item ids to the item's values (metric → 0 to 1, or bits and bytes). Only items that both
    models were asked are compared; of the model just trained, none may be missing unless `before` was asked fewer on
    purpose.

    Returns {task, metric, require, margin, alpha, before, after, difference, low, high, p_value, n, test, passed,
    text}; `difference` is after − before in the metric's own direction. Raises HanlinError when nothing can be
    compared.
    """
    pairs = pair_items(before, after)
    if not pairs:
        raise HanlinError(f"gate on {gate.task}: the models before and after were not asked a single item in common.")
    known = metrics_of([new for _, new in pairs.values()])
    metric = gate.metric or known[0]
    if metric not in known:
        raise HanlinError(f"gate on {gate.task}: it has no metric {metric!r}. Metrics: {', '.join(known)}.")
    old, new = values_of(metric, pairs.values())
    if metric == "bits_per_byte" and len(new) < 2:
        raise HanlinError(f"gate on {gate.task}: one document alone can't be tested; hold out more.")
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    threshold = gate.margin if gate.require == "better" else -gate.margin
    comparison, first, second = compare_values(metric, old, new, threshold)
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


def pair_items(before: Mapping[str, Values], after: Mapping[str, Values]) -> dict[str, tuple[Values, Values]]:
    """Item id → its values before and after, of the items that both models were asked. A document that was cut
    elsewhere is not the same item."""
    return {
        item: (before[item], new)
        for item, new in after.items()
        if item in before and before[item].get("bytes") == new.get("bytes")
    }


def metrics_of(items: Iterable[Values]) -> list[str]:
    """The metrics that the items have between them, the first one first."""
    names = dict.fromkeys(name for values in items for name in values)
    return ["bits_per_byte"] if "bits" in names else list(names)


def values_of(metric: str, pairs: Iterable[tuple[Values, Values]]) -> tuple[list[Values], list[Values]]:
    """The values before and after of those items that `metric` says something of."""
    needed = "bits" if metric == "bits_per_byte" else metric
    having = [(old, new) for old, new in pairs if needed in old and needed in new]
    return [old for old, _ in having], [new for _, new in having]


def compare_values(
    metric: str, old: Sequence[Values], new: Sequence[Values], threshold: float = 0.0, seed: int = 0
) -> tuple[Comparison, float, float]:
    """(the comparison with gains counted positive, the metric before, the metric after); all values have the metric.

    A gain is a rise, or a fall of what is better lower. `threshold` and the p-value are those of
    `statistics.Comparison`; bits per byte need two documents or more.
    """
    # numpy is for those who compare: the settings above are read by every `hanlin run`.
    from hanlin.evaluation.statistics import paired_ratio, paired_scores

    if metric == "bits_per_byte":
        sizes = [row["bytes"] for row in new]
        first, second = ([-row["bits"] for row in rows] for rows in (old, new))
        total = sum(sizes)
        return paired_ratio(first, second, sizes, threshold, seed), -sum(first) / total, -sum(second) / total
    first, second = [row[metric] for row in old], [row[metric] for row in new]
    means = sum(first) / len(first), sum(second) / len(second)
    if metric in LOWER_IS_BETTER:  # how seldom the failing is
        first, second = [1 - value for value in first], [1 - value for value in second]
    return paired_scores(first, second, threshold, seed), *means


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

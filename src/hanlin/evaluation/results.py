"""From marks to figures: every metric with its interval, whole and by tag."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hanlin.evaluation.items import Item
from hanlin.evaluation.scoring import Mark
from hanlin.evaluation.statistics import bootstrap_ratio, bounded_mean
from hanlin.evaluation.tasks import Task

Figures = dict[str, dict[str, Any]]
"""Metric → {value, low, high, n, standard_error, …}."""

MOST_TAG_VALUES = 40
"""A tag with more values than this is a name, not a class: results are not broken down by it."""


def summarise(task: Task, marks: Sequence[Mark], items: Sequence[Item] = ()) -> Figures:
    """The task's metrics over `marks`, each over the items that have it. Shares have Wilson intervals, mean scores the
    like of them; bits per byte a bootstrap over documents."""
    if task.kind == "bits_per_byte":
        estimate = bits_figure(marks)
        return {} if estimate is None else {"bits_per_byte": estimate}
    extra: dict[str, Any] = {}
    if task.kind == "choice" and items:
        extra["chance"] = sum(1 / len(item.choices) for item in items) / len(items)
    found: dict[str, list[float]] = {name: [] for name in task.metrics}
    for mark in marks:
        for name, value in mark.values.items():
            found[name].append(value)
    return {name: bounded_mean(values).as_dict(**extra) for name, values in found.items() if values}


def bits_figure(marks: Sequence[Mark]) -> dict[str, Any] | None:
    """Bits per byte over documents. With a single document its parts are resampled instead, which is said in
    `resampled`.

    None for a single document of a single token, which has no spread at all.
    """
    rows = [(mark.values["bits"], mark.values["bytes"]) for mark in marks]
    unit = "documents"
    if len(rows) == 1:
        rows, unit = list(marks[0].parts), "parts of one document"
    if len(rows) < 2:
        return None
    estimate = bootstrap_ratio([row[0] for row in rows], [row[1] for row in rows])
    total = round(sum(row[1] for row in rows))
    return {**estimate.as_dict(bytes=total, resampled=unit), "n": len(marks)}


def break_down(task: Task, marks: Sequence[Mark], items: Sequence[Item] = ()) -> dict[str, Figures]:
    """`tag=value` → the task's metrics over the items with that tag, for tags that have two values or more."""
    by_id = {item.id: item for item in items}
    table: dict[str, Figures] = {}
    for key in sorted({key for mark in marks for key in mark.tags}):
        values = sorted({mark.tags[key] for mark in marks if key in mark.tags})
        if not 2 <= len(values) <= MOST_TAG_VALUES:
            continue
        for value in values:
            chosen = [mark for mark in marks if mark.tags.get(key) == value]
            figures = summarise(task, chosen, [by_id[mark.item] for mark in chosen if mark.item in by_id])
            if figures:
                table[f"{key}={value}"] = figures
    return table

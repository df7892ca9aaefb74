"""Two models on the same items: differences with intervals and paired tests, and how often either does better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.artifacts import HanlinError, Progress, Silent, UsageError
from hanlin.evaluation.gates import LOWER_IS_BETTER, Values, compare_values, metrics_of, pair_items, values_of
from hanlin.evaluation.runner import Counter, PreparedTask, Sitter, hold, prepare_all, save_records, values_by_item
from hanlin.evaluation.scoring import Mark, uses_chat
from hanlin.evaluation.statistics import Comparison, bounded_mean
from hanlin.evaluation.tasks import PlannedTask, Task

if TYPE_CHECKING:
    from hanlin.inference import LanguageModel

DOCUMENT_TAGS = ("language", "source")
"""What held-out documents are tagged with."""


@dataclass(frozen=True)
class Contestant:
    """One of the two models."""

    name: str
    model: LanguageModel
    taught: bool = True
    """It was trained on its chat template (`runner.run_exam` says what follows)."""


def compare_models(
    first: Contestant,
    second: Contestant,
    tasks: Sequence[PlannedTask | str],
    *,
    world: Path | None = None,
    corpus: Path | None = None,
    feedback: Path | None = None,
    data: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    by: str | None = None,
    records: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Put every item of `tasks` to both models, and compare how they were answered.

    `world`, `corpus`, `feedback`, `data` and `limit` are those of `runner.run_exam`; `seed` is that of resampling and
    of the questions made from a corpus; `by` names a tag whose values get rows of their own below the task's. Every
    item's record is written under the folder `records`, in `a/` and `b/`.

    Returns {"a", "b": the models' names, "seed", "limit", "by", "rows", "how": {task: {kind, chat: [a, b], items,
    truncated: [a, b]}}, "notes": {task: what was left out and why}}. A row is {task, metric, part ("" or "tag=value"),
    a, b, difference (b - a), low, high (95 %), p_value, n, test, wins, ties, losses, win_rate}: `p_value` is two-sided
    and not corrected for the number of rows; b wins where it does better on an item, also where lower is better; the
    win rate {value, low, high, n, standard_error} counts a tie as half a win. The same arguments give the same figures.

    Raises as `runner.run_exam`, UsageError for a tag that no item has, and HanlinError where no task can be held.
    """
    progress = progress or Silent()
    prepared = prepare_all(tasks, world, corpus, feedback, data, limit, seed, progress)
    held = [one for one in prepared if not one.note]
    notes = {one.task.name: one.note for one in prepared if one.note}
    if not held:
        raise HanlinError("no task can be held: " + " ".join(f"{name}: {note}" for name, note in notes.items()))
    if by is not None:
        _check_tag(by, held)
    sitters = [Sitter("a", first.model, first.taught), Sitter("b", second.model, second.taught)]
    counter = Counter(progress, 2 * sum(one.size for one in held))
    marks: dict[str, dict[str, list[Mark]]] = {}
    for sitter, contestant in zip(sitters, (first, second), strict=True):
        for one in held:
            counter.note = f"{one.task.name} ({contestant.name})"
            marks.setdefault(sitter.name, {})[one.task.name] = hold(sitter, one, counter)
    if records is not None:
        save_records(marks, records)
    rows: list[dict[str, Any]] = []
    for one in held:
        name = one.task.name
        rows += _rows(one.task, marks["a"][name], marks["b"][name], by, seed, notes)
    how = {
        one.task.name: {
            "kind": one.task.kind,
            "chat": [uses_chat(one.task, sitter.model, sitter.taught) for sitter in sitters],
            "items": one.size,
            "truncated": [
                sum(1 for mark in marks[who][one.task.name] if mark.record.get("truncated")) for who in ("a", "b")
            ],
        }
        for one in held
    }
    names = {"a": first.name, "b": second.name}
    return {**names, "seed": seed, "limit": limit, "by": by, "rows": rows, "how": how, "notes": notes}


def _check_tag(by: str, held: Sequence[PreparedTask]) -> None:
    known = {key for one in held for item in one.items for key in item.tags}
    known |= {key for one in held if one.documents for key in DOCUMENT_TAGS}
    if by not in known:
        raise UsageError(f"no item has the tag {by!r}. The tags of these tasks: {', '.join(sorted(known)) or 'none'}.")


def _rows(
    task: Task, first: Sequence[Mark], second: Sequence[Mark], by: str | None, seed: int, notes: dict[str, str]
) -> list[dict[str, Any]]:
    """The rows of one task: all its metrics over all items, then over those with each value of the tag `by`."""
    pairs = pair_items(values_by_item(first), values_by_item(second))
    said: list[str] = []
    if len(pairs) < len(first):
        said.append(f"{len(first) - len(pairs)} of {len(first)} items were not the same for both, and are left out.")
    parts = {"": pairs}
    if by is not None:
        tags = {mark.item: mark.tags.get(by) for mark in second}
        for value in sorted({tag for tag in tags.values() if tag is not None}):
            parts[f"{by}={value}"] = {item: pair for item, pair in pairs.items() if tags[item] == value}
        untagged = sum(1 for item in pairs if tags[item] is None)
        if untagged:
            said.append(f"{untagged} of {len(pairs)} items have no tag {by!r}: they are in the task's first rows only.")
    rows: list[dict[str, Any]] = []
    for part, own in parts.items():
        measured = metrics_of(new for _, new in own.values())
        for metric in [name for name in task.metrics if name in measured]:
            old, new = values_of(metric, own.values())
            if metric == "bits_per_byte" and len(new) < 2:
                said.append(f"one document alone{f' ({part})' if part else ''} can't be compared.")
                continue
            rows.append({"task": task.name, "metric": metric, "part": part, **compare_metric(metric, old, new, seed)})
    if said:
        notes[task.name] = " ".join(said)
    return rows


def compare_metric(metric: str, old: Sequence[Values], new: Sequence[Values], seed: int = 0) -> dict[str, Any]:
    """One row's figures, as `compare_models` describes them, from the values of the items that have the metric."""
    gain, a, b = compare_values(metric, old, new, seed=seed)
    loss = compare_values(metric, new, old, seed=seed)[0]
    comparison = _negated(gain) if metric in LOWER_IS_BETTER else gain
    scores = [_better(metric, before, after) for before, after in zip(old, new, strict=True)]
    return {
        "a": a,
        "b": b,
        "difference": comparison.difference,
        "low": comparison.low,
        "high": comparison.high,
        # Under "no difference" a gain is as likely as a loss: twice the smaller of the two one-sided p-values.
        "p_value": min(1.0, 2 * min(gain.p_value, loss.p_value)),
        "n": comparison.n,
        "test": comparison.test,
        "wins": scores.count(1.0),
        "ties": scores.count(0.5),
        "losses": scores.count(0.0),
        "win_rate": bounded_mean(scores).as_dict(),
    }


def _negated(comparison: Comparison) -> Comparison:
    """A gain as the difference of a metric that is better lower."""
    return replace(comparison, difference=0 - comparison.difference, low=0 - comparison.high, high=0 - comparison.low)


def _better(metric: str, before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """1 where the item was answered better afterwards, 0 where worse, 0.5 where as well."""
    old, new = (values["bits" if metric == "bits_per_byte" else metric] for values in (before, after))
    if old == new:
        return 0.5
    return float((new < old) == (metric in LOWER_IS_BETTER))

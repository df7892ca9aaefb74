"""Aligned stages beside the models that they came from: who answers the same items better, and what else changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.artifacts import Artifact, read_jsonl
from hanlin.evaluation.gates import LOWER_IS_BETTER, Values, metrics_of, pair_items, values_of

ALIGNED = ("preference", "rrhf", "ppo", "grpo", "rloo")
ASKED = ("question", "prompt", "answers", "choices", "contexts", "answer")
"""What of an item's record tells what was asked."""
SCORE = "score"
"""What a judge gives; by it a reply wins."""


def against_parents(artifacts: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Every aligned stage of a run against the model that its exam compares it with, from the exams' records.

    A stage is aligned that learned from preferences or rewards, or was fine-tuned from a model that could chat already.
    Returns, in the run's order, {stage, kind, parent (None: not compared), text (how much pretraining text was mixed
    in; None: the stage knows no such thing), rows, note}. A row is {task, metric, judged} with the figures of
    `compare.compare_metric`: a is the parent's, b the stage's. A task has the row of its first metric, one for each
    that is better lower, and, with a judge, its others; `judged` is the row of the judge's score. Items are those that
    both were asked: the parent's own exam in this run is used beside what it answered in the stage's.
    """
    found: list[dict[str, Any]] = []
    for name, artifact in artifacts.items():
        if not _is_aligned(artifact, artifacts):
            continue
        settings = artifact.manifest.settings
        text = (settings.get("text_weight") if settings.get("text") else 0.0) if "text_weight" in settings else None
        entry: dict[str, Any] = {"stage": name, "kind": artifact.manifest.kind, "parent": None, "text": text}
        exam = artifacts.get(f"{name}-exam")
        note, rows = "", list[dict[str, Any]]()
        if exam is None:
            note = f"the exam of {name} has not been held yet"
        elif "before" not in exam.manifest.inputs:
            note = f"the exam of {name} has no `before`, the model to compare with"
        else:
            entry["parent"] = _short(str(exam.manifest.settings["before"]))
            rows = _rows(exam, artifacts)
            if not rows:
                note = f"the exam of {name} shares too few items with that of the model before to be compared"
        found.append({**entry, "rows": rows, "note": note})
    return found


def gained(row: Mapping[str, Any]) -> bool | None:
    """Whether a row's difference is for the better; None where it may be chance (p of 0.05 or more)."""
    if row["p_value"] >= 0.05:
        return None
    return (row["difference"] > 0) != (row["metric"] in LOWER_IS_BETTER)


def described(entry: Mapping[str, Any]) -> str:
    """What a stage is, in few words: its kind, and whether pretraining text was mixed in (PPO-ptx)."""
    if entry["text"] is None:
        return str(entry["kind"])
    mixed = f"pretraining text × {entry['text']:g}" if entry["text"] else "no pretraining text"
    return f"{entry['kind']}, {mixed}"


def _is_aligned(artifact: Artifact, artifacts: Mapping[str, Artifact]) -> bool:
    kind = artifact.manifest.kind
    if kind != "sft":
        return kind in ALIGNED
    parent = next((one for one in artifacts.values() if one.id == artifact.manifest.inputs["model"].id), None)
    return parent is not None and parent.manifest.kind in ("sft", *ALIGNED)


def _short(model: str) -> str:
    """A stage's name, or a directory's last two parts."""
    return "/".join(Path(model).parts[-2:]) if Path(model).is_absolute() else model


def _rows(exam: Artifact, artifacts: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    from hanlin.evaluation.compare import compare_metric

    elsewhere = [one for one in artifacts.values() if _examined_the_parent(one, exam)]
    rows: list[dict[str, Any]] = []
    for task, metrics in exam.figures.get("tasks", {}).items():
        after = _records(exam.path / "records", task)
        before = {item: values for item, (_, values) in _records(exam.path / "before", task).items()}
        for other in elsewhere:
            for item, (asked, values) in _records(other.path / "records", task).items():
                # Ids alone are no proof: another exam may have made other questions under the same ones.
                if item not in before and item in after and after[item][0] == asked:
                    before[item] = values
        pairs = pair_items(before, {item: values for item, (_, values) in after.items()})
        for metric in _metrics(list(metrics), metrics_of(new for _, new in pairs.values())):
            old, new = values_of(metric, pairs.values())
            # One document alone has no spread.
            if len(new) >= (2 if metric == "bits_per_byte" else 1):
                row = {"task": task, "metric": metric, "judged": metric == SCORE}
                rows.append({**row, **compare_metric(metric, old, new)})
    return rows


def _examined_the_parent(other: Artifact, exam: Artifact) -> bool:
    """Whether `other` put its tasks, in the same way, to the model that `exam` compares with."""
    one, two = other.manifest, exam.manifest
    if one.kind != "exam" or one.inputs["model"].content != two.inputs["before"].content:
        return False
    ways = (one.fingerprint or {}), (two.fingerprint or {})
    alike = all(ways[0][task]["task"] == ways[1][task]["task"] for task in ways[0].keys() & ways[1].keys())
    return alike and one.settings["dtype"] == two.settings["dtype"]


def _metrics(all_of_task: Sequence[str], measured: Sequence[str]) -> list[str]:
    known = [name for name in all_of_task if name in measured]
    if SCORE in known:
        return known
    return [name for place, name in enumerate(known) if place == 0 or name in LOWER_IS_BETTER]


def _records(folder: Path, task: str) -> dict[str, tuple[dict[str, Any], Values]]:
    """Item → (what was asked, its values)."""
    file = folder / f"{task}.jsonl"
    rows = read_jsonl(file) if file.is_file() else []
    return {row["id"]: ({key: row[key] for key in ASKED if key in row}, row["values"]) for row in rows}

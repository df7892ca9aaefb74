"""Every figure of a run, for programs, and the questions and answers that a person is shown."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import yaml

from hanlin.artifacts import Artifact, HanlinError, read_jsonl
from hanlin.recipes.runner import RECIPE


def open_run(directory: Path) -> dict[str, Artifact]:
    """The finished artifacts of a run directory by stage name, in the recipe's order.

    Raises HanlinError when `directory` is no run directory.
    """
    file = directory / RECIPE
    if not file.is_file():
        raise HanlinError(
            f"{directory} is not a run directory: it has no {RECIPE}. `hanlin run RECIPE --out DIR` makes one."
        )
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    names: list[str] = []
    for name in recipe["stages"]:
        names.append(name)
        if name in recipe["exam"]:
            names.append(f"{name}-exam")
    return {name: Artifact.load(directory / name) for name in names if (directory / name / "manifest.json").is_file()}


def collect(directory: Path) -> dict[str, Any]:
    """`hanlin results RUN --json`.

    Returns {"run", "stages": {stage: {"kind", "id", "seconds", "figures", "exams": {task: {metric: {value, low, high,
    n}}}, "random": the same for random weights, "gates": [...]}}, "figures": {"seconds": the whole run's}}.
    """
    artifacts = open_run(directory)
    stages: dict[str, Any] = {}
    for name, artifact in artifacts.items():
        manifest = artifact.manifest
        if manifest.kind == "exam":
            continue
        entry: dict[str, Any] = {
            "kind": manifest.kind,
            "id": manifest.id,
            "seconds": manifest.seconds,
            "figures": manifest.figures,
        }
        exam = artifacts.get(f"{name}-exam")
        if exam:
            entry["exams"] = exam.figures.get("tasks", {})
            entry["random"] = exam.figures.get("random", {})
            entry["breakdown"] = exam.figures.get("breakdown", {})
            entry["gates"] = exam.figures.get("gates", [])
            entry["exam_seconds"] = exam.manifest.seconds
        stages[name] = entry
    total = sum(artifact.manifest.seconds for artifact in artifacts.values())
    return {"run": str(directory), "stages": stages, "figures": {"seconds": total}}


def last_model(artifacts: dict[str, Artifact]) -> Artifact | None:
    """The last model that the run made."""
    models = [artifact for artifact in artifacts.values() if (artifact.path / "config.json").is_file()]
    return models[-1] if models else None


def sample_answers(exam: Artifact, count: int = 5) -> list[dict[str, Any]]:
    """Up to `count` questions with the model's answers from an exam's records, taken from its tasks in turn.

    Of a choice the answer is what the model found likeliest. Returns [{"task", "question", "output", "correct"}].
    """
    columns: list[list[dict[str, Any]]] = []
    for task in exam.figures.get("tasks", {}):
        file = exam.path / "records" / f"{task}.jsonl"
        rows = [_sample(task, row) for row in read_jsonl(file)[:count]] if file.is_file() else []
        columns.append([row for row in rows if row is not None])
    turns = itertools.chain.from_iterable(itertools.zip_longest(*columns))
    return [row for row in turns if row is not None][:count]


def _sample(task: str, row: dict[str, Any]) -> dict[str, Any] | None:
    if "output" in row:
        return {"task": task, "question": row["question"], "output": row["output"], "correct": row["correct"]}
    if "chosen" in row:
        question = row["prompt"].strip()
        shown = question if len(question) <= 200 else "… " + question[-200:]
        return {"task": task, "question": shown, "output": row["choices"][row["chosen"]], "correct": row["correct"]}
    return None

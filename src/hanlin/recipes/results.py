"""Every figure of a run, for programs, and the questions and answers that a person is shown."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import yaml

from hanlin.artifacts import POLICY_KINDS, Artifact, HanlinError, read_jsonl
from hanlin.recipes.against import against_parents
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

    Returns {"run", "stages": {stage: {"kind", "id", "seconds", "figures": all that the stage reported, "exams": {task:
    {metric: {value, low, high, n}}}, "before" and "random": the same for the model it came from and for random
    weights, "breakdown": by the items' tags, "how": how each task was put, "notes": why a task was not held, "gates":
    [...]}}, "figures": {"seconds": the whole run's, stage: `main_figures`}, "against": `against_parents`}.
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
            entry |= {key: exam.figures.get(key, {}) for key in ("before", "random", "breakdown", "how", "notes")}
            entry["gates"] = exam.figures.get("gates", [])
            entry["exam_seconds"] = exam.manifest.seconds
        stages[name] = entry
    total = sum(artifact.manifest.seconds for artifact in artifacts.values())
    main = {name: main_figures(artifact) for name, artifact in artifacts.items()}
    figures = {**main, "seconds": total}
    return {"run": str(directory), "stages": stages, "figures": figures, "against": against_parents(artifacts)}


def main_figures(artifact: Artifact) -> dict[str, Any]:
    """The figures by which one stage is compared with another: one level of plain names, whatever its kind.

    "seconds" of the whole stage, and of what it reported: every number ("steps", "tokens", "tokens_per_second",
    "flops_per_second", "loss" …); the last validation's as "validation_loss" and "validation_bits_per_byte"; a corpus's
    "ledger" ({"files", "records", "bytes", "balanced"}); a tokenizer's "vocabulary_size"; the "documents", "tokens" and
    "bytes" of training text. An exam has its "seconds" only: its marks are in the stage's "exams".
    """
    figures = artifact.figures
    found: dict[str, Any] = {name: value for name, value in figures.items() if _is_number(value)}
    found["seconds"] = artifact.manifest.seconds
    if artifact.manifest.kind == "corpus":
        found["ledger"] = {name: figures["ledger"][name] for name in ("files", "records", "bytes", "balanced")}
    elif artifact.manifest.kind == "tokenizer":
        found["vocabulary_size"] = figures["vocabulary"]["size"]
    elif artifact.manifest.kind == "tokens":
        found |= {name: value for name, value in figures["train"].items() if _is_number(value)}
    else:
        last = (figures.get("validation") or {}).get("last") or {}
        found |= {f"validation_{name}": value for name, value in last.items() if name != "step" and _is_number(value)}
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def models_to_try(artifacts: dict[str, Artifact]) -> list[tuple[Artifact, bool]]:
    """(model, whether it can chat): every chat model that the run made, in order; where there is none, its last one."""
    models = [artifact for artifact in artifacts.values() if artifact.manifest.kind in POLICY_KINDS]
    chats = [one for one in models if one.manifest.kind != "pretrain" and (one.path / "chat_template.jinja").is_file()]
    return [(one, True) for one in chats] or [(one, False) for one in models[-1:]]


def sample_answers(exam: Artifact, count: int = 5) -> list[dict[str, Any]]:
    """Up to `count` questions with the model's answers from an exam's records, taken from its tasks in turn.

    What was answered in words comes before choices, of which the answer is what the model found likeliest. Returns
    [{"task", "question", "output", "correct"}].
    """
    said: list[list[dict[str, Any]]] = []
    chosen: list[list[dict[str, Any]]] = []
    for task in exam.figures.get("tasks", {}):
        file = exam.path / "records" / f"{task}.jsonl"
        rows = read_jsonl(file)[:count] if file.is_file() else []
        column = [found for row in rows if (found := _sample(task, row)) is not None]
        (said if rows and "output" in rows[0] else chosen).append(column)
    turns = [row for columns in (said, chosen) for turn in itertools.zip_longest(*columns) for row in turn]
    return [row for row in turns if row is not None][:count]


def _sample(task: str, row: dict[str, Any]) -> dict[str, Any] | None:
    if "output" in row:
        return {"task": task, "question": row["question"], "output": row["output"], "correct": row["correct"]}
    if "chosen" in row:
        question = row["prompt"].strip()
        shown = question if len(question) <= 200 else "… " + question[-200:]
        return {"task": task, "question": shown, "output": row["choices"][row["chosen"]], "correct": row["correct"]}
    return None

"""Gathers what a run's artifacts say, and fills the page."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from hanlin import __version__
from hanlin.artifacts import Artifact
from hanlin.artifacts.files import write_text
from hanlin.recipes.against import against_parents
from hanlin.recipes.report.aligned import exchanges, size, trained_table, wins
from hanlin.recipes.report.best_of_n import best_of_n_charts, best_of_n_tables
from hanlin.recipes.report.health import health_tables, reliability_chart
from hanlin.recipes.report.policy import policy_charts, policy_notes, policy_tables
from hanlin.recipes.report.svg import Chart, Line, draw, number
from hanlin.recipes.results import main_figures, open_run, sample_answers
from hanlin.recipes.runner import RECIPE

HIDDEN = (
    *("curves", "gates", "tasks", "random", "breakdown", "health"),
    *("rollouts", "overoptimisation", "best_of", "parameters", "memory"),
)
"""Figures with a place of their own on the page; the rest is shown as a table."""
LINES = 5
"""Rows of data that are spelt out where a figure names them"""
LONGEST_LINE = 240
"""Characters of each"""


def write_report(directory: Path) -> Path:
    """Write `report.html` for a run directory (also for one that is not finished), and return its path."""
    artifacts = open_run(directory)
    template = (resources.files("hanlin.recipes.report") / "report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": show, "size": size}
    stages = [
        _stage(name, artifact, artifacts) for name, artifact in artifacts.items() if artifact.manifest.kind != "exam"
    ]
    against = against_parents(artifacts)
    newest = max(artifacts.values(), key=lambda artifact: artifact.manifest.started, default=None)
    page = environment.from_string(template).render(
        version=__version__,
        name=directory.name,
        stages=stages,
        seconds=sum(artifact.manifest.seconds for artifact in artifacts.values()),
        environment=newest.manifest.environment if newest else {},
        code=newest.manifest.code if newest else {},
        ended=newest.manifest.started if newest else "",
        recipe=(directory / RECIPE).read_text(encoding="utf-8"),
        exams=_exams(artifacts),
        wins=wins(against),
        exchanges=exchanges(against),
        notes=[entry["note"] for entry in against if entry["note"]],
        trained=trained_table(artifacts),
    )
    path = directory / "report.html"
    write_text(path, page)
    return path


def show(value: Any) -> str:
    """A figure for people: thousands separated, at most four significant digits behind the point."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _stage(name: str, artifact: Artifact, artifacts: dict[str, Artifact]) -> dict[str, Any]:
    manifest = artifact.manifest
    figures = manifest.figures
    stages = [one for one in artifacts.values() if one.manifest.kind != "exam"]
    place = stages.index(artifact)
    before = stages[place - 1] if place else None
    exam = artifacts.get(f"{name}-exam")
    return {
        "name": name,
        "kind": manifest.kind,
        "id": manifest.id,
        "content": manifest.content,
        "seconds": manifest.seconds,
        "started": manifest.started,
        "seed": manifest.seed,
        "code": manifest.code,
        "settings": json.dumps(manifest.settings, ensure_ascii=False, indent=1),
        "inputs": {key: {"id": entry.id, "path": entry.path} for key, entry in manifest.inputs.items()},
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "files": len(manifest.files),
        "headline": _headline(main_figures(artifact)),
        "plain": {key: value for key, value in figures.items() if _is_plain(value)},
        "tables": {
            key: _text_table(value) if manifest.kind == "tokenizer" and key == "text" else _table(value)
            for key, value in figures.items()
            if key not in HIDDEN and not _is_plain(value)
        }
        | health_tables(figures)
        | policy_tables(figures)
        | best_of_n_tables(figures),
        "charts": [
            *policy_charts(figures),
            *best_of_n_charts(figures),
            *_charts(figures.get("curves") or {}, manifest.kind in ("pretrain", "sft")),
            *reliability_chart(figures.get("health")),
        ],
        "notes": policy_notes(figures),
        "from": [entry.path.removeprefix("../") for key, entry in manifest.inputs.items() if key == "model"],
        "follows": before is None or any(entry.id == before.id for entry in manifest.inputs.values()),
        "spikes": (figures.get("curves") or {}).get("spikes", []),
        "samples": sample_answers(exam, 8) if exam else [],
        # What was trained comes first on the page, the newest before the others; then what it was trained on.
        "rank": -list(artifacts).index(name) if figures.get("curves") else 1,
    }


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str) or value is None


def _headline(figures: dict[str, Any]) -> list[str]:
    """Two or three of a stage's main figures for its box in the pipeline."""
    wanted = (
        ("facts", "facts"),
        ("documents", "documents"),
        ("vocabulary_size", "tokens in the vocabulary"),
        ("tokens", "tokens"),
        ("steps", "steps"),
        ("tokens_per_second", "tokens/s"),
        ("asked", "prompts"),
        ("instructions", "instructions"),
        ("preferences", "preferences"),
    )
    lines = [f"{number(figures[key])} {label}" for key, label in wanted if isinstance(figures.get(key), int | float)]
    ledger = figures.get("ledger")
    if isinstance(ledger, dict):
        records = ledger["records"]
        lines = [f"{number(records[key])} {key}" for key in ("kept", "dropped", "quarantined")]
    return lines[:3]


def _table(value: Any) -> dict[str, Any]:
    """Nested figures as a table: rows by name and columns, where their shape allows it; otherwise flattened."""
    if isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
        columns = list(dict.fromkeys(key for row in value.values() for key in row))
        if all(_is_plain(cell) for row in value.values() for cell in row.values()):
            rows = [[key, *(row.get(column, "") for column in columns)] for key, row in value.items()]
            return {"columns": ["", *columns], "rows": rows}
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        columns = list(dict.fromkeys(key for row in value for key in row))
        return {"columns": columns, "rows": [[row.get(column, "") for column in columns] for row in value[:60]]}
    if isinstance(value, list):
        return {"columns": [""], "rows": [[row] for row in value[:60]]}
    return {"columns": ["", ""], "rows": _flat(value)}


def _text_table(text: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer's report on text: a row for each language (or source) and tokenizer."""
    rows: list[list[Any]] = []
    columns: dict[str, None] = {}
    for part, groups in text.items():
        for name, entry in groups.items() if isinstance(groups, dict) else ():
            for tokenizer, figures in entry["tokenizers"].items():
                columns.update(dict.fromkeys(figures))
                rows.append([part, name, entry["bytes"], tokenizer, figures])
    filled = [[*row[:-1], *(row[-1].get(column) for column in columns)] for row in rows]
    return {"columns": ["part", "", "bytes", "tokenizer", *columns], "rows": filled}


def _flat(value: Any, prefix: str = "") -> list[list[Any]]:
    rows: list[list[Any]] = []
    for key, inner in value.items() if isinstance(value, dict) else ():
        name = f"{prefix}{key}"
        if isinstance(inner, dict):
            rows += _flat(inner, f"{name} · ")
        elif isinstance(inner, list) and inner and key.endswith(("_rows", "notes")) and all(map(_is_text, inner)):
            # Under the same name without _rows stands how many there are: the figures name the first ones only.
            total = value.get(key.removesuffix("_rows"))
            rows.append([name, _lines(inner, total if isinstance(total, int) else len(inner))])
        else:
            rows.append([name, inner if _is_plain(inner) else json.dumps(inner, ensure_ascii=False)[:400]])
    return rows


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _lines(texts: list[str], total: int) -> dict[str, Any]:
    """A cell with a line for each of the first texts, and how many there are beside them."""
    shown = [text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}…" for text in texts[:LINES]]
    return {"lines": shown, "more": total - len(shown)}


def _charts(curves: dict[str, Any], of_tokens: bool) -> list[dict[str, Any]]:
    """Charts of every stage that trained; `of_tokens`: its loss is a mean over tokens."""
    if not curves:
        return []
    steps = curves.get("step", [])
    marks = [(spike["step"], f"spike at step {spike['step']}") for spike in curves.get("spikes", [])]
    validation = curves.get("validation", [])
    measured = [point["step"] for point in validation]
    loss = [Line("training", steps, curves.get("loss", []))]
    if validation:
        loss.append(Line("validation", measured, [point.get("loss") for point in validation], "b", dots=True))
    charts = [
        Chart("Loss (nats a token)" if of_tokens else "Loss", "step", loss, marks=marks),
        Chart(
            "Gradient norm",
            "step",
            [Line("gradient norm", steps, curves.get("grad_norm", []), "c")],
            log_y=True,
            marks=marks,
        ),
    ]
    bits = [point.get("bits_per_byte") for point in validation]
    if any(value is not None for value in bits):
        charts.append(
            Chart("Validation bits per byte", "step", [Line("bits per byte", measured, bits, "b", dots=True)])
        )
    charts.append(Chart("Learning rate", "step", [Line("learning rate", steps, curves.get("lr", []), "d")]))
    return draw(charts)


def _exams(artifacts: dict[str, Artifact]) -> dict[str, Any]:
    """All exams side by side: a row a (task, metric), a cell a stage; and the gates."""
    exams = {name.removesuffix("-exam"): found for name, found in artifacts.items() if found.manifest.kind == "exam"}
    keys: dict[tuple[str, str], None] = {}
    for exam in exams.values():
        for task, metrics in exam.figures.get("tasks", {}).items():
            for metric in metrics:
                keys[task, metric] = None
    before = {exam.manifest.settings.get("before"): exam.figures.get("before", {}) for exam in exams.values()}
    rows: list[dict[str, Any]] = []
    for task, metric in sorted(keys, key=lambda key: "[" in key[1]):  # parts of a figure come behind all wholes
        cells: list[dict[str, Any] | None] = []
        random: dict[str, Any] | None = None
        for name, exam in exams.items():
            own = exam.figures.get("tasks", {}).get(task, {}).get(metric)
            # A task that only a later exam has was put to the model before as well.
            cells.append(own or before.get(name, {}).get(task, {}).get(metric))
            random = exam.figures.get("random", {}).get(task, {}).get(metric) or random
        share = (
            all(cell is None or 0 <= cell["value"] <= 1 for cell in cells)
            and "bits" not in metric
            and "byte" not in task
        )
        rows.append({"task": task, "metric": metric, "cells": cells, "random": random, "share": share})
    gates = [{"stage": name, **gate} for name, exam in exams.items() for gate in exam.figures.get("gates", [])]
    breakdown = {name: exam.figures.get("breakdown", {}) for name, exam in exams.items()}
    samples = sample_answers(list(exams.values())[-1], 8) if exams else []
    return {"stages": list(exams), "rows": rows, "gates": gates, "breakdown": breakdown, "samples": samples}

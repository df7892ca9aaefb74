"""The tables over all stages: wins against the parent, gains and losses elsewhere, and what training took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanlin.artifacts import Artifact
from hanlin.recipes.against import described, gained


def wins(against: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of wins: each judged row, with its stage, and win, tie and loss as shares for its bar."""
    return [
        {
            **row,
            "stage": entry["stage"],
            "parent": entry["parent"],
            "about": described(entry),
            "gained": gained(row),
            "shares": [row[name] / row["n"] for name in ("wins", "ties", "losses")],
        }
        for entry in against
        for row in entry["rows"]
        if row["judged"]
    ]


def exchanges(against: list[dict[str, Any]]) -> dict[str, Any]:
    """The table of everything but the judge's score: {"stages": [{stage, parent, about}], "rows": [{task, metric,
    cells: a row of `against_parents` with `gained` for each stage, or None}]}."""
    stages = [entry for entry in against if any(not row["judged"] for row in entry["rows"])]
    cells = {
        (row["task"], row["metric"], entry["stage"]): {**row, "gained": gained(row)}
        for entry in stages
        for row in entry["rows"]
        if not row["judged"]
    }
    keys = dict.fromkeys((task, metric) for task, metric, _ in cells)
    return {
        "stages": [{"stage": one["stage"], "parent": one["parent"], "about": described(one)} for one in stages],
        "rows": [
            {"task": task, "metric": metric, "cells": [cells.get((task, metric, one["stage"])) for one in stages]}
            for task, metric in keys
        ],
    }


def trained_table(artifacts: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """A row for each stage that trained: parameters, and bytes of memory ({} where a run did not note them yet)."""
    rows: list[dict[str, Any]] = []
    for name, artifact in artifacts.items():
        known: dict[str, Any] = artifact.figures.get("parameters") or {}
        if not known:
            continue
        lora = artifact.manifest.settings.get("lora")
        rows.append(
            {
                "stage": name,
                "total": known["total"],
                "trained": known["trained"],
                "share": known["trained_share"],
                "beside": known.get("trained_beside", 0),
                "lora": f"LoRA, rank {lora['rank']}" if lora else "",
                "precision": artifact.figures.get("precision", ""),
                "memory": artifact.figures.get("memory") or {},
            }
        )
    return rows


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"

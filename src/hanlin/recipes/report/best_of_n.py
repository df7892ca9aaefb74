"""What choosing the best of n answers is worth, on the page."""

from __future__ import annotations

from typing import Any

from hanlin.recipes.report.policy import against_distance, fit_table
from hanlin.recipes.report.svg import Chart, Line, draw


def best_of_n_charts(about: dict[str, Any]) -> list[dict[str, Any]]:
    """The mean reward (and gold) of the best of n, over n and over the KL that it costs; none for other stages."""
    rows = _rows(about)
    counts = [row["n"] for row in rows]
    charts = [
        Chart(title, "n", [Line(name, counts, [row.get(name) for row in rows], style, dots=True)], log_x=True)
        for name, title, style in (
            ("reward", "Reward of the best of n", "a"),
            ("gold", "Gold reward of the best of n by reward", "b"),
        )
    ]
    # A single n is no curve over distance.
    return draw(charts + (against_distance(rows, "best-of-n") if len(rows) > 1 else []))


def best_of_n_tables(about: dict[str, Any]) -> dict[str, Any]:
    """The curve's numbers, and Gao's fit to it."""
    rows = _rows(about)
    if not rows:
        return {}
    shown = {"n": "n", "kl_bound": "KL at most: log n - (n - 1)/n", "reward": "reward", "gold": "gold"}
    columns = {name: title for name, title in shown.items() if any(name in row for row in rows)}
    body = [[row.get(name) for name in columns] for row in rows]
    return {"best of n": {"columns": list(columns.values()), "rows": body}, **fit_table(rows, "best-of-n")}


def _rows(about: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**row, "kl_answer": row["kl_bound"]} for row in about.get("best_of") or []]

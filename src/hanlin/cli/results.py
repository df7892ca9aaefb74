"""`hanlin results`: the figures of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

SHOWN = (
    ("vocabulary_size", "{:,} tokens in the vocabulary"),
    ("documents", "{:,} documents"),
    ("steps", "{:,} steps"),
    ("tokens", "{:,} tokens"),
    ("tokens_per_second", "{:,.0f} tokens/s"),
    ("gigaflops_per_second", "{:,.1f} GFLOP/s"),
    ("loss", "loss {:.3f}"),
    ("validation_loss", "validation loss {:.3f}"),
    ("validation_bits_per_byte", "{:.3f} bits/byte"),
)
"""A stage's main figures and how they read; each stage has some of them."""


def results(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="Every figure, for programs.")] = False,
) -> None:
    """Print the figures of a run: losses, speeds and counts of each stage, then exams with their intervals."""
    from hanlin.recipes.results import collect, main_figures, open_run

    if as_json:
        print(json.dumps(collect(run), ensure_ascii=False, indent=1))
        return
    from rich.markup import escape
    from rich.table import Table

    from hanlin.cli.console import clock, exam_table, make_console, show_against

    console = make_console()
    artifacts = open_run(run)
    table = Table(title="stages", title_justify="left", title_style="bold")
    for column in ("stage", "time", "figures"):
        table.add_column(column, justify="right" if column == "time" else "left")
    for name, artifact in artifacts.items():
        figures = main_figures(artifact)
        table.add_row(escape(name), clock(figures["seconds"]), _line(figures))
    console.print(table)
    for name, artifact in artifacts.items():
        if artifact.manifest.kind == "exam":
            console.print(exam_table(name, artifact))
    show_against(console, artifacts)


def _line(figures: dict[str, Any]) -> str:
    if "flops_per_second" in figures:
        figures = {**figures, "gigaflops_per_second": figures["flops_per_second"] / 1e9}
    parts = [form.format(figures[name]) for name, form in SHOWN if name in figures]
    if "ledger" in figures:
        records = figures["ledger"]["records"]
        parts += [f"{records[key]:,} {key}" for key in ("kept", "dropped", "quarantined")]
        parts.append(f"{figures['ledger']['bytes']['documents'] / 1e6:,.1f} MB")
        parts.append("every byte accounted for" if figures["ledger"]["balanced"] else "NOT BALANCED")
    if not parts:
        counts = [(name, value) for name, value in figures.items() if isinstance(value, int)]
        parts = [f"{value:,} {name.replace('_', ' ')}" for name, value in counts]
    return ", ".join(parts)

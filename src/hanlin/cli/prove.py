"""`hanlin prove`: each algorithm against an optimum that can be computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


def prove(
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A proof's name, such as ppo; may be given several times.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, help="How many seeds, from 0 on.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the table to this file, as JSON.", dir_okay=False)
    ] = None,
) -> None:
    """Train policies so small that every answer can be listed, by the code that trains models, and print how far each
    algorithm ends from its optimum.

    It ends with status 1 when a distance is over its bound, or a control, which must be far, is near. All proofs with
    five seeds take about five minutes on one core.
    """
    import time
    from dataclasses import asdict

    from hanlin.alignment.proofs.proofs import PROOFS
    from hanlin.artifacts import HanlinError, UsageError, write_json
    from hanlin.cli.console import make_console

    for name in only or []:
        if name not in PROOFS:
            raise UsageError(f"there is no proof {name!r}. Proofs: {', '.join(PROOFS)}.")
    console, errors = make_console(), make_console(stderr=True)
    names = list(dict.fromkeys(only or PROOFS))
    total, begun = len(names) * seeds, time.monotonic()
    rows: list[dict[str, Any]] = []
    try:
        with errors.status("") as status:
            for name in names:
                for seed in range(seeds):
                    line = f"{len(rows) + 1} of {total}: {name}, seed {seed} ({time.monotonic() - begun:.0f} s so far)"
                    if errors.is_terminal:
                        status.update(line)
                    else:
                        errors.print(line)
                    started = time.monotonic()
                    found = PROOFS[name](seed)
                    took = round(time.monotonic() - started, 1)
                    rows.append({"proof": name, **asdict(found), "holds": found.holds, "seconds": took})
    finally:  # what is known when Ctrl-C comes is shown
        if rows:
            show(rows, console)
    if json_file is not None:
        write_json(json_file, {"proofs": rows})
    broken = [f"{row['proof']} (seed {row['seed']})" for row in rows if not row["holds"]]
    if broken:
        raise HanlinError(f"{len(broken)} of {len(rows)} proofs do not hold: {', '.join(broken)}.")


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """The table, and below it what is measured and what else was found."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="distance to the optimum", title_justify="left", title_style="bold")
    table.add_column("algorithm")
    for column in ("seed", "distance", "bound", "control"):
        table.add_column(column, justify="right")
    for place, row in enumerate(rows):
        mark = "[green]✓[/green]" if row["holds"] else "[red]✗[/red]"
        table.add_row(
            f"{mark} {escape(row['name'])}",
            str(row["seed"]),
            f"[bold]{row['distance']:.1e}[/bold]",
            f"≤ {row['bound']:.2g}",
            f"{row['control']:.2g} (≥ {row['least_control']:.2g})",
            end_section=place + 1 == len(rows) or rows[place + 1]["proof"] != row["proof"],
        )
    console.print(table)
    for place, row in enumerate(rows):
        if place == 0 or rows[place - 1]["proof"] != row["proof"]:
            console.print(f"[bold]{escape(row['name'])}[/bold]: {escape(row['what'])}")
        if row["note"]:
            console.print(f"[dim]  seed {row['seed']}: {escape(row['note'])}[/dim]")

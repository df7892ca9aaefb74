"""`hanlin prove`: each algorithm against an optimum that can be computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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

    It ends with status 1 when a distance is over its bound. All proofs with five seeds take about ten minutes on two
    cores.
    """
    import time
    from dataclasses import asdict

    from rich.table import Table

    from hanlin.alignment.proofs.proofs import PROOFS
    from hanlin.artifacts import HanlinError, UsageError, write_json
    from hanlin.cli.console import make_console

    for name in only or []:
        if name not in PROOFS:
            raise UsageError(f"there is no proof {name!r}. Proofs: {', '.join(PROOFS)}.")
    console, errors = make_console(), make_console(stderr=True)
    table = Table(title="distance to the optimum", title_justify="left", title_style="bold")
    table.add_column("algorithm")
    for column in ("seed", "distance", "bound", "control", "control is at least"):
        table.add_column(column, justify="right")
    table.add_column("what is measured")
    rows = []
    broken: list[str] = []
    names = only or list(PROOFS)
    for place, name in enumerate(names):
        begun = time.monotonic()
        for seed in range(seeds):
            errors.print(f"[dim]{place + 1} of {len(names)}: {name}, seed {seed}[/dim]")
            found = PROOFS[name](seed)
            rows.append({"proof": name, **asdict(found), "holds": found.holds})
            mark = "[green]✓[/green]" if found.holds else "[red]✗[/red]"
            table.add_row(
                f"{mark} {found.name}",
                str(seed),
                f"[bold]{found.distance:.1e}[/bold]",
                f"{found.bound:g}",
                f"{found.control:.3g}",
                f"{found.least_control:g}" if found.least_control else "",
                found.what if seed == 0 else "",
            )
            if not found.holds:
                broken.append(f"{name} (seed {seed})")
        table.add_section()
        errors.print(f"[dim]{name}: {time.monotonic() - begun:.0f} s[/dim]")
    console.print(table)
    if json_file is not None:
        write_json(json_file, {"proofs": rows})
    if broken:
        raise HanlinError(f"{len(broken)} of {len(rows)} proofs do not hold: {', '.join(broken)}.")

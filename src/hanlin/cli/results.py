"""`hanlin results`: the figures of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def results(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="Every figure, for programs.")] = False,
) -> None:
    """Print the figures of a run: exams with their intervals, losses, speeds, counts."""
    from hanlin.recipes.results import collect, open_run

    if as_json:
        print(json.dumps(collect(run), ensure_ascii=False, indent=1))
        return
    from hanlin.cli.console import exam_table, make_console

    console = make_console()
    for name, artifact in open_run(run).items():
        if artifact.manifest.kind == "exam":
            console.print(exam_table(name, artifact))

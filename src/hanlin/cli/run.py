"""`hanlin run`: run a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanlin.artifacts.errors import HanlinError


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe of the library (`hanlin recipe list`), or a .yaml file.")],
    assignments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE…", help="Settings: seed=2, minutes=10, corpus.inputs=FOLDER, base.loop.rows=8."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/<the recipe's name>.")] = None,
) -> None:
    """Run a recipe from end to end.

    What is done is not done again: a run that was stopped, however it was stopped, goes on where it was when the same
    command is given again, and ends in the same weights to the last bit.
    """
    from hanlin.cli.console import ConsoleReporter, show_end
    from hanlin.recipes.recipe import load_recipe
    from hanlin.recipes.report.build import write_report
    from hanlin.recipes.runner import run_recipe

    loaded = load_recipe(recipe, assignments or [])
    directory = out or Path("runs") / loaded.name
    with ConsoleReporter() as reporter:
        result = run_recipe(loaded, directory, reporter)
    report = write_report(directory)
    show_end(result, report)
    if result.failed_gates:
        first = result.failed_gates[0]
        raise HanlinError(
            f"the gate on {first.get('task')} failed, so the run stopped there. Its results are kept, and an exam's "
            f"records show the items that changed. Train longer or on other data, give the task more items, or change "
            f"the gate in the recipe's `exam:` (a reward stage's in its settings), and run it again."
        )

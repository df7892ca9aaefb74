"""`hanlin eval`: examine any model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanlin.cli.generate import DEVICE_HELP, Device, Dtype


def evaluate(
    model: Annotated[
        Path, typer.Argument(help="A model's directory: a stage of a run, or any Hugging Face directory.")
    ],
    tasks: Annotated[list[str], typer.Option(help="A ready task's name, such as world/facts, or a task's .yaml file.")],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK]…", help="Further tasks.", show_default=False)
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    records: Annotated[Path | None, typer.Option(help="Write every item with its mark into this folder.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="What the weights are kept in.")] = Dtype.float32,
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = Device.auto,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first items of each task.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The items' file, for ready tasks that ship no data (gsm8k, arc_easy …).")
    ] = None,
) -> None:
    """Examine a model: every figure with its interval, beside a model of the same shape with random weights."""
    import hanlin
    from hanlin.artifacts import write_json
    from hanlin.cli.console import ConsoleReporter, figures_table, make_console
    from hanlin.evaluation import run_exam
    from hanlin.recipes.find import find_inputs

    loaded = hanlin.load(model, dtype=dtype.value, device=device.value)
    found = find_inputs(model)
    with ConsoleReporter() as reporter:
        progress = reporter.begin("exam", "exam", resumed=False)
        figures = run_exam(
            loaded,
            [*tasks, *(more or [])],
            world=found.get("world"),
            corpus=found.get("corpus"),
            feedback=found.get("feedback"),
            records=records,
            limit=limit,
            data=data,
            taught=found.get("pretrain") != model.resolve(),
            progress=progress,
        )
    make_console().print(figures_table(str(model), figures))
    if json_file:
        write_json(json_file, figures)

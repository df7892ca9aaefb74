"""`hanlin compare`: two models on the same items."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hanlin.cli.generate import DEVICE_HELP, Device, Dtype

MODEL_HELP = "A model's directory: a stage of a run, or any Hugging Face directory."


def compare(
    model_a: Annotated[Path, typer.Argument(help=MODEL_HELP)],
    model_b: Annotated[Path, typer.Argument(help="The other model's directory.")],
    tasks: Annotated[
        list[str],
        typer.Option(help="A ready task's name, such as world/facts, or a task's .yaml file; NAME=FOLDER with data."),
    ],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK]…", help="Further tasks.", show_default=False)
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="TAG", help="Also compare on the items with each value of this tag.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    records: Annotated[
        Path | None, typer.Option(help="Write every item with its marks into this folder, as a/ and b/.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="What the weights are kept in.")] = Dtype.float32,
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = Device.auto,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only so many items of each task.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of resampling, and of questions made from a corpus.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="The items' file, for ready tasks that ship no data (gsm8k, arc_easy …).")
    ] = None,
) -> None:
    """Put the same items to two models: differences with intervals, paired tests, and how often B does better."""
    import hanlin
    from hanlin.artifacts import write_json
    from hanlin.cli.console import ConsoleReporter
    from hanlin.evaluation.compare import Contestant, compare_models
    from hanlin.evaluation.tasks import plan_task
    from hanlin.recipes.find import find_common, is_taught

    planned = [plan_task(one, data) for one in [*tasks, *(more or [])]]
    found = find_common([model_a, model_b], {one.source for one in planned if one.source})
    first, second = (
        Contestant(str(path), hanlin.load(path, dtype=dtype.value, device=device.value), is_taught(path))
        for path in (model_a, model_b)
    )
    with ConsoleReporter() as reporter:
        figures = compare_models(
            first,
            second,
            planned,
            world=found.get("world"),
            corpus=found.get("corpus"),
            feedback=found.get("feedback"),
            limit=limit,
            seed=seed,
            by=by,
            records=records,
            progress=reporter.begin("compare", "exam", resumed=False),
        )
    _show(figures)
    if json_file:
        write_json(json_file, figures)


def _show(figures: dict[str, Any]) -> None:
    """The table, and below it what must be known to read it."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from hanlin.cli.console import make_console

    table = Table(
        title=escape(f"A  {figures['a']}\nB  {figures['b']}"),
        title_justify="left",
        title_style="bold",
        caption="Items are counted by who did better on them: wins are B's, and a tie is half of one. p is two-sided.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("task, metric", no_wrap=True)
    for column in ("A", "B", "B - A", "95 % interval", "p"):
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("test", overflow="fold")
    for column in ("win/tie/loss", "win rate"):
        table.add_column(column, justify="right", overflow="fold")
    task = part = ""
    for row in figures["rows"]:
        if row["task"] != task:
            task, part = row["task"], ""
            table.add_row(f"[bold]{escape(task)}[/bold]")
        if row["part"] != part:
            part = row["part"]
            table.add_row(f"  [dim]{escape(part)}[/dim]")
        rate = row["win_rate"]
        table.add_row(
            ("    " if part else "  ") + escape(row["metric"]),
            f"{row['a']:.3f}",
            f"{row['b']:.3f}",
            f"[bold]{row['difference']:+.3f}[/bold]",
            escape(f"[{row['low']:+.3f}, {row['high']:+.3f}]"),
            f"{row['p_value']:.2g}",
            row["test"].removeprefix("exact ").removesuffix(" permutation"),
            f"{row['wins']}/{row['ties']}/{row['losses']}",
            escape(f"{rate['value']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]"),
        )
    console = make_console()
    console.print(table)
    for name, how in figures["how"].items():
        if how["chat"][0] != how["chat"][1]:
            ways = ["through its chat template" if chat else "as plain text" for chat in how["chat"]]
            console.print(f"{escape(name)}: A was asked {ways[0]}, B {ways[1]}.")
        cut = how["truncated"]
        if any(cut):
            console.print(f"{escape(name)}: items cut to fit the model's context: {cut[0]} (A), {cut[1]} (B).")
    for name, note in figures["notes"].items():
        console.print(f"{escape(name)}: {escape(note)}")

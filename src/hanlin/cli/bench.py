"""`hanlin bench`: how fast something is."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(no_args_is_help=True, help="Measure how fast something is.")


class Endpoint(StrEnum):
    """What is asked of the server."""

    chat = "chat"
    completions = "completions"


@app.callback()
def _group() -> None:
    pass


def _lengths(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    if not low.isdecimal() or not (high or low).isdecimal():
        raise typer.BadParameter(f"{text!r} is no length such as 128, and no range such as 100-1024")
    return int(low), int(high or low)


@app.command()
def serve(
    url: Annotated[str, typer.Argument(help="Where the server is, as in http://127.0.0.1:8000.")],
    model: Annotated[
        str | None, typer.Option(help="The model's name there. Default: the first that is listed.")
    ] = None,
    endpoint: Annotated[Endpoint, typer.Option(help="What is asked.")] = Endpoint.chat,
    num_prompts: Annotated[int, typer.Option(min=1, help="Requests in all.")] = 100,
    request_rate: Annotated[
        float, typer.Option(help="Requests a second, arriving at random (a Poisson process); inf: all at once.")
    ] = float("inf"),
    max_concurrency: Annotated[
        int | None, typer.Option(min=1, help="At most so many at once. Default: no bound.")
    ] = None,
    input_len: Annotated[str, typer.Option(help="Tokens of a random prompt: a number, or a range.")] = "128-512",
    output_len: Annotated[str, typer.Option(help="Tokens of an answer at most: a number, or a range.")] = "128",
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts from a file: a text with one a line, or any file of data with prompts.")
    ] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Ask for answers of that very length (hanlin, vLLM and SGLang).")
    ] = False,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same prompts, lengths, arrivals.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds after which a request counts as failed.")] = 600.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Measure any OpenAI-compatible server: throughput, time to first token, time per token.

    One request is made before the clock starts. A key is taken from the environment: HANLIN_API_KEY.

    [bold]hanlin bench serve http://127.0.0.1:8000 --request-rate 4 --input-len 100-1024 --output-len 100-1024
    --ignore-eos[/bold]

    ttft: milliseconds to the first text. tpot: for each further token. itl: between two pieces of the stream. e2el: for
    the whole answer.
    """
    import asyncio
    import os

    from hanlin.artifacts import write_json
    from hanlin.cli.console import ConsoleReporter, make_console
    from hanlin.serving.bench import BenchSettings, bench

    values: dict[str, Any] = {
        "url": url,
        "model": model,
        "endpoint": endpoint.value,
        "num_prompts": num_prompts,
        "request_rate": request_rate,
        "max_concurrency": max_concurrency,
        "input_len": _lengths(input_len),
        "output_len": _lengths(output_len),
        "prompts": prompts,
        "ignore_eos": ignore_eos,
        "temperature": temperature,
        "seed": seed,
        "timeout": timeout,
        "key": os.environ.get("HANLIN_API_KEY") or None,
    }
    settings = BenchSettings.model_validate(values)
    with ConsoleReporter() as reporter:
        found = asyncio.run(bench(settings, reporter.begin("bench", "bench", resumed=False)))
    _show(make_console(), found)
    if json_file:
        write_json(json_file, found)
    if not found["completed"]:
        raise typer.Exit(1)


def _show(console: Console, found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    asked = found["completed"] + found["failed"]
    console.print(
        f"[bold]{escape(found['model'])}[/bold]  {found['completed']} of {asked} requests in {found['duration']:.1f} s"
        f", at most {found['max_concurrent_requests']} at once"
    )
    rates = ("request_throughput", "requests/s"), ("output_throughput", "output tokens/s")
    console.print(
        "  ".join(f"{what} [bold]{found[name]:,.2f}[/bold]" for name, what in rates)
        + f"  ({found['total_input_tokens']:,} tokens in, {found['total_output_tokens']:,} out)"
    )
    table = Table()
    for column in ("ms", "mean", "median", "p95", "p99"):
        table.add_column(column, justify="left" if column == "ms" else "right")
    for name in ("ttft", "tpot", "itl", "e2el"):
        values = [found[f"{kind}_{name}_ms"] for kind in ("mean", "median", "p95", "p99")]
        table.add_row(name, *("" if value is None else f"{value:,.2f}" for value in values))
    console.print(table)
    for error, count in found["errors"].items():
        console.print(f"[red]{count} × {escape(error)}[/red]")

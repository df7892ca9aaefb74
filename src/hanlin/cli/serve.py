"""`hanlin serve`: models behind an OpenAI-compatible API and a chat page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanlin.cli.generate import Dtype


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL_OR_RUN…",
            help="A model's directory, or a run's (its last chat model that passed its exam); NAME=PATH names it, "
            "NAME@VERSION=PATH its version too. Instead of those of the settings' file.",
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1). Others need API keys.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (8000); 0 takes a free one.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Precision of weights and computation (float32).")] = None,
    database: Annotated[str | None, typer.Option(help="Where keys and feedback are: a path or a URL.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of settings (docs/serving.md).")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the chat page in the browser.")] = False,
    supervised: Annotated[
        bool, typer.Option("--supervised", help="Begin again whenever the service ends by itself (kill -9, memory).")
    ] = False,
) -> None:
    """Serve models to people and programs.

    Settings come from the file, then from the environment (HANLIN_SERVE_PORT=…), then from these flags.
    """
    import os
    import webbrowser

    from hanlin.artifacts import UsageError
    from hanlin.cli.console import make_console
    from hanlin.serving.launch import launch
    from hanlin.serving.settings import load_settings, parse_model
    from hanlin.serving.supervise import supervise

    console = make_console()
    flags = {
        "models": [parse_model(text) for text in models] if models else None,
        "host": host,
        "port": port,
        "dtype": None if dtype is None else dtype.value,
        "database": database,
    }
    settings = load_settings(config, os.environ, flags)
    first = True

    def say(line: str) -> None:
        console.print(line, markup=False)

    def started(address: str) -> None:
        say(f"{address}  (API: {address}/v1; Ctrl-C stops)")
        if open_ and first:
            webbrowser.open(address)

    if supervised:
        if settings.port == 0:
            raise UsageError("--supervised needs a port of its own: with port 0 clients would not find it again")
        first = supervise(say)
    launch(settings, say, started)

"""The `hanlin` command: its verbs, and how errors end it (0 well, 1 an explained failure, 2 bad usage)."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hanlin import __version__
from hanlin.artifacts.errors import HanlinError, UsageError
from hanlin.cli import (
    bench,
    chat,
    compare,
    data,
    evaluate,
    export,
    feedback,
    generate,
    keys,
    lineage,
    prove,
    recipe,
    results,
    run,
    serve,
    trace,
)

INTERRUPTED = 130
"""Status after Ctrl-C, which typer turns into an exit."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "From a folder of text to a language model that has been examined and that you can talk to.\n\n"
        "Begin with [bold]hanlin run world[/bold] (the demo), then [bold]hanlin run own-text "
        "corpus.inputs=FOLDER minutes=10[/bold] with your own text."
    ),
)
app.command("run")(run.run)
app.command("chat")(chat.chat)
app.command("serve")(serve.serve)
app.command("generate")(generate.generate)
app.command("eval")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("prove")(prove.prove)
app.command("export")(export.export)
app.command("results")(results.results)
app.command("trace")(trace.trace)
app.command("lineage")(lineage.lineage)
app.add_typer(recipe.app, name="recipe")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(keys.app, name="keys")
app.add_typer(feedback.app, name="feedback")


def _version(value: bool) -> None:
    if value:
        print(f"hanlin {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. Allowed anywhere.")] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the command."""
    arguments = sys.argv[1:]
    head = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug = "--debug" in head
    if debug:
        arguments.remove("--debug")
    try:
        app(arguments, standalone_mode=True, prog_name="hanlin")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _say("stopped." + (" The same command goes on from where it was." if head[:1] == ["run"] else ""))
        raise
    except HanlinError as error:
        if debug:
            raise
        _say(str(error))
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except Exception as error:
        if debug:
            raise
        _say(f"internal error: {type(error).__name__}: {error}. With --debug the traceback is shown.")
        sys.exit(1)


def _say(message: str) -> None:
    print(f"hanlin: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()

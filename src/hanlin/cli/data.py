"""`hanlin data`: look at data files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Look at data before it is trained on.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def preview(
    file: Annotated[
        Path, typer.Argument(help="A file of instructions, conversations or preferences, in any known form.")
    ],
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer's or model's directory. Default: plain bytes.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many rows to show.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what was understood of a file: its form, its rows, and each token, with what is trained on marked."""
    from hanlin.data.preview import preview_file, render_preview

    found = preview_file(file, tokenizer, rows)
    if as_json:
        import dataclasses
        import json

        print(json.dumps(dataclasses.asdict(found), ensure_ascii=False, indent=1))
    else:
        from hanlin.cli.console import make_console

        render_preview(found, make_console())

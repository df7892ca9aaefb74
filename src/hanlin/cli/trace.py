"""`hanlin trace`: which documents a training step saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def trace(
    run: Annotated[Path, typer.Argument(help="A run directory, or the folder of one of its training stages.")],
    step: Annotated[int, typer.Option(min=0, help="The training step, from 0.")],
    stage: Annotated[str | None, typer.Option(help="Which training stage; default: the first.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Print the documents, and the places in the files, that were in the batch of a training step."""
    from hanlin.recipes.trace import trace_step

    found = trace_step(run, step, stage)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
        return
    from rich.table import Table

    from hanlin.cli.console import make_console

    table = Table(title=f"step {step} of {found['stage']}: {len(found['documents'])} pieces of documents")
    # Of a pretrained document the bytes of its file are known; of a conversation its place among the file's records.
    places = [name for name in ("source", "file", "offset", "bytes", "record", "line") if name in found["documents"][0]]
    for column in ("row", "positions", *places, "tokens", "document"):
        table.add_column(column, overflow="fold")
    for piece in found["documents"]:
        table.add_row(
            str(piece["row"]),
            f"{piece['positions'][0]}–{piece['positions'][1]}",
            *(str(piece[name]) for name in places),
            f"{piece['first_token']}–{piece['last_token']}",
            _short(str(piece["document"])),
        )
    make_console().print(table)


def _short(document: str) -> str:
    """A hash by its beginning; any other name whole."""
    return document[:12] if len(document) == 64 else document

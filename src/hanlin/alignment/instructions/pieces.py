"""Long work in numbered pieces, each written whole or not at all: what was done before a kill is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hanlin.artifacts import HanlinError, Progress, write_text

FOLDER = "pieces"
"""Below a stage's workdir; transient."""
T = TypeVar("T")


class Pieces:
    """Append-only files `pieces/<name>/00000.json`, …: piece n is a function of what is given and of pieces < n."""

    def __init__(self, workdir: Path, name: str) -> None:
        self._folder = workdir / FOLDER / name

    def read(self, number: int) -> Any | None:
        """What was written as piece `number`; None when it was not."""
        path = self._path(number)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def write(self, number: int, value: Any) -> Any:
        """Write a JSON-able value atomically, and hand it back as a reader of the file would have it."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        write_text(self._path(number), text + "\n")
        return json.loads(text)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05}.json"


def in_pieces(
    workdir: Path,
    name: str,
    rows: Sequence[T],
    size: int,
    measure: Callable[[Sequence[T]], list[Any]],
    progress: Progress,
    note: str,
) -> list[Any]:
    """`measure` of all rows, `size` at a time: one JSON-able value a row, in their order."""
    pieces = Pieces(workdir, name)
    found: list[Any] = []
    for number, start in enumerate(range(0, len(rows), size)):
        part = rows[start : start + size]
        values = pieces.read(number)
        if values is None:
            values = pieces.write(number, measure(part))
        if len(values) != len(part):
            raise HanlinError(f"{workdir / FOLDER / name} does not belong to these rows: remove it to measure anew.")
        found += values
        progress.update(len(found), len(rows), note)
    return found

"""Prompts in text files: those that come with hanlin, and the user's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from hanlin.artifacts import HanlinError, UsageError
from hanlin.evaluation import templates

_FOLDER = resources.files("hanlin.alignment.instructions") / "prompts"


def read_prompt(own: str | None, name: str) -> str:
    """The user's prompt file (`own`, or `name`.txt in the folder `own`), or the one called `name` that comes with
    hanlin. It is a template; its last line break is left off.

    Raises UsageError for a file that is not there, HanlinError for one that is no template.
    """
    path = None if own is None else Path(own).expanduser()
    if path is not None and path.is_dir():  # it replaces some of the prompts
        path = path / f"{name}.txt" if (path / f"{name}.txt").is_file() else None
    if path is None:
        source = (_FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    else:
        if not path.is_file():
            raise UsageError(f"there is no prompt file {own}.")
        source = path.read_text(encoding="utf-8")
    source = source.removesuffix("\n")
    try:
        templates.check(source, expression=False)
    except ValueError as error:
        raise HanlinError(f"{own or name}: {error}.") from None
    return source


def fill(prompt: str, where: str, **fields: Any) -> str:
    """The prompt with its fields. Raises HanlinError naming `where` for a field that it uses and is not given."""
    return templates.render(prompt, fields, where)

"""Principles: a text file with one in each paragraph, by which a model is asked to judge answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from hanlin.alignment.instructions.chance import number
from hanlin.artifacts import HanlinError, UsageError
from hanlin.artifacts.written import nearest
from hanlin.corpus.language import han_share

LIBRARY = resources.files("hanlin.alignment.constitution") / "library"
LONGEST = 2_000
"""Characters of a principle; a longer paragraph is from a text that is something else"""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Principle:
    """One principle."""

    text: str
    place: str
    """File and line (`general.txt:7`)"""

    @property
    def language(self) -> str:
        """As `language_of`."""
        return language_of(self.text)


def language_of(text: str) -> str:
    """`zh` for what is mostly written in Han signs, `en` for everything else: the languages of the library and of the
    prompts that come with hanlin."""
    return "zh" if (han_share(text) or 0) > 0.5 else "en"


def library() -> list[str]:
    """Names of the files of principles that come with hanlin."""
    return sorted(entry.name.removesuffix(".txt") for entry in LIBRARY.iterdir() if entry.name.endswith(".txt"))


def source_of(name: str) -> tuple[str, bytes]:
    """(file's name, its bytes) of a library name or of the user's file. Raises UsageError when there is none."""
    if name in library():
        return f"{name}.txt", (LIBRARY / f"{name}.txt").read_bytes()
    path = Path(name).expanduser()
    if not path.is_file():
        raise UsageError(
            f"there is no file of principles {name!r}{nearest(name, library()) or '.'} Give the path of a text file, "
            f"or a name of the library: {', '.join(library())}."
        )
    return path.name, path.read_bytes()


def load_principles(names: Sequence[str]) -> list[Principle]:
    """The principles of several files, library names or paths, in order.

    Raises UsageError for a file that is not there, HanlinError for one that is no file of principles, and for a
    principle that stands twice: it would be drawn twice as often.
    """
    found: list[Principle] = []
    for name in names:
        file, data = source_of(name)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise HanlinError(f"{file} is no UTF-8 text at byte {error.start}: save it as UTF-8.") from None
        found += parse_principles(text, file)
    first: dict[str, Principle] = {}
    for one in found:
        if one.text in first:
            raise HanlinError(f"{one.place}: this principle stands already at {first[one.text].place}. Remove one.")
        first[one.text] = one
    return found


def parse_principles(text: str, file: str) -> list[Principle]:
    """The paragraphs of `text`, which blank lines part; lines that begin with `#` are left out, and the lines of a
    paragraph are joined. Raises HanlinError, with the line, for what is no principle, and when there is none."""
    found: list[Principle] = []
    lines: list[str] = []
    start = 0
    for place, line in enumerate([*text.splitlines(), ""], start=1):
        line = line.strip()
        if line.startswith("#"):
            continue
        if line:
            if match := _CONTROL.search(line):
                raise HanlinError(f"{file}:{place}: the character {match.group()!r} is no text.")
            start = start if lines else place
            lines.append(line)
        elif lines:
            found.append(Principle(_checked(_joined(lines), file, start), f"{file}:{start}"))
            lines = []
    if not found:
        raise HanlinError(f"{file} holds no principle: write one a paragraph, with blank lines between them.")
    return found


def draw_principle(principles: Sequence[Principle], language: str, *key: Any) -> Principle:
    """One of those in `language` (or, when there are none, of all) by hash of `key`."""
    among = [one for one in principles if one.language == language] or principles
    return among[number("principle", *key) % len(among)]


def _joined(lines: Sequence[str]) -> str:
    """Lines as one; Chinese has no space where a line was broken."""
    whole = lines[0]
    for line in lines[1:]:
        whole += ("" if language_of(whole[-8:]) == language_of(line[:8]) == "zh" else " ") + line
    return whole


def _checked(text: str, file: str, line: int) -> str:
    if len(text) > LONGEST:
        raise HanlinError(
            f"{file}:{line}: this paragraph has {len(text):,} characters and a principle at most {LONGEST:,}: part "
            "principles by blank lines."
        )
    if not any(map(str.isalpha, text)):
        raise HanlinError(f"{file}:{line}: {text[:40]!r} has no letters, and is no principle. Begin comments with #.")
    return text

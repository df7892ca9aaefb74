"""Reading the phrasing files, and filling a template with a fact."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_SECTION = re.compile(r"\[([a-z]+\.[a-z_]+)\]")


@dataclass(slots=True)
class Phrasings:
    """The questions that ask for one attribute in one language; the five lists never share a line."""

    training: list[str] = field(default_factory=list[str])
    exam: list[str] = field(default_factory=list[str])
    stems: list[str] = field(default_factory=list[str])
    follow_training: list[str] = field(default_factory=list[str])
    follow_exam: list[str] = field(default_factory=list[str])


def _sections(block: str) -> list[tuple[str, list[str]]]:
    sections: list[tuple[str, list[str]]] = []
    for line in block.strip().splitlines():
        if match := _SECTION.fullmatch(line):
            sections.append((match[1], []))
        elif line:
            sections[-1][1].append(line)
    return sections


def parse_statements(block: str) -> dict[str, tuple[str, ...]]:
    """Templates by attribute ("person.birthplace"), in the order of the block."""
    return {name: tuple(lines) for name, lines in _sections(block)}


def parse_questions(block: str) -> dict[str, Phrasings]:
    """Questions by attribute; the marks are explained in `questions_en`."""
    result: dict[str, Phrasings] = {}
    for name, lines in _sections(block):
        phrasings = result.setdefault(name, Phrasings())
        lists = {
            "?": phrasings.exam,
            ">": phrasings.stems,
            "+": phrasings.follow_training,
            "-": phrasings.follow_exam,
        }
        for line in lines:
            if line[0] in lists and line[1] == " ":
                lists[line[0]].append(line[2:])
            else:
                phrasings.training.append(line)
    return result


def with_article(word: str) -> str:
    """The English word with its indefinite article: "an engineer", "a baker"."""
    return ("an " if word[0] in "aeiou" else "a ") + word


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]

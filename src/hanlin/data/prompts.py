"""Prompts to be answered by a model: read from files of their own, or from instructions and preferences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hanlin.data.formats import (
    INSTRUCTION_FORMS,
    PREFERENCE_FORMS,
    PlainText,
    ReadReport,
    detect,
    prompt_messages,
    read_forms,
    to_example,
)
from hanlin.data.messages import RowError, parse_tools, with_system
from hanlin.data.preferences import to_rankings
from hanlin.tokenization import Message

PROMPT_FORM = "prompt"
PROMPT_FORMS = {
    PROMPT_FORM: "prompt (a text or messages), with answers (accepted ones) or without",
    **INSTRUCTION_FORMS,
    **PREFERENCE_FORMS,
}


@dataclass
class Prompt:
    """What is asked, and what a program would need to mark the answer."""

    messages: list[Message]
    answers: list[str] = field(default_factory=list[str])
    """Accepted answers; empty where there is none to compare with"""
    row: dict[str, Any] = field(default_factory=dict[str, Any])
    """The row of a file of prompts as it was, for programs that look at more"""
    tools: list[dict[str, Any]] | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


def form_of(row: dict[str, Any]) -> str | None:
    """As `formats.detect`, with prompts as a form of their own."""
    known = detect(row)
    if known is None and row.get("prompt") is not None:
        return PROMPT_FORM
    return known


def to_prompts(row: dict[str, Any], form: str) -> list[Prompt]:
    """The prompt of a row, whose last message is the user's (or a tool's). Raises RowError with the reason."""
    if form == PROMPT_FORM:
        messages = with_system(prompt_messages(row["prompt"]), row.get("system"))
        given: Any = row.get("answers", row.get("answer"))
        answers = [given] if isinstance(given, str) else given or []
        if not isinstance(answers, list) or not all(isinstance(one, str) for one in cast(list[Any], answers)):
            raise RowError("answers should be a list of texts")
        found = Prompt(messages, cast(list[str], answers), row, parse_tools(row.get("tools")))
    elif form in PREFERENCE_FORMS:
        ranking = to_rankings(row, form)[0]
        found = Prompt(ranking.prompt, tools=ranking.tools)
    else:
        example = to_example(row, form)[0]
        if isinstance(example, PlainText):
            raise RowError("a text is no prompt")
        last = max(place for place, message in enumerate(example.messages) if message.role == "assistant")
        answer = example.messages[last].content
        found = Prompt(example.messages[:last], [answer] if answer else [], tools=example.tools)
    if not found.messages or found.messages[-1].role == "assistant":
        raise RowError("there is no question before the answer")
    return [found]


def read_prompts(paths: Path | Iterable[Path]) -> tuple[list[Prompt], ReadReport]:
    """Every prompt in some files, with the account of the reading; of a conversation, what stands before its last
    answer, which is kept as the accepted one. Raises HanlinError for a file of unknown form."""
    given = [paths] if isinstance(paths, Path) else paths
    return read_forms(given, PROMPT_FORMS, to_prompts, form_of)

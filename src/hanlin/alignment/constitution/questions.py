"""What is asked: prompts from files and worlds, and the groups of answers that are to be compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.alignment.constitution.principles import language_of
from hanlin.alignment.constitution.texts import as_text, said
from hanlin.alignment.instructions.chance import draw
from hanlin.artifacts import digest

if TYPE_CHECKING:
    from hanlin.alignment.instructions.account import Account
    from hanlin.data.formats import ReadReport
    from hanlin.tokenization import Message

WORLD_FILE = "prompts.jsonl"
_SPACE = re.compile(r"\s+")


@dataclass
class Question:
    """A conversation that ends where the assistant is to speak."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    """Where it came from: file, row, line"""
    row: dict[str, Any] | None = None
    """A world's prompt as it was, which its judge marks answers by"""

    @cached_property
    def id(self) -> str:
        """16 hex digits of what is asked."""
        return digest({"messages": self.messages, "tools": self.tools})[:16]

    @cached_property
    def language(self) -> str:
        """In which language it is judged, as `language_of`: by what the user says."""
        return language_of("\n".join(said(one) for one in self.messages if one["role"] == "user"))

    @property
    def conversation(self) -> str:
        """As a judge is shown it."""
        return as_text(self.messages, self.language)

    def origin(self) -> dict[str, Any]:
        """What a row that is made of it says of where it came from."""
        return {"source": "constitution", "prompt": self.id, "language": self.language, **self.metadata}


@dataclass
class Group:
    """A question with different answers to it."""

    question: Question
    answers: list[list[dict[str, Any]]]
    """The assistant's messages of each"""
    scores: list[float] | None = None
    """How good people found each, where that is known"""

    @cached_property
    def texts(self) -> list[str]:
        """Each answer as a judge is shown it."""
        return [answer_text(one, self.question.language) for one in self.answers]


def answer_text(messages: Sequence[dict[str, Any]], language: str) -> str:
    """One message's words; of several (a tool was called in between) the conversation."""
    return said(messages[0]) if len(messages) == 1 else as_text(messages, language)


def read_questions(
    data: Sequence[Path], world: Path | None, most: int | None, seed: int, account: Account
) -> tuple[list[Question], list[ReadReport]]:
    """The different prompts of the user's files and of a world, in order; of more than `most` those that a hash draws.

    Rows that can't be used, repetitions and what is over `most` are dropped in the account.
    """
    from hanlin.data.prompts import read_prompts

    found: dict[str, Question] = {}
    reports: list[ReadReport] = []
    for paths, is_world in ((data, False), ([world / WORLD_FILE] if world is not None else [], True)):
        if not paths:
            continue
        prompts, report = read_prompts(paths)
        reports.append(report)
        account.enter("world" if is_world else "data", len(prompts) + len(report.quarantined))
        for bad in report.quarantined:
            account.drop({"file": bad.file, "row": bad.number, "line": bad.line}, "unreadable", detail=bad.reason)
        for prompt in prompts:
            question = Question(
                _dicts(prompt.messages), prompt.tools, dict(prompt.metadata), prompt.row if is_world else None
            )
            if question.id in found:
                account.drop({"prompt": question.id, **question.metadata}, "duplicate")
            else:
                found[question.id] = question
    questions = list(found.values())
    if most is None or len(questions) <= most:
        return questions, reports
    chosen = set(draw(list(found), most, seed, "questions"))
    for question in questions:
        if question.id not in chosen:
            account.drop({"prompt": question.id, **question.metadata}, "surplus", len(questions), most)
    return [question for question in questions if question.id in chosen], reports


def read_groups(
    paths: Sequence[Path], most: int | None, seed: int, account: Account
) -> tuple[list[Group], list[ReadReport]]:
    """Answers that are there already, from preference files of any form, with the scores that they have there; rows
    with one answer only (KTO's) are dropped in the account, as in `read_questions`."""
    from hanlin.data.preferences import read_rankings

    if not paths:
        return [], []
    rankings, report = read_rankings(paths)
    account.enter("pairs", len(rankings) + len(report.quarantined))
    for bad in report.quarantined:
        account.drop({"file": bad.file, "row": bad.number, "line": bad.line}, "unreadable", detail=bad.reason)
    found: dict[str, Group] = {}
    for ranking in rankings:
        place = {key: ranking.metadata[key] for key in ("file", "row", "line") if key in ranking.metadata}
        question = Question(_dicts(ranking.prompt), ranking.tools, place)
        group = Group(question, [_dicts(answer) for answer in ranking.answers], ranking.scores)
        name = digest([question.id, group.answers])
        if len(group.answers) < 2:
            account.drop(place, "one_answer")
        elif len({plain(text) for text in group.texts}) < len(group.texts):
            account.drop(place, "same_answers")
        elif name in found:
            account.drop(place, "duplicate")
        else:
            found[name] = group
    if most is None or len(found) <= most:
        return list(found.values()), [report]
    chosen = set(draw(list(found), most, seed, "groups"))
    for name, group in found.items():
        if name not in chosen:
            account.drop(group.question.metadata, "surplus", len(found), most)
    return [group for name, group in found.items() if name in chosen], [report]


def plain(text: str) -> str:
    """What two answers have in common that differ in white space only."""
    return _SPACE.sub(" ", text).strip()


def _dicts(messages: Iterable[Message]) -> list[dict[str, Any]]:
    return [message.to_dict() for message in messages]

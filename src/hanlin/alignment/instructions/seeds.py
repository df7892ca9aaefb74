"""Seed tasks: the few that people wrote, from which a model makes many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hanlin.artifacts import HanlinError
from hanlin.data.formats import detect, to_example
from hanlin.data.messages import RowError
from hanlin.data.rows import BadRow, data_files, read_rows
from hanlin.tokenization import Conversation


@dataclass(frozen=True)
class Pair:
    """A task done once."""

    input: str
    output: str


@dataclass(frozen=True)
class Task:
    """An instruction with the times it was done."""

    id: str
    instruction: str
    pairs: tuple[Pair, ...] = ()
    classification: bool = False
    origin: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of a generated task: from what and how"""

    def to_json(self) -> dict[str, Any]:
        """As a piece of work keeps it."""
        pairs = [{"input": pair.input, "output": pair.output} for pair in self.pairs]
        kept = {"id": self.id, "instruction": self.instruction, "pairs": pairs}
        return {**kept, "classification": self.classification, "origin": self.origin}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Task:
        """Undo `to_json`."""
        pairs = tuple(Pair(pair["input"], pair["output"]) for pair in value["pairs"])
        return Task(value["id"], value["instruction"], pairs, value["classification"], value["origin"])


def read_seeds(path: Path) -> list[Task]:
    """Seed tasks in the form of self-instruct's own file (`instruction`, `instances` of {input, output},
    `is_classification`), or as instructions of any known form of one turn (Alpaca, messages, …).

    Raises HanlinError, naming file and row, for a row that is neither: a seed stands behind all that comes after it.
    """
    tasks: list[Task] = []
    for file in data_files(path):
        for row in read_rows(file)[1]:
            if isinstance(row, BadRow):
                raise HanlinError(f"{row}. Mend the seed tasks: there are few, and all count.")
            where = f"{row.file}, row {row.number}"
            identity = str(row.value["id"]) if isinstance(row.value.get("id"), str | int) else f"seed-{len(tasks)}"
            tasks.append(_task(row.value, identity, where))
    names = [task.id for task in tasks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise HanlinError(f"{path}: two seed tasks have the id {twice!r}; provenance goes by ids: make them differ.")
    return tasks


def _task(value: dict[str, Any], identity: str, where: str) -> Task:
    instruction, instances = value.get("instruction"), value.get("instances")
    if isinstance(instruction, str) and isinstance(instances, list):
        pairs = tuple(_pair(one, where) for one in cast(list[Any], instances))
        return _checked(Task(identity, instruction.strip(), pairs, value.get("is_classification") is True), where)
    if isinstance(instruction, str) and isinstance(value.get("output"), str) and not value.get("history"):
        pair = Pair(str(value.get("input") or "").strip(), value["output"].strip())
        return _checked(Task(identity, instruction.strip(), (pair,), value.get("is_classification") is True), where)
    form = detect(value)
    if form is None:
        raise HanlinError(f"{where}: a seed task has instruction and instances, or is an instruction of a known form.")
    try:
        example = to_example(value, form)[0]
    except RowError as error:
        raise HanlinError(f"{where}: {error}") from None
    roles = [message.role for message in example.messages] if isinstance(example, Conversation) else []
    if not isinstance(example, Conversation) or roles != ["user", "assistant"]:
        raise HanlinError(f"{where}: a seed task is one question with one answer, not {roles or 'plain text'}.")
    question, answer = (message.content.strip() for message in example.messages)
    return _checked(Task(identity, question, (Pair("", answer),)), where)


def _pair(value: Any, where: str) -> Pair:
    one = cast(dict[str, Any], value) if isinstance(value, dict) else {}
    given, output = one.get("input") or "", one.get("output")
    if not isinstance(given, str) or not isinstance(output, str):
        raise HanlinError(f"{where}: an instance has an input (or none) and an output, both text; it is {value!r}.")
    return Pair(given.strip(), output.strip())


def _checked(task: Task, where: str) -> Task:
    if not task.instruction or not task.pairs or not all(pair.output for pair in task.pairs):
        raise HanlinError(f"{where}: a seed task needs an instruction, and an output in each of its instances.")
    return task


def question_of(instruction: str, given: str) -> str:
    """What the user says: the instruction, and its input below it."""
    return f"{instruction}\n{given}" if given else instruction


def classes(tasks: Sequence[Task], classification: bool) -> list[Task]:
    """Those that are (or are not) answered by fixed labels."""
    return [task for task in tasks if task.classification == classification]

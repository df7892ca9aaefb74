"""Items: the questions of a task, read from its rows and filled into its templates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hanlin.artifacts import HanlinError
from hanlin.evaluation import templates
from hanlin.evaluation.constraints import Constraint
from hanlin.evaluation.tasks import Task
from hanlin.world.judge import KINDS


@dataclass(frozen=True, slots=True)
class Item:
    """A question of an exam."""

    id: str
    prompt: str
    """The question as text (of a conversation: its last message)."""
    plain: str = ""
    """The text that a model without a chat template goes on from."""
    delimiter: str = ""
    """What stands between the question and its answer where no chat template is used."""
    messages: tuple[dict[str, Any], ...] | None = None
    """The whole conversation, where the item has one."""
    contexts: tuple[str, ...] = ()
    """Of a choice between contexts: one a choice, each followed by the same continuation."""
    choices: tuple[str, ...] = ()
    answer: int = -1
    """Index of the right choice."""
    answers: tuple[str, ...] = ()
    """Accepted answers of a generate task."""
    kind: str = ""
    """What the judge goes by, of a task that it marks."""
    shown: str = ""
    """The answer as a few-shot example shows it."""
    turns: tuple[str, ...] = ()
    """Of persistence: what the user says, turn by turn."""
    rule: Constraint | None = None
    """Of persistence: the instruction that is to hold over them."""
    tags: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    """What results are broken down by."""


def read_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a JSONL file with `file:line` for messages. Raises HanlinError for a line that is no JSON
    object."""
    rows: list[tuple[str, dict[str, Any]]] = []
    row: Any
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise HanlinError(
                        f"{where}: not valid JSON ({error}). A task's data is one JSON object a line."
                    ) from None
                if not isinstance(row, dict):
                    raise HanlinError(f"{where}: a task's data is one JSON object a line, not {type(row).__name__}.")
                rows.append((where, cast(dict[str, Any], row)))
    except (OSError, UnicodeDecodeError) as error:
        raise HanlinError(f"{path} can't be read as a task's data: {error}. It must be a UTF-8 JSONL file.") from None
    return rows


def make_items(task: Task, rows: Iterable[tuple[str, dict[str, Any]]]) -> list[Item]:
    """The items of `task` from its rows (as `read_rows` gives them). Raises HanlinError for none, and for a repeated
    id."""
    items: list[Item] = []
    seen: dict[str, str] = {}
    for number, (where, row) in enumerate(rows):
        identity = str(row.get("id", number))
        if identity in seen:
            raise HanlinError(
                f"{where}: the id {identity!r} stands at {seen[identity]} already. Ids pair items: make them differ."
            )
        seen[identity] = where
        if task.kind == "persistence":
            from hanlin.evaluation.persistence import script_items

            items += script_items(task, row, where, identity)
        else:
            items.append(make_item(task, row, where, identity))
    if not items:
        raise HanlinError(f"task {task.name}: its data holds no items.")
    return items


def make_item(task: Task, row: dict[str, Any], where: str, identity: str) -> Item:
    """One item. Raises HanlinError naming the item and the field for a row that does not fit the task's templates."""
    at = f"{where}: task {task.name}, item {identity}"
    prompt, messages = "", None
    if task.messages is not None and row.get(task.messages) is not None:
        messages = _messages(row[task.messages], at)
        prompt = str(messages[-1]["content"])
    elif task.contexts is None:
        prompt = templates.render(task.prompt, row, at)
    plain = prompt
    if task.plain is not None:
        plain = templates.render(task.plain, row, at)
    elif messages is not None:
        plain = "\n".join(str(message.get("content") or "") for message in messages)
    tags = tags_of(row.get("tags"))
    delimiter = templates.render(task.delimiter, row, at)
    if task.kind == "generate":
        answers = _texts(templates.evaluate(task.answers, row, at), f"{at}: `answers`", least=1)
        shown = templates.render(task.shown, row, at) if task.shown is not None else answers[0]
        kind = _kind(row, at) if task.match == "judge" else ""
        return Item(identity, prompt, plain, delimiter, messages, answers=answers, kind=kind, shown=shown, tags=tags)
    contexts: tuple[str, ...] = ()
    if task.contexts is not None:
        contexts = _texts(templates.evaluate(task.contexts, row, at), f"{at}: `contexts`", least=2)
        assert task.continuation is not None  # the two go together: Task checks it
        choices = (templates.render(task.continuation, row, at),) * len(contexts)
        answer = _index(templates.evaluate(task.answer, row, at), contexts, at)
        whole = contexts[answer] + delimiter + choices[answer]
    else:
        choices = _texts(templates.evaluate(task.choices, row, at), f"{at}: `choices`", least=2)
        answer = _index(templates.evaluate(task.answer, row, at), choices, at)
        whole = choices[answer]
    shown = templates.render(task.shown, row, at) if task.shown is not None else whole
    return Item(identity, prompt, plain, delimiter, messages, contexts, choices, answer, shown=shown, tags=tags)


def _kind(row: dict[str, Any], at: str) -> str:
    kind = row.get("kind")
    if kind not in KINDS:
        raise HanlinError(f"{at}: `kind` must be one of {', '.join(KINDS)}, by which the judge marks; it is {kind!r}.")
    return kind


def _messages(value: Any, at: str) -> tuple[dict[str, Any], ...]:
    turns = cast(list[Any], value) if isinstance(value, list) else []
    if not turns or not all(isinstance(one, dict) and "role" in one and "content" in one for one in turns):
        raise HanlinError(f"{at}: `messages` must be a list of {{role, content}} objects.")
    if turns[-1]["role"] == "assistant":
        raise HanlinError(f"{at}: the conversation ends with the assistant's turn; the last one must be the user's.")
    return tuple(turns)


def _texts(value: Any, at: str, least: int) -> tuple[str, ...]:
    texts = cast(list[Any], value) if isinstance(value, list) else [value]
    found = tuple(str(one) for one in texts if isinstance(one, str | int | float) and str(one) != "")
    if len(found) != len(texts) or len(found) < least:
        raise HanlinError(f"{at} must be {least} or more texts, none empty; it is {value!r}.")
    return found


def _index(value: Any, choices: Sequence[str], at: str) -> int:
    if isinstance(value, str) and value in choices:
        return choices.index(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return value
    raise HanlinError(
        f"{at}: `answer` must be the index (from 0) or the text of one of {len(choices)} choices; it is {value!r}."
    )


def tags_of(value: Any) -> dict[str, str]:
    """A row's `tags`, as texts."""
    tags: dict[Any, Any] = cast(dict[Any, Any], value) if isinstance(value, dict) else {}
    return {str(key): str(one) for key, one in tags.items() if isinstance(one, str | int | bool)}


def select(items: Sequence[Item], count: int | None) -> list[Item]:
    """At most `count` items, those whose ids have the smallest hashes, in their order: a larger count holds a
    smaller."""
    if count is None or len(items) <= count:
        return list(items)
    chosen = {item.id for item in sorted(items, key=lambda item: _hash(item.id))[:count]}
    return [item for item in items if item.id in chosen]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class FewShotPool:
    """Draws a task's solved examples: the same for every item, but never the item itself."""

    def __init__(self, task: Task, pool: Sequence[Item]) -> None:
        """Raises HanlinError when the pool is too small to give every item its examples."""
        self._drawn: list[Item] = []
        self._count = 0
        if task.few_shot is None:
            return
        self._count = task.few_shot.count
        seed = task.few_shot.seed
        order = sorted(pool, key=lambda item: _hash(f"few-shot {seed} {item.id}"))
        seen: set[tuple[str, str]] = set()
        for item in order:
            if _identity(item) not in seen and len(self._drawn) <= self._count:
                seen.add(_identity(item))
                self._drawn.append(item)
        if len(self._drawn) <= self._count:
            raise HanlinError(
                f"task {task.name}: few_shot.count is {self._count}, but there are only {len(self._drawn)} different "
                "examples to draw from, and an item is never shown its own answer: ask for fewer."
            )

    def examples(self, item: Item) -> list[Item]:
        """The examples for `item`; one with its very question (from another file, say) is left out as itself."""
        return [one for one in self._drawn if _question(one) != _question(item)][: self._count]


def _question(item: Item) -> str:
    parts = (
        [item.prompt, *item.contexts] if item.messages is None else [str(one.get("content")) for one in item.messages]
    )
    return "\x00".join(part.strip() for part in parts)


def _identity(item: Item) -> tuple[str, str]:
    return _question(item), item.shown

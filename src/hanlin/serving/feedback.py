"""What users say of answers: stored with their consent, without personal data, once, and deleted when they ask.

`Feedback` is what a client sends, `FeedbackStore` keeps it; `feedback_export` makes training data of it.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import sqlalchemy as sa
from pydantic import Field, StringConstraints, TypeAdapter, field_validator, model_validator
from sqlalchemy.exc import IntegrityError

from hanlin.artifacts import Settings, UsageError, digest
from hanlin.corpus.private import redact
from hanlin.serving.store.database import Database
from hanlin.serving.store.tables import feedback

MOST_CHARACTERS = 400_000
"""Of all texts of one piece of feedback together"""
MOST_MESSAGES = 256
_DEEPEST = 32
Text = Annotated[str, StringConstraints(max_length=MOST_CHARACTERS)]
Name = Annotated[str, StringConstraints(max_length=200)]
Reason = Annotated[str, StringConstraints(max_length=4000)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class NoConsentError(UsageError):
    """Feedback was sent without `consent: true`; nothing of it was kept."""


class FunctionCall(Settings):
    """The function that a tool call calls."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    arguments: Text
    """A JSON object, as text."""

    @field_validator("arguments")
    @classmethod
    def _check(cls, value: str) -> str:
        try:
            parsed = json.loads(value, parse_constant=_refuse)
            depth = _depth(parsed)
        except (ValueError, RecursionError):
            raise ValueError("arguments should be JSON text") from None
        if not isinstance(parsed, dict) or depth > _DEEPEST:
            raise ValueError(f"arguments should be a JSON object, at most {_DEEPEST} deep")
        return value


class ToolCall(Settings):
    """A call that the assistant made, in OpenAI's form."""

    id: Name | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Settings):
    """One message, in OpenAI's form."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | None = None
    """Its text; only an assistant's message with tool calls may have none."""
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, max_length=64)] | None = None
    """The assistant's calls."""
    tool_call_id: Name | None = None
    """The call that a tool's message answers."""
    name: Name | None = None
    """Of the function that a tool's message answers for."""

    @model_validator(mode="after")
    def _check(self) -> ChatMessage:
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError("only the assistant's messages have tool_calls")
        if self.content is None and self.tool_calls is None:
            raise ValueError("content is missing")
        return self


def check_prompt(messages: list[ChatMessage]) -> list[ChatMessage]:
    """Messages that an answer may follow. Raises ValueError."""
    if messages[-1].role not in ("user", "tool"):
        raise ValueError("the last message should be the user's or a tool's: the answer has a field of its own")
    return messages


class _Said(Settings):
    """What every kind of feedback has."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    """The conversation up to the answer: the last message is the user's or a tool's."""
    consent: bool
    """Whether whoever says it lets it be kept and trained on. Without that nothing is kept."""

    _check_prompt = field_validator("messages")(staticmethod(check_prompt))

    @model_validator(mode="after")
    def _check_size(self) -> _Said:
        size = sum(len(text) for text in _texts(self.model_dump()))
        if size > MOST_CHARACTERS:
            raise ValueError(f"its texts have {size:,} characters together; at most {MOST_CHARACTERS:,} are kept")
        return self


class Rating(_Said):
    """One answer is good or bad."""

    kind: Literal["rating"]
    completion_id: Name | None = None
    """The `id` of the completion, to find it in the request log."""
    model: Name
    """The model, and version, that answered."""
    response: Text
    """The answer."""
    rating: Literal["up", "down"]
    """Good or bad."""
    reason: Reason | None = None
    """Why, in the user's words."""
    tags: Annotated[list[Tag], Field(max_length=16, default_factory=list[str])]
    """Why, as the page offers it ("wrong", "too long")."""


class Edit(_Said):
    """An answer as it should have been."""

    kind: Literal["edit"]
    completion_id: Name | None = None
    """As in a rating."""
    model: Name
    """As in a rating."""
    response: Text
    """The answer as it was."""
    edited: Text
    """The answer as it should be; not blank, and another one."""
    reason: Reason | None = None
    """Why, in the user's words."""

    @model_validator(mode="after")
    def _check_edit(self) -> Edit:
        if not self.edited.strip() or self.edited == self.response:
            raise ValueError("edited should be an answer, and another than response")
        return self


class Response(Settings):
    """One of two answers."""

    model: Name
    """The model, and version, that gave it."""
    content: Text
    """The answer."""
    completion_id: Name | None = None
    """As in a rating."""


class Choice(_Said):
    """One of two answers is better, or neither."""

    kind: Literal["preference"]
    responses: Annotated[list[Response], Field(min_length=2, max_length=2)]
    """The two, as they stood on the page."""
    chosen: Annotated[int, Field(ge=0, le=1)] | None
    """The better one; null: neither."""
    reason: Reason | None = None
    """Why, in the user's words."""


Feedback = Annotated[Rating | Edit | Choice, Field(discriminator="kind")]
"""The body of `POST /v1/feedback`."""
FEEDBACK: TypeAdapter[Rating | Edit | Choice] = TypeAdapter(Feedback)
KINDS = ("rating", "edit", "preference")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A piece of feedback in the database."""

    id: str
    kind: str
    author: str
    """The prefix of the key with which it was sent; empty when there was none"""
    created: float
    """Seconds since 1970"""
    content: dict[str, Any]
    """The body, redacted, without `kind` and `consent`"""


class FeedbackStore:
    """The feedback in a database."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    def add(self, said: Rating | Edit | Choice, author: str = "") -> str:
        """Keep it, and return its id; when this has returned it is on disk. The same said again by the same author is
        kept once, and has the same id.

        Personal data is taken out before anything is written or hashed. Raises NoConsentError, and StoreError when it
        could not be kept.
        """
        if not said.consent:
            raise NoConsentError(
                "feedback is kept only with consent: set consent to true, once whoever gave it agrees that it is kept "
                "and trained on"
            )
        counts: Counter[str] = Counter()
        body = said.model_dump(exclude_none=True, exclude={"kind", "consent"})
        content = redacted(body, counts)
        new = f"fb-{secrets.token_hex(12)}"
        row = {
            "id": new,
            "kind": said.kind,
            "author": author,
            "created": self._clock(),
            "content_hash": digest([said.kind, author, content]),
            "content": content,
            "redacted": dict(counts),
        }
        same = sa.select(feedback.c.id).where(feedback.c.content_hash == row["content_hash"])
        for _ in range(2):
            with self._database.read() as connection:
                known = connection.execute(same).scalar_one_or_none()
            if known is not None:
                return known
            try:
                with self._database.write() as connection:
                    connection.execute(feedback.insert().values(row))
                return new
            except IntegrityError:  # it was said twice at once: the other one is there now
                continue
        raise AssertionError("a hash that is taken belongs to a row")

    def withdraw(self, feedback_id: str, author: str | None = None) -> bool:
        """Delete it, and every annotation task that was made of it; False when there is none (any more). An `author`
        deletes only what is theirs; None: whoever it is from."""
        own = feedback.c.id == feedback_id
        if author is not None:
            own = sa.and_(own, feedback.c.author == author)
        with self._database.write() as connection:
            return connection.execute(feedback.delete().where(own)).rowcount > 0

    def rows(self, since: float | None = None, kinds: Iterable[str] = KINDS) -> list[Stored]:
        """All of some kinds, from a moment on, the oldest first."""
        query = sa.select(feedback).where(feedback.c.kind.in_(list(kinds))).order_by(feedback.c.created, feedback.c.id)
        if since is not None:
            query = query.where(feedback.c.created >= since)
        names = tuple(Stored.__dataclass_fields__)
        with self._database.read() as connection:
            return [Stored(**{name: row[name] for name in names}) for row in connection.execute(query).mappings()]


def redacted(value: Any, counts: Counter[str]) -> Any:
    """A JSON value with personal data taken out of all its texts; of numbers too, where a tool's arguments hold them.
    The names of objects' members stay."""
    if isinstance(value, str):
        clean = redact(value)
        counts.update(clean.counts)
        return clean.text
    if isinstance(value, list):
        return [redacted(item, counts) for item in cast(list[Any], value)]
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for name, item in cast(dict[str, Any], value).items():
            if name == "arguments" and isinstance(item, str):
                # As text, a number in it would become a label without quotes, and the whole no JSON any more.
                found[name] = json.dumps(_arguments(json.loads(item), counts), ensure_ascii=False)
            else:
                found[name] = redacted(item, counts)
        return found
    return value


def _arguments(value: Any, counts: Counter[str]) -> Any:
    if isinstance(value, dict):
        return {name: _arguments(item, counts) for name, item in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [_arguments(item, counts) for item in cast(list[Any], value)]
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = redacted(str(value), counts)
        return value if text == str(value) else text
    return redacted(value, counts)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= _DEEPEST:
        depth += 1
        lists = [cast(list[Any], one) for one in level if isinstance(one, list)]
        objects = [cast(dict[str, Any], one) for one in level if isinstance(one, dict)]
        level = [item for one in lists for item in one] + [item for one in objects for item in one.values()]
    return depth


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in cast(list[Any], value):
            yield from _texts(item)
    elif isinstance(value, dict):
        for item in cast(dict[str, Any], value).values():
            yield from _texts(item)

"""Messages as people's files have them (OpenAI, ShareGPT, strings), made into `Message`s or refused with the reason."""

from __future__ import annotations

import json
from typing import Any, cast

from hanlin.artifacts import HanlinError
from hanlin.tokenization import Message

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "function_call": "call",
    "tool_call": "call",
}
"""What files call a speaker, and what that is here ("call": an assistant's message that is a tool call in JSON)."""


class RowError(ValueError):
    """Why a row can't be used."""


def text_of(value: Any, name: str) -> str:
    """`value` as text that can be encoded: a string, or a list of parts (`{"type": "text", "text"|"value": …}`)."""
    if isinstance(value, list):
        return "".join(_part(part, name) for part in cast(list[Any], value))
    if not isinstance(value, str):
        raise RowError(f"{name} should be text, not {_kind(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RowError(f"{name} has half a surrogate pair at character {error.start}") from None
    return value


def _part(part: Any, name: str) -> str:
    if isinstance(part, str):
        return text_of(part, name)
    if not isinstance(part, dict):
        raise RowError(f"{name} has a part that is {_kind(part)}")
    part = cast(dict[str, Any], part)
    kind = part.get("type", "text")
    if kind not in ("text", "input_text", "output_text"):
        raise RowError(f"{name} has a part of type {kind!r}: only text can be trained on")
    return text_of(part["text"] if part.get("text") is not None else part.get("value"), name)


def _kind(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


def parse_messages(value: Any, name: str = "messages") -> list[Message]:
    """A list of messages, or text (one user's message is not guessed: the caller says who speaks).

    Raises RowError for an unknown role, content that is no text, or a list that is none or empty.
    """
    if not isinstance(value, list) or not value:
        raise RowError(f"{name} should be a list of messages, not {'an empty one' if value == [] else _kind(value)}")
    return [parse_message(item, f"{name}[{index}]") for index, item in enumerate(cast(list[Any], value))]


def parse_message(value: Any, name: str) -> Message:
    """One message: `{"role", "content"}` (OpenAI) or `{"from", "value"}` (ShareGPT). Raises RowError."""
    if not isinstance(value, dict):
        raise RowError(f"{name} should be an object with role and content, not {_kind(value)}")
    value = cast(dict[str, Any], value)
    speaker = value["role"] if value.get("role") is not None else value.get("from")
    role = ROLES.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        raise RowError(f"{name} has the role {speaker!r}; known: {', '.join(ROLES)}")
    content = value["content"] if value.get("content") is not None else value.get("value")
    calls: Any = value.get("tool_calls") or None
    if calls is None and value.get("function_call"):
        calls = [value["function_call"]]  # OpenAI's form before 2023-11
    if role == "call":
        calls, content = _json(text_of(content, name), f"{name} is a tool call that"), ""
        calls = cast(list[Any], calls) if isinstance(calls, list) else [calls]
    if calls is not None and not isinstance(calls, list):
        raise RowError(f"{name}'s tool_calls should be a list, not {_kind(calls)}")
    try:
        return Message(
            role="assistant" if role == "call" else role,
            content=text_of("" if content is None and calls else content, f"{name}'s content"),
            tool_calls=cast(list[dict[str, Any]] | None, calls),
            name=_optional(value.get("name")),
            tool_call_id=_optional(value.get("tool_call_id")),
        )
    except HanlinError as error:
        raise RowError(f"{name}: {error}") from None


def _optional(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"{what} is no JSON: {error}") from None


def untrained_answers(value: Any) -> list[int]:
    """Which of the assistant's messages (counted from 0 among them) are not to be trained on: those of `weight` 0
    (OpenAI's word; also `loss_weight`). Other speakers' weights say nothing: they are never trained on.

    Raises RowError for a weight that is neither 0 nor 1.
    """
    found: list[int] = []
    number = 0
    for index, item in enumerate(cast(list[dict[str, Any]], value)):
        speaker = item["role"] if item.get("role") is not None else item.get("from")
        if ROLES.get(str(speaker).lower()) not in ("assistant", "call"):
            continue
        weight = item["weight"] if item.get("weight") is not None else item.get("loss_weight")
        if weight is not None and weight not in (0, 1):
            raise RowError(f"messages[{index}] has the weight {weight!r}: only 0 and 1 can be used")
        if weight == 0:
            found.append(number)
        number += 1
    if found and len(found) == number:
        raise RowError("every answer has the weight 0: there is nothing to train on")
    return found


def parse_tools(value: Any) -> list[dict[str, Any]] | None:
    """`tools` as a list or as a JSON string, bare or wrapped in {"type": "function"}; None when there are none."""
    if isinstance(value, str) and value.strip():
        value = _json(value, "tools is a string that")
    if not value:
        return None
    tools = cast(list[Any], value) if isinstance(value, list) else [value]
    wrapped: list[dict[str, Any]] = []
    for tool in tools:
        if not isinstance(tool, dict):
            raise RowError(f"tools should hold objects, not {_kind(tool)}")
        tool = cast(dict[str, Any], tool)
        function = tool["function"] if isinstance(tool.get("function"), dict) else tool
        if not isinstance(function.get("name"), str):
            raise RowError("tools has one with no name")
        wrapped.append({"type": "function", "function": function})
    return wrapped


def with_system(messages: list[Message], system: Any) -> list[Message]:
    """`messages` after a row's own `system` text, when it has one."""
    if system is None or system == "":
        return messages
    return [Message(role="system", content=text_of(system, "system")), *messages]


def check_answered(messages: list[Message]) -> list[Message]:
    """`messages` as they are, if an assistant says or calls anything in them. Raises RowError otherwise."""
    if not any(m.role == "assistant" for m in messages):
        raise RowError("no message is the assistant's: there is nothing to train on")
    if not any(m.role == "assistant" and (m.content.strip() or m.tool_calls) for m in messages):
        raise RowError("the assistant says nothing: there is nothing to train on")
    return messages

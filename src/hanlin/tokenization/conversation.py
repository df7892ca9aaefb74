"""Messages and conversations: what a chat template renders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from hanlin.artifacts import HanlinError

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. Raises HanlinError for an unknown role, content that is no text, or a tool call that can't be read.

    `content` may be given as a list of parts, `{"type": "text", "text": …}`: they are joined; parts of another type are
    refused. `tool_calls` may be in OpenAI's form or bare (`{"name", "arguments"}`), arguments as an object or as JSON
    text; they are kept as `{"type": "function", "function": {"name", "arguments": {…}}}`, with `id` if there was one.
    """

    role: str
    content: str = ""
    tool_calls: list[dict[str, Any]] | None = None
    name: str | None = None
    """Of the function that a tool's message answers for."""
    tool_call_id: str | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise HanlinError(f"A message has the role {self.role!r}; known are {', '.join(ROLES)}.")
        object.__setattr__(self, "content", _text(self.content, self.role))
        if self.tool_calls is not None:
            if self.role != "assistant":
                raise HanlinError(f"A message of role {self.role} has tool_calls; only the assistant calls tools.")
            object.__setattr__(self, "tool_calls", [_tool_call(call) for call in self.tool_calls] or None)

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Message:
        """A message in OpenAI's form. Keys that no template of ours reads are refused rather than lost."""
        known = ("role", "content", "tool_calls", "name", "tool_call_id")
        unknown = [key for key in value if key not in known and value[key] is not None]
        if unknown or "role" not in value:
            problem = f"has the unknown key {unknown[0]!r}" if unknown else "has no role"
            raise HanlinError(f"A message {problem}: {_short(value)}. Its keys may be {', '.join(known)}.")
        given = {key: value[key] for key in known if value.get(key) is not None}
        return Message(**given)

    def to_dict(self) -> dict[str, Any]:
        """What the template sees: keys that are not set are absent."""
        value: dict[str, Any] = {"role": self.role, "content": self.content}
        for key in ("tool_calls", "name", "tool_call_id"):
            if getattr(self, key) is not None:
                value[key] = getattr(self, key)
        return value


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in their order, the tools (JSON schemas of functions) it may call, and where it is from."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Conversation:
        """From `{"messages": […], "tools": […]}`; other keys become metadata. Raises HanlinError as `Message` does."""
        messages = value.get("messages")
        if not isinstance(messages, list):
            raise HanlinError(f"A conversation has no list of messages: {_short(value)}.")
        tools: Any = value.get("tools")
        if tools is not None and not (isinstance(tools, list) and all(map(_is_object, cast(list[Any], tools)))):
            raise HanlinError(f"A conversation's tools are not a list of objects: {_short(tools)}.")
        rest = {key: item for key, item in value.items() if key not in ("messages", "tools")}
        return Conversation(to_messages(cast(list[Any], messages)), cast(list[dict[str, Any]], tools) or None, rest)


def to_messages(values: Iterable[Message | Mapping[str, Any]]) -> list[Message]:
    """Messages from messages or their dictionaries."""
    messages: list[Message] = []
    for value in values:
        if isinstance(value, Message):
            messages.append(value)
        elif _is_object(value):
            messages.append(Message.from_dict(value))
        else:
            raise HanlinError(f"A message is not an object with role and content: {_short(value)}.")
    return messages


def _text(content: Any, role: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise HanlinError(
            f"The content of a message of role {role} is neither text nor a list of parts: {_short(content)}."
        )
    parts: list[str] = []
    for part in cast(list[Any], content):
        text: Any = part.get("text") if _is_object(part) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise HanlinError(
                f"A part of a message of role {role} is not text: {_short(part)}. "
                'Only {"type": "text", "text": …} can be used: drop the other parts.'
            )
        parts.append(text)
    return "".join(parts)


def _tool_call(call: Any) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise HanlinError(f"A tool call is not an object: {_short(call)}.")
    call = cast(dict[str, Any], call)
    function: Any = call.get("function", call)
    name: Any = function.get("name") if _is_object(function) else None
    if not isinstance(name, str) or not name:
        raise HanlinError(f"A tool call has no function name: {_short(call)}.")
    arguments: Any = cast(dict[str, Any], function).get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            raise HanlinError(f"The arguments of a call to {name} are not JSON: {_short(arguments)}.") from None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise HanlinError(f"The arguments of a call to {name} are not an object: {_short(arguments)}.")
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "…"

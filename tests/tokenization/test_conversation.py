from __future__ import annotations

from typing import Any

import pytest

from hanlin.artifacts import HanlinError
from hanlin.tokenization import Conversation, Message
from hanlin.tokenization.conversation import to_messages


def test_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "翰"}, {"type": "text", "text": "林"}]
    assert Message.from_dict({"role": "user", "content": parts}).content == "翰林"
    assert Message.from_dict({"role": "user", "content": []}).content == ""


def test_tool_calls_take_one_form() -> None:
    expected = [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]
    for call in [
        {"name": "f", "arguments": {"a": 1}},
        {"name": "f", "arguments": '{"a": 1}'},
        {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
    ]:
        assert Message("assistant", tool_calls=[call]).tool_calls == expected
    with_id = Message("assistant", tool_calls=[{"id": "7", "function": {"name": "f"}}]).tool_calls
    assert with_id == [{"id": "7", "type": "function", "function": {"name": "f", "arguments": {}}}]
    assert Message("assistant", "x", tool_calls=[]).to_dict() == {"role": "assistant", "content": "x"}


def test_there_and_back() -> None:
    value = {
        "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]},
            {"role": "tool", "content": "1", "name": "f", "tool_call_id": "7"},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "id": 5,
    }
    conversation = Conversation.from_dict(value)
    assert conversation.metadata == {"id": 5}
    assert conversation.tools == value["tools"]
    assert to_messages([message.to_dict() for message in conversation.messages]) == conversation.messages


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"role": "robot", "content": ""}, "role 'robot'; known are system"),
        ({"content": "x"}, "has no role"),
        ({"role": "user", "content": 5}, "neither text nor a list of parts: 5"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "is not text: .*image_url"),
        ({"role": "user", "content": ["x"]}, "is not text: 'x'"),
        ({"role": "user", "content": "x", "audio": 1}, "unknown key 'audio'"),
        ({"role": "user", "content": "x", "tool_calls": [{"name": "f"}]}, "only the assistant calls tools"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "no function name"),
        ({"role": "assistant", "tool_calls": ["f"]}, "tool call is not an object"),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]},
            "arguments of a call to f are not JSON",
        ),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}, "arguments of a call to f are not an"),
        ("hello", "not an object with role and content"),
    ],
)
def test_refusals(value: Any, what: str) -> None:
    with pytest.raises(HanlinError, match=what):
        to_messages([value])


@pytest.mark.parametrize(
    "value", [{}, {"messages": "x"}, {"messages": [], "tools": "x"}, {"messages": [], "tools": [1]}]
)
def test_refused_conversations(value: dict[str, Any]) -> None:
    with pytest.raises(HanlinError, match="A conversation"):
        Conversation.from_dict(value)

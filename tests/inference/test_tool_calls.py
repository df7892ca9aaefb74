"""Tool calls: what the template writes is read back, what is malformed stays text, and streams give the whole."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.artifacts import UsageError
from hanlin.inference.tool_calls import ToolCall, ToolCallStream, parse_tool_calls, tool_grammar
from tests.inference.models import tokenizer

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},
    {"name": '翻 "译"'},
]
NAMES = ["weather", '翻 "译"']

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(st.text(st.sampled_from('ab"\\é</tool_call>\n{}'), max_size=14), values, max_size=3)
calls = st.lists(st.tuples(st.sampled_from(NAMES), arguments), min_size=1, max_size=3)
contents = st.text(st.sampled_from('ab <>\n{"翰'), max_size=12).filter(lambda text: not text.endswith("\n"))


def written(content: str, made: list[tuple[str, dict[str, Any]]]) -> str:
    """The assistant's turn as the chat template writes it."""
    message = {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"function": {"name": name, "arguments": value}} for name, value in made],
    }
    text = tokenizer().render([{"role": "user", "content": "?"}, message], TOOLS)
    return text.rpartition("<|im_start|>assistant\n")[2].removesuffix("<|im_end|>\n")


def streamed(pieces: list[str]) -> tuple[str, list[ToolCall]]:
    stream = ToolCallStream(NAMES)
    found = [part for piece in pieces for part in stream.push(piece)] + stream.finish()
    content = "".join(part for part in found if isinstance(part, str))
    return content, [part for part in found if isinstance(part, ToolCall)]


@given(contents, calls)
@settings(max_examples=60, deadline=None)
def test_what_the_template_writes_is_read_back(content: str, made: list[tuple[str, dict[str, Any]]]) -> None:
    found, parsed = parse_tool_calls(written(content, made), TOOLS)
    assert found == content
    assert [(call.name, json.loads(call.arguments)) for call in parsed] == made


parts = st.sampled_from(
    ["<tool_call>", "</tool_call>", "\n", "<tool", "_call>", "{", "}", '"', "\\", "a<b", '{"name": "weather"',
     ', "arguments": {}}', '{"name": "weather", "arguments": {"a": "</tool_call>"}}', "[" * 40, "翰", "-1e5",
     '\n{"name": "weather", "arguments": {}}\n</tool_call>', '{"name": "other", "arguments": {}}', "\u00a0", "\\ud800"]
)  # fmt: skip
texts = st.lists(parts, max_size=9).map("".join)


@given(texts, st.lists(st.integers(0, 400), max_size=10))
@settings(max_examples=400, deadline=None)
def test_any_split_gives_the_same(text: str, cuts: list[int]) -> None:
    whole = parse_tool_calls(text, TOOLS)
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    assert streamed([text[a:b] for a, b in zip([0, *places], [*places, len(text)])]) == whole
    assert streamed(list(text)) == whole
    content, made = whole
    assert all(call.name in NAMES for call in made)
    if not made:
        assert content == text


def test_every_split_of_one_answer() -> None:
    text = written("So <tool: \n", [("weather", {"city": '</tool_call>\n"é'}), (NAMES[1], {})]) + "\n"
    whole = parse_tool_calls(text, TOOLS)
    assert whole[0] == "So <tool: \n\n" and len(whole[1]) == 2
    for cut in range(len(text) + 1):
        assert streamed([text[:cut], text[cut:]]) == whole


def test_content_streams_as_soon_as_it_is_certain() -> None:
    stream = ToolCallStream(NAMES)
    assert stream.push("Look: <b") == ["Look: <b"] and stream.push("\n<tool_c") == []
    assert stream.push("an>") == ["\n<tool_can>"]
    assert stream.push('<tool_call>{"name": "weather", "arguments": {}} ') == []
    assert stream.push("</tool_call>x") == [ToolCall("weather", "{}"), "x"]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "<tool_call>\nweather(Paris)\n</tool_call>",
        '<tool_call>\n{"name": "weather", "arguments": {}}',
        '<tool_call>\n{"name": "weather", "arguments": {"a": }}\n</tool_call>',
        '<tool_call>\n{"name": "weather"}\n</tool_call>',
        '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": ["weather"], "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "weather", "arguments": []}\n</tool_call>',
        '<tool_call>\n{"name": "weather", "arguments": "{"}\n</tool_call>',
        '<tool_call>\n{"name": "weather", "arguments": {"a": NaN}}\n</tool_call>',
        '<tool_call>\n{"name": "weather", "arguments": {"a": "\\ud800"}}\n</tool_call>',
        '<tool_call>\n{"name": "weather", "arguments": {"a": ' + "9" * 5000 + "}}\n</tool_call>",
        '<tool_call>\n{"name": "weather", "arguments": {"a": ' + "[" * 60000 + "]" * 60000 + "}}\n</tool_call>",
        '<tool_call>\n{"name": "weather", "arguments": {}} and then\n</tool_call>',
        "</tool_call>\n",
    ],
    ids=lambda text: text[:60],
)
def test_what_is_malformed_stays_text(text: str) -> None:
    assert parse_tool_calls(text, TOOLS) == (text, [])
    good = '<tool_call>\n{"name": "weather", "arguments": "{\\"a\\": 1}"}\n</tool_call>'
    if not text.endswith("{}}"):
        # What comes behind it is read nevertheless, unless the broken one swallows it.
        content, made = parse_tool_calls(text + "\n" + good, TOOLS)
        assert content.rstrip("\n") == text.rstrip("\n") and made == [ToolCall("weather", '{"a": 1}')]


def test_reading_takes_time_in_proportion() -> None:
    for part in ("<tool_call>", "<tool_call>{", "<tool_call>{}\n", "\n<tool_cal", '<tool_call>{"'):
        text = part * (400_000 // len(part))
        start = time.process_time()
        assert parse_tool_calls(text, TOOLS) == (text, [])
        assert time.process_time() - start < 2, part


def test_tools_that_are_none_are_refused() -> None:
    for tools, named in (
        ([], "none"),
        ([{"name": "a"}, {"name": "a"}], "a, a"),
        ([{"function": 3}], "no name"),
        ([{"name": "a", "parameters": [1]}], "tool a"),
    ):
        with pytest.raises(UsageError, match=named):
            tool_grammar(tools, required=True, parallel=True)

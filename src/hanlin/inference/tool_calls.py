"""Calls of tools as hanlin's chat template writes them (Qwen's and Hermes' form too): their grammar, and their parsing.

    <tool_call>
    {"name": "…", "arguments": {…}}
    </tool_call>

one after another, a line feed between, behind whatever the assistant says first.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from hanlin.artifacts import UsageError
from hanlin.inference.text import held_back

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_SPACES = " \t\n\r"
_OUTSIDE_STRINGS = frozenset(_SPACES + "{}[]:,0123456789+-.eEtrufalsn")
"""What JSON has outside of its strings."""
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As the template writes JSON, so that an answer looks like what the model was taught."""


@dataclass(frozen=True)
class ToolCall:
    """A call that the model made."""

    name: str
    arguments: str
    """A JSON object, as text."""


def tool_name(tool: Mapping[str, Any]) -> str:
    """The name of a tool in OpenAI's form or bare. Raises UsageError where it has none."""
    function: Any = tool.get("function", tool)
    name: Any = cast("Mapping[str, Any]", function).get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise UsageError('a tool has no name: give {"type": "function", "function": {"name": "…", "parameters": {…}}}')
    return name


def tool_grammar(tools: Sequence[Mapping[str, Any]], *, required: bool, parallel: bool) -> str:
    """Lark grammar, as llguidance reads it, of answers that call `tools` with arguments after their schemas.

    `required`: nothing but calls, one or (`parallel`) several. Otherwise the answer is free until a call is opened;
    after calls it ends. Raises UsageError for no tools, equal names, and parameters that are no object.
    """
    names = [tool_name(tool) for tool in tools]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"the tools are {', '.join(names) or 'none'}: give at least one, each by a name of its own")
    lines: list[str] = []
    for number, (name, tool) in enumerate(zip(names, tools, strict=True)):
        begin = f"{json.dumps(name, ensure_ascii=False)}, {json.dumps('arguments')}: "
        lines.append(f"f{number}: {json.dumps(begin)} %json {json.dumps(_arguments_schema(name, tool))}")
    functions = " | ".join(f"f{number}" for number in range(len(names)))
    begin, end = json.dumps('\n{"name": '), json.dumps("}\n" + CLOSE)
    lines.append(f"rest: {begin} ({functions}) {end}")
    more = f"({json.dumps(chr(10) + OPEN)} rest)*" if parallel else ""
    if required:
        lines.append(f"start: {json.dumps(OPEN)} rest {more}")
    else:
        lines.append(f"start: TEXT | head rest {more}")
        lines.append(f"TEXT: /(.|\\n)*/\nhead[lazy]: TEXT {json.dumps(OPEN)}")
    return "\n".join(lines)


def _arguments_schema(name: str, tool: Mapping[str, Any]) -> dict[str, Any]:
    function = cast("Mapping[str, Any]", tool.get("function", tool))
    parameters: Any = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(parameters, Mapping):
        raise UsageError(f"the parameters of the tool {name} are no JSON schema: {parameters!r:.100}")
    schema = cast("Mapping[str, Any]", parameters)
    return {"type": "object", **schema, "x-guidance": _SPACING}


def parse_tool_calls(text: str, tools: Sequence[Mapping[str, Any]]) -> tuple[str, list[ToolCall]]:
    """The content of an answer and its calls of `tools`. What is no proper call of one of them stays content."""
    stream = ToolCallStream(map(tool_name, tools))
    pieces = [*stream.push(text), *stream.finish()]
    calls = [piece for piece in pieces if isinstance(piece, ToolCall)]
    return "".join(piece for piece in pieces if isinstance(piece, str)), calls


class ToolCallStream:
    """`parse_tool_calls` while the answer comes; the pieces, joined, do not depend on how it was split.

    The work grows with the length of the answer alone: no part of it is read twice, whatever it spells.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._kept = ""
        """Content that may be the beginning of a call."""
        self._block: _Block | None = None

    def push(self, text: str) -> list[str | ToolCall]:
        """What is certain after this text and was not before."""
        return list(self._read(text))

    def finish(self) -> list[str | ToolCall]:
        """What was kept back, when no further text comes. A call that is not closed is content."""
        left = self._kept if self._block is None else self._block.text
        self._kept, self._block = "", None
        return [left] if left else []

    def _read(self, text: str) -> Iterator[str | ToolCall]:
        buffer, place = self._kept + text, 0
        self._kept = ""
        while True:
            if self._block is None:
                found = buffer.find(OPEN, place)
                if found < 0:
                    rest = buffer[place:]
                    cut = len(rest) - held_back(rest, ["\n" + OPEN, OPEN])
                    self._kept = rest[cut:]
                    if cut:
                        yield rest[:cut]
                    return
                # The template's line feed before a call is no content.
                before = found - 1 if found > place and buffer[found - 1] == "\n" else found
                if before > place:
                    yield buffer[place:before]
                place = found + len(OPEN)
                self._block = _Block(buffer[before:place])
            block = self._block
            place = block.read(buffer, place)
            if block.state not in ("closed", "broken"):
                return
            self._block = None
            call = block.call(self._names) if block.state == "closed" else None
            yield block.text if call is None else call


class _Block:
    """A call in the making, read sign by sign: white space, a JSON object, white space, the closing tag."""

    def __init__(self, opening: str) -> None:
        self._parts = [opening]
        self._json: list[str] = []
        self.state = "before"
        self._depth = self._closing = 0
        self._string = self._escaped = False

    @property
    def text(self) -> str:
        """All that was read, the opening included."""
        return "".join(self._parts)

    def read(self, text: str, start: int) -> int:
        """Read on from `start`; returns where the block ends: behind what closes it, or before what breaks it."""
        end = len(text)
        for place in range(start, len(text)):
            if not self._take(text[place]):
                self.state, end = "broken", place
                break
            if self.state == "closed":
                end = place + 1
                break
        self._parts.append(text[start:end])
        return end

    def _take(self, sign: str) -> bool:
        """Whether the block can go on with `sign`."""
        if self.state == "object":
            return self._take_json(sign)
        if self.state == "before" and sign == "{":
            self.state = "object"
            return self._take_json(sign)
        if self._closing == 0 and sign in _SPACES:
            return True
        if self.state == "after" and sign == CLOSE[self._closing]:
            self._closing += 1
            if self._closing == len(CLOSE):
                self.state = "closed"
            return True
        return False

    def _take_json(self, sign: str) -> bool:
        self._json.append(sign)
        if self._string:
            if self._escaped:
                self._escaped = False
            elif sign == "\\":
                self._escaped = True
            elif sign == '"':
                self._string = False
            return sign >= " "
        if sign == '"':
            self._string = True
            return True
        if sign in "{[":
            self._depth += 1
        elif sign in "}]":
            self._depth -= 1
            if self._depth == 0:
                self.state = "after"
        return sign in _OUTSIDE_STRINGS

    def call(self, names: Collection[str]) -> ToolCall | None:
        """The call that the block spells; None: it is none of one of these tools."""
        try:
            value: Any = json.loads("".join(self._json))
            name, arguments = value["name"], value["arguments"]
            if isinstance(arguments, str):
                arguments = json.loads(arguments)
            if not isinstance(arguments, dict) or not isinstance(name, str) or name not in names:
                return None
            text = json.dumps(arguments, ensure_ascii=False)
            text.encode()
        except (ValueError, KeyError, RecursionError):
            # Besides what is no JSON: numbers of thousands of digits, lone surrogates, endless nesting.
            return None
        return ToolCall(name, text)

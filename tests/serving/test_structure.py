"""Answers of a form: JSON, expressions, choices, calls of tools."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.serving.live import Live
from tests.serving.test_answers import chunks
from tests.serving.test_refusals import CHAT, CHAT_PATH, refusal

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
]
FREE = {**CHAT, "model": "long", "max_tokens": 200, "temperature": 1}


def choice(live: Live, **fields: Any) -> dict[str, Any]:
    response = live.post(CHAT_PATH, {**FREE, **fields})
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


@pytest.mark.parametrize("seed", range(3))
def test_json_of_a_schema(live: Live, seed: int) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "report", "schema": SCHEMA, "strict": True}}
    found = choice(live, response_format=form, seed=seed)
    assert found["finish_reason"] == "stop"
    value = json.loads(found["message"]["content"])
    assert set(value) == {"city", "warm"} and value["city"] in ("Oslo", "Rome") and isinstance(value["warm"], bool)


def test_other_forms(live: Live) -> None:
    for form, good in (
        ({"regex": "[0-9]{3}-[a-c]+x"}, lambda text: re.fullmatch("[0-9]{3}-[a-c]+x", text)),
        ({"choice": ["yes", "no", "也许"]}, lambda text: text in ("yes", "no", "也许")),
        ({"grammar": 'start: "(" ("a" | "b") ")"'}, lambda text: text in ("(a)", "(b)")),
        ({"json": SCHEMA}, lambda text: set(json.loads(text)) == {"city", "warm"}),
    ):
        assert good(choice(live, structured_outputs=form, seed=1)["message"]["content"]), form
    plain = live.post(
        "/v1/completions", {"model": "tiny", "prompt": "x", "structured_outputs": {"choice": ["yes", "no"]}}
    )
    assert plain.json()["choices"][0]["text"] in ("yes", "no")


@pytest.mark.parametrize("seed", range(3))
def test_calls_of_tools(live: Live, seed: int) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    for wanted in ("required", named):
        found = choice(live, tools=TOOLS, tool_choice=wanted, seed=seed, parallel_tool_calls=False)
        assert found["finish_reason"] == "tool_calls" and found["message"]["content"] is None
        (call,) = found["message"]["tool_calls"]
        assert call["id"].startswith("call_") and call["type"] == "function"
        arguments = json.loads(call["function"]["arguments"])
        assert set(arguments) == ({"city", "warm"} if call["function"]["name"] == "weather" else set())
        assert wanted == "required" or call["function"]["name"] == "weather"


def test_streamed_calls_are_the_whole_ones(live: Live) -> None:
    fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "seed": 2, "n": 2}
    whole = live.post(CHAT_PATH, {**FREE, **fields}).json()["choices"]
    told = [one for chunk in chunks(live, CHAT_PATH, **FREE, **fields) for one in chunk["choices"]]
    for index in range(2):
        made: list[dict[str, str]] = []
        for one in told:
            for delta in one["delta"].get("tool_calls", []) if one["index"] == index else []:
                if delta["index"] == len(made):
                    assert delta["id"] and delta["type"] == "function"
                    made.append({"name": delta["function"]["name"], "arguments": ""})
                made[delta["index"]]["arguments"] += delta["function"]["arguments"]
        expected = [call["function"] for call in whole[index]["message"].get("tool_calls", [])]
        assert made == expected and (made or whole[index]["finish_reason"] == "length")


def test_a_conversation_with_calls_goes_on(live: Live) -> None:
    asked = {"role": "user", "content": "Weather?"}
    called = choice(live, messages=[asked], tools=TOOLS, tool_choice="required", parallel_tool_calls=False)["message"]
    result = {"role": "tool", "tool_call_id": called["tool_calls"][0]["id"], "name": "weather", "content": "12 °C"}
    messages = [asked, called, result]
    tokens = live.post("/tokenize", {"model": "long", "messages": messages, "tools": TOOLS}).json()["tokens"]
    text = live.post("/detokenize", {"model": "long", "tokens": tokens}).json()["prompt"]
    assert "<tool_call>" in text and "12 °C" in text and '"Of a city."' in text
    body = {**FREE, "model": "long", "messages": messages, "tools": TOOLS, "max_tokens": 5}
    assert live.post(CHAT_PATH, body).status_code == 200


def test_tools_that_are_not_to_be_called_are_not_told_of(live: Live) -> None:
    silent = live.post(CHAT_PATH, {**CHAT, "tools": TOOLS, "tool_choice": "none"}).json()
    assert silent["usage"]["prompt_tokens"] == live.post(CHAT_PATH, CHAT).json()["usage"]["prompt_tokens"]


def test_forms_that_cannot_be_kept(live: Live) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(90):
        deep = {"type": "array", "items": deep}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": deep}}
    for change, param in (
        ({"response_format": form}, "response_format.json_schema.schema"),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "(?=a)"}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "start: nothing"}}, "structured_outputs"),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 3}}}]}, "tools"),
    ):
        error = refusal(live.post(CHAT_PATH, {**CHAT, "model": "long", **change}))
        assert error["param"] == param, error
    assert live.quiet()

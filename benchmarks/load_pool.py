"""Requests whose right answers are known, for `serve_load.py`: each was answered alone before the load begins."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hanlin.inference import Constraint, Engine, LanguageModel, Request, expand, load
from hanlin.inference.tool_calls import ToolCall, ToolCallStream
from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import save_model
from hanlin.tokenization import Tokenizer

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
NAME = "small"
CONTEXT = 4096
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome", "上海"]}, "warm": {"type": "boolean"}, "name": {"type": "string"}},
    "required": ["city", "warm"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
]
FORMS: list[dict[str, Any]] = [
    {"response_format": {"type": "json_schema", "json_schema": {"name": "report", "schema": SCHEMA}}},
    {"response_format": {"type": "json_object"}},
    {"structured_outputs": {"regex": "[0-9]{3}-[a-c]{2,9}x"}},
    {"structured_outputs": {"choice": ["yes", "no", "也许 later"]}},
    {"structured_outputs": {"grammar": 'start: "(" ("a" | "bc")+ ")"'}},
]
WORDS = [
    "the",
    "a",
    "of",
    "and",
    "river",
    "house",
    "翰林",
    "学士",
    "é",
    "ñ",
    "😀",
    "sum",
    "12",
    "304",
    "under,",
    "who?\n",
]
SHARED = 4
"""Long beginnings that several requests have in common."""


@dataclass(frozen=True)
class Answer:
    """What one choice must be."""

    content: str
    calls: list[tuple[str, str]]
    """Names and arguments."""
    ids: list[int]
    logprobs: list[float]
    finish_reason: str


@dataclass(frozen=True)
class Entry:
    """A request and its right answer."""

    kind: str
    path: str
    body: dict[str, Any]
    answers: list[Answer]


def make_model(directory: Path) -> None:
    """A small model with a chat template, whose weights are random and lively: its answers differ and vary."""
    shape = {"hidden_size": 48, "layers": 3, "heads": 4, "kv_heads": 2, "intermediate_size": 80}
    tokenizer = Tokenizer.bytes()
    config = ModelConfig(
        family="qwen3", vocabulary_size=tokenizer.vocabulary_size, max_positions=CONTEXT, tied=True, **shape
    )
    model = Transformer(config)
    model.init_weights(3)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * (0.15 if parameter.ndim > 1 else 0.1))
    save_model(directory, model.eval(), tokenizer)


def make_pool(directory: Path, count: int, seed: int) -> list[Entry]:
    """`count` requests of all kinds with the answers of an engine that answers one at a time and remembers nothing."""
    loaded = load(directory)
    engine = Engine(
        loaded.engine.model, loaded.tokenizer, eos_ids=loaded.engine.eos_ids, max_batch=1, deterministic=True
    )
    model = LanguageModel(engine, loaded.prefix_ids)
    rng = random.Random(seed)
    shared = [text(rng, 300 * (number + 1)) for number in range(SHARED)]
    pool: list[Entry] = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        path, body = request(rng, kind, shared)
        pool.append(Entry(kind, path, body, lone(model, path, body)))
    return pool


KINDS = (
    "chat", "completion", "shared prefix", "chat", "completion", "several", "structured", "tools", "shared prefix",
    "chat", "long answer", "long prompt",
)  # fmt: skip


def text(rng: random.Random, length: int) -> str:
    """About so many bytes."""
    words: list[str] = []
    size = 0
    while size < length:
        words.append(rng.choice(WORDS))
        size += len(words[-1].encode()) + 1
    return " ".join(words)


def request(rng: random.Random, kind: str, shared: list[str]) -> tuple[str, dict[str, Any]]:
    """Path and body, for every choice of which the answer is certain: it has a seed, or is greedy."""
    body: dict[str, Any] = {
        "model": NAME,
        "return_token_ids": True,
        "max_tokens": min(400, 1 + int(rng.expovariate(1 / 80))),
    }
    body["temperature"] = rng.choice([0, 0.7, 1, 1, 1.5])
    body["seed"] = rng.randrange(-(1 << 40), 1 << 40)
    body |= rng.choice(
        [
            {}, {}, {"top_p": 0.9}, {"top_k": 40, "min_p": 0.02}, {"repetition_penalty": 1.2},
            {"presence_penalty": 1.0, "frequency_penalty": 0.5}, {"logit_bias": {"32": 4, "101": 3}},
            {"stop": ["e", "th"]}, {"ignore_eos": True},
        ]
    )  # fmt: skip
    if kind == "long answer":
        body |= {"max_tokens": rng.randrange(300, 700), "ignore_eos": True}
    if kind == "several":
        body |= {"n": rng.randrange(2, 5)}
    if kind == "structured":
        body |= rng.choice(FORMS)
        body["max_tokens"] = 80
    if kind == "tools":
        body |= {"tools": TOOLS, "tool_choice": rng.choice(["required", "auto", NAMED]), "max_tokens": 80}
        if body["tool_choice"] != NAMED:
            body["parallel_tool_calls"] = rng.random() < 0.5
    length = rng.randrange(800, 1600) if kind == "long prompt" else 1 + int(rng.expovariate(1 / 120))
    given = text(rng, length)
    plain = kind == "completion" or (kind in ("several", "shared prefix", "long prompt") and rng.random() < 0.5)
    if kind == "shared prefix":
        given = rng.choice(shared) + " " + given
    if plain:
        tokens = rng.random() < 0.3
        body |= {"prompt": list(given.encode()) if tokens else given}
        if rng.random() < 0.4:
            body["logprobs"] = rng.randrange(4)
        return PLAIN, body
    messages = [{"role": "user", "content": given}]
    if rng.random() < 0.3:
        earlier = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": text(rng, 30)}]
        messages = [{"role": "system", "content": "Be brief."}, *earlier, *messages]
    body["messages"] = messages
    if rng.random() < 0.4:
        body |= {"logprobs": True, "top_logprobs": rng.randrange(4)}
    return CHAT, body


NAMED = {"type": "function", "function": {"name": "weather"}}
SAMPLING = (
    "temperature", "seed", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "ignore_eos",
)  # fmt: skip


def lone(model: LanguageModel, path: str, body: dict[str, Any]) -> list[Answer]:
    """The right answers to a request, each made alone."""
    settings: dict[str, Any] = {name: body[name] for name in SAMPLING if name in body}
    settings["logit_bias"] = {int(token): bias for token, bias in body.get("logit_bias", {}).items()}
    settings |= {"stop": body.get("stop", []), "max_new_tokens": body["max_tokens"], "constraint": constraint(body)}
    tools = body.get("tools")
    if path == CHAT:
        one = model.chat_request(body["messages"], tools=tools, **settings)
        # The end of the turn is a stop of the chat's, beside the model's own ends.
        one = replace(one, stop_ids=()) if body.get("ignore_eos") else one
    elif isinstance(body["prompt"], str):
        one = model.request(body["prompt"], raw=True, **settings)
    else:
        one = Request(prompt_ids=body["prompt"], **settings)
    made: list[Answer] = []
    for each in expand(replace(one, n=body.get("n", 1))):
        (done,) = model.engine.generate([each])
        parts: list[str | ToolCall] = [done.text]
        if tools:
            reader = ToolCallStream([tool["function"]["name"] for tool in tools])
            parts = [*reader.push(done.text), *reader.finish()]
        calls = [(part.name, part.arguments) for part in parts if isinstance(part, ToolCall)]
        content = "".join(part for part in parts if isinstance(part, str))
        reason = "tool_calls" if calls and done.finish_reason == "stop" else done.finish_reason
        made.append(Answer(content, calls, done.ids, done.logprobs, reason))
    return made


def constraint(body: dict[str, Any]) -> Constraint | None:
    form, other = body.get("response_format"), body.get("structured_outputs", {})
    if "tools" in body:
        choice = body["tool_choice"]
        tools = [TOOLS[0]] if choice == NAMED else body["tools"]
        several = body.get("parallel_tool_calls", False)
        return Constraint(
            tools=tools, tool_choice="auto" if choice == "auto" else "required", parallel_tool_calls=several
        )
    if form is not None:
        if form["type"] == "json_object":
            return Constraint(json_object=True)
        return Constraint(json_schema=form["json_schema"]["schema"])
    if not other:
        return None
    return Constraint(regex=other.get("regex"), choices=other.get("choice"), grammar=other.get("grammar"))

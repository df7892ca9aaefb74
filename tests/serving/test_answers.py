"""Answers over HTTP: those of the engine, the same streamed as whole, and what they tell of themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from hanlin.inference import Request
from tests.serving.live import Live

CHAT_PATH, PLAIN_PATH = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 天?"}]


def chat(live: Live, **fields: Any) -> dict[str, Any]:
    response = live.post(CHAT_PATH, {"model": "tiny", "messages": MESSAGES, "max_tokens": 12, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def plain(live: Live, **fields: Any) -> dict[str, Any]:
    response = live.post(PLAIN_PATH, {"model": "tiny", "max_tokens": 12, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def chunks(live: Live, path: str, **fields: Any) -> Iterator[dict[str, Any]]:
    """The chunks of a stream, its framing checked."""
    with live.client() as client, client.stream("POST", path, json={"stream": True, **fields}) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        events = response.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    for event in events[:-2]:
        assert event.startswith("data: ") and "\n" not in event
        yield json.loads(event.removeprefix("data: "))


def alike(first: Any, second: Any) -> bool:
    """Whether two JSON values are the same but for the rounding of products in other company."""
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, abs_tol=1e-5)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(alike(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(alike, first, second))
    return first == second


SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1, "seed": 1},
    {"temperature": 1.3, "seed": 2, "top_p": 0.9, "top_k": 50},
    {"temperature": 0.7, "seed": -3, "min_p": 0.01, "repetition_penalty": 1.2},
    {"temperature": 1, "seed": 4, "presence_penalty": 1.5, "frequency_penalty": 0.5},
    {"temperature": 1, "seed": 5, "logit_bias": {"101": 5, "32": 5}, "stop": ["e ", " e"]},
    {"temperature": 1, "seed": 6, "logit_bias": {"101": 4, "32": 4, "97": 4}, "stop": "a", "n": 3},
    {"temperature": 1, "seed": 7, "n": 4, "ignore_eos": True},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_chat_is_what_the_engine_answers(live: Live, settings: dict[str, Any]) -> None:
    answer = chat(live, return_token_ids=True, **settings)
    fields = {key: value for key, value in settings.items() if key != "n"}
    fields["stop"] = [fields["stop"]] if isinstance(fields.get("stop"), str) else fields.get("stop", [])
    fields["logit_bias"] = {int(token): bias for token, bias in fields.get("logit_bias", {}).items()}
    request = live.model.chat_request(MESSAGES, max_new_tokens=12, **fields)
    if settings.get("ignore_eos"):
        request = replace(request, stop_ids=())  # the end of the turn is one of the ends that are gone past
    alone = live.model.engine.generate([request])[0]
    first = answer["choices"][0]
    assert first["message"] == {"role": "assistant", "content": alone.text, "refusal": None}
    assert first["token_ids"] == alone.ids and first["finish_reason"] == alone.finish_reason
    assert len(answer["choices"]) == settings.get("n", 1)
    generated = sum(len(choice["token_ids"]) for choice in answer["choices"])
    assert answer["usage"]["completion_tokens"] == generated
    assert answer["usage"]["prompt_tokens"] == alone.prompt_tokens == len(answer["prompt_token_ids"])
    assert answer["usage"]["total_tokens"] == generated + alone.prompt_tokens


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_streamed_chat_is_the_whole_one(live: Live, settings: dict[str, Any]) -> None:
    fields: dict[str, Any] = {**settings, "logprobs": True, "top_logprobs": 2, "return_token_ids": True}
    whole = chat(live, **fields)
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 12, **fields}
    found = list(chunks(live, CHAT_PATH, stream_options={"include_usage": True}, **body))
    assert found[-1]["choices"] == [] and found[-1]["usage"] == whole["usage"]
    assert len({chunk["id"] for chunk in found}) == 1 and all(chunk["usage"] is None for chunk in found[:-1])
    for index, choice in enumerate(whole["choices"]):
        own = [one for chunk in found for one in chunk["choices"] if one["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(one["delta"].get("content", "") for one in own) == choice["message"]["content"]
        assert [token for one in own for token in one.get("token_ids", [])] == choice["token_ids"]
        joined = [entry for one in own if one["logprobs"] for entry in one["logprobs"]["content"]]
        assert alike(joined, choice["logprobs"]["content"])
        assert [one["finish_reason"] for one in own] == [None] * (len(own) - 1) + [choice["finish_reason"]]


def test_streams_without_extras_are_content_alone(live: Live) -> None:
    found = list(chunks(live, CHAT_PATH, model="tiny", messages=MESSAGES, max_tokens=12, seed=1))
    assert all(set(chunk) == {"id", "object", "created", "model", "system_fingerprint", "choices"} for chunk in found)
    assert {chunk["object"] for chunk in found} == {"chat.completion.chunk"}
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in found[1:]]
    assert all(texts[:-1]), "no chunk but the last is empty"


def test_log_probabilities_are_the_engines(live: Live) -> None:
    answer = chat(live, temperature=0, logprobs=True, top_logprobs=3, return_token_ids=True)
    choice = answer["choices"][0]
    expected = live.model.engine.score([(answer["prompt_token_ids"], choice["token_ids"])])[0]
    entries = choice["logprobs"]["content"]
    assert [entry["logprob"] for entry in entries] == pytest.approx(expected, abs=1e-5)
    for entry in entries:
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0]["logprob"] == pytest.approx(entry["logprob"]), "greedy takes the likeliest"
        assert entry["bytes"] is None or bytes(entry["bytes"]).decode(errors="replace") == entry["token"]
    assert chat(live, logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert chat(live)["choices"][0]["logprobs"] is None


def test_log_probabilities_of_the_prompt(live: Live) -> None:
    answer = chat(live, prompt_logprobs=2, return_token_ids=True)
    ids = answer["prompt_token_ids"]
    expected = live.model.engine.score([(ids[:1], ids[1:])])[0]
    entries = answer["prompt_logprobs"]
    assert entries[0] is None and len(entries) == len(ids)
    for token, value, entry in zip(ids[1:], expected, entries[1:], strict=True):
        assert entry[str(token)]["logprob"] == pytest.approx(value, abs=1e-5)
        assert 2 <= len(entry) <= 3


def test_the_seed_decides_and_no_seed_does_not(live: Live) -> None:
    def text(**fields: Any) -> str:
        return chat(live, temperature=1.5, max_tokens=20, **fields)["choices"][0]["message"]["content"]

    assert text(seed=11) == text(seed=11)
    assert text(seed=11) != text(seed=12)
    assert text() != text()
    four = chat(live, temperature=1.5, seed=11, n=4)["choices"]
    assert len({choice["message"]["content"] for choice in four}) == 4


def test_the_versions_of_the_weights_are_told(live: Live) -> None:
    answer = chat(live)
    assert answer["model"] == "tiny@1" and answer["system_fingerprint"].startswith("hl-")
    other = live.post(CHAT_PATH, {"model": "long", "messages": MESSAGES, "max_tokens": 1}).json()
    assert other["system_fingerprint"] != answer["system_fingerprint"]


@pytest.mark.parametrize("prompt", ["hello 天 world", "", [104, 105], [256, 104, 105]])
def test_a_continuation_is_what_the_engine_answers(live: Live, prompt: str | list[int]) -> None:
    model = live.model
    made = model.request(prompt, raw=True) if isinstance(prompt, str) else Request(prompt_ids=prompt)
    alone = model.engine.generate([Request(prompt_ids=made.prompt_ids, max_new_tokens=12, temperature=1, seed=3)])[0]
    answer = plain(live, prompt=prompt, seed=3, return_token_ids=True)
    assert answer["object"] == "text_completion"
    choice = answer["choices"][0]
    assert choice["text"] == alone.text and choice["token_ids"] == alone.ids
    assert choice["prompt_token_ids"] == list(made.prompt_ids)


def test_sixteen_tokens_unless_told_otherwise(live: Live) -> None:
    answer = live.post(PLAIN_PATH, {"model": "tiny", "prompt": "x", "ignore_eos": True}).json()
    assert answer["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_streamed_continuation_is_the_whole_one(live: Live, settings: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"prompt": ["one 天", "two"], **settings, "logprobs": 2, "return_token_ids": True}
    whole = plain(live, **fields)
    found = list(
        chunks(live, PLAIN_PATH, model="tiny", max_tokens=12, stream_options={"include_usage": True}, **fields)
    )
    assert found[-1]["usage"] == whole["usage"]
    assert len(whole["choices"]) == 2 * settings.get("n", 1)
    for index, choice in enumerate(whole["choices"]):
        own = [one for chunk in found for one in chunk["choices"] if one["index"] == index]
        assert "".join(one["text"] for one in own) == choice["text"]
        for part in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [x for one in own if one["logprobs"] for x in one["logprobs"][part]]
            assert alike(joined, choice["logprobs"][part])
        assert own[-1]["finish_reason"] == choice["finish_reason"]


def test_echo_in_a_stream(live: Live) -> None:
    whole = plain(live, prompt="ab", echo=True, seed=1)["choices"][0]["text"]
    found = list(chunks(live, PLAIN_PATH, model="tiny", prompt="ab", echo=True, seed=1, max_tokens=12))
    assert whole.startswith("ab") and "".join(chunk["choices"][0]["text"] for chunk in found) == whole


def test_offsets_say_where_tokens_begin(live: Live) -> None:
    choice = plain(live, prompt="a天b", echo=True, logprobs=0, max_tokens=4, temperature=0)["choices"][0]
    logprobs = choice["logprobs"]
    # <|endoftext|>, a, three bytes of 天, b
    assert logprobs["text_offset"][:6] == [0, 0, 1, 1, 1, 2] and logprobs["top_logprobs"] is None
    assert logprobs["tokens"][:3] == ["<|endoftext|>", "a", "bytes:\\xe5"]
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        if not token.startswith(("bytes:", "<|")):
            assert choice["text"][offset : offset + len(token)] == token


def test_best_of_is_the_likeliest_by_token(live: Live) -> None:
    all_ = plain(live, prompt="x", n=6, seed=5, logprobs=0)["choices"]
    best = plain(live, prompt="x", n=2, best_of=6, seed=5, logprobs=0)
    assert best["usage"]["completion_tokens"] == sum(len(choice["logprobs"]["tokens"]) for choice in all_)

    def mean(choice: dict[str, Any]) -> float:
        values = choice["logprobs"]["token_logprobs"]
        return sum(values) / len(values)

    ranked = sorted(all_, key=mean, reverse=True)[:2]
    assert [choice["text"] for choice in best["choices"]] == [choice["text"] for choice in ranked]


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_exams_can_be_scored_over_http(live: Live, max_tokens: int) -> None:
    """What lm-eval's `local-completions` asks and reads: token arrays in a batch, echoed with log-probabilities."""
    pairs = [([104, 101, 108], [108, 111]), ([256], [104, 105, 33]), ([1, 2, 3], [4])]
    answer = plain(
        live,
        prompt=[context + continuation for context, continuation in pairs],
        temperature=0,
        max_tokens=max_tokens,
        logprobs=1,
        seed=1234,
        echo=True,
    )
    expected = live.model.engine.score(pairs)
    for choice, (context, continuation), values in zip(answer["choices"], pairs, expected, strict=True):
        logprobs = choice["logprobs"]
        assert logprobs["token_logprobs"][0] is None
        end = len(context) + len(continuation)
        assert logprobs["token_logprobs"][len(context) : end] == pytest.approx(values, abs=1e-5)
        assert len(logprobs["tokens"]) == end + max_tokens
        for token, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"]):
            assert (value is None) == (top is None)
            if top is not None:
                assert max(top.values()) >= value and token in top and len(top) <= 2
    assert answer["usage"]["completion_tokens"] == 3 * max_tokens


def test_embeddings_are_the_models_hidden_states(live: Live) -> None:
    import base64

    import torch

    texts = ["hello", "天地玄黄, a longer one", "x"]
    answer = live.post("/v1/embeddings", {"model": "tiny", "input": texts}).json()
    rows = [entry["embedding"] for entry in answer["data"]]
    for text, row in zip(texts, rows, strict=True):
        ids = torch.tensor([live.model.request(text, raw=True).prompt_ids])
        with torch.inference_mode():
            mean = live.model.engine.model.hidden(ids)[0].mean(0)
        assert row == pytest.approx((mean / mean.norm()).tolist(), abs=1e-5)
        assert math.isclose(sum(x * x for x in row), 1, abs_tol=1e-5)
    coded = live.post("/v1/embeddings", {"model": "tiny", "input": texts[1], "encoding_format": "base64"}).json()
    numbers = torch.frombuffer(bytearray(base64.b64decode(coded["data"][0]["embedding"])), dtype=torch.float32)
    assert numbers.tolist() == pytest.approx(rows[1], abs=1e-5)
    last = live.post("/v1/embeddings", {"model": "tiny", "input": [[1, 2], [3]], "pooling": "last", "dimensions": 48})
    assert len(last.json()["data"]) == 2 and last.json()["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    for wrong, param in (({"dimensions": 16}, "dimensions"), ({"input": []}, "input"), ({"input": [""]}, "input.0")):
        refused = live.post("/v1/embeddings", {"model": "tiny", "input": "x", **wrong})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == param


def test_tokens_and_back(live: Live) -> None:
    text = "hello 天<|im_end|>"
    found = live.post("/tokenize", {"model": "tiny", "prompt": text, "return_token_strs": True}).json()
    assert found["tokens"] == list(live.model.request(text, raw=True).prompt_ids)
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"]) and found["max_model_len"] == 128
    bare = live.post("/tokenize", {"model": "tiny", "prompt": text, "add_special_tokens": False}).json()
    assert bare["tokens"] == found["tokens"][1:]
    assert live.post("/detokenize", {"model": "tiny", "tokens": bare["tokens"]}).json() == {"prompt": text}
    asked = live.post("/tokenize", {"model": "tiny", "messages": MESSAGES}).json()
    assert asked["tokens"] == chat(live, return_token_ids=True)["prompt_token_ids"]


def test_developer_is_system(live: Live) -> None:
    renamed = [{**MESSAGES[0], "role": "developer"}, *MESSAGES[1:]]
    assert chat(live, temperature=0, messages=renamed)["choices"] == chat(live, temperature=0)["choices"]


def test_nothing_is_left_over(live: Live) -> None:
    assert live.quiet()

"""Clients that people use, against a live service."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.serving.live import Live

MESSAGES: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture
def openai(live: Live) -> Any:
    module = pytest.importorskip("openai")
    return module.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)


def test_openai_chat(openai: Any) -> None:
    whole = openai.chat.completions.create(
        model="tiny", messages=MESSAGES, max_completion_tokens=10, seed=1, n=2, logprobs=True, top_logprobs=2
    )
    assert whole.usage.completion_tokens > 0 and len(whole.choices) == 2
    assert whole.choices[0].message.role == "assistant" and len(whole.choices[0].logprobs.content[0].top_logprobs) == 2
    stream = openai.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_completion_tokens=10,
        seed=1,
        n=2,
        stream=True,
        stream_options={"include_usage": True},
    )
    texts, usage = ["", ""], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices] and usage == whole.usage


def test_a_conversation_goes_on_with_what_the_client_was_given(openai: Any) -> None:
    first = openai.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=4, logit_bias={"97": 100})
    said = first.choices[0].message
    assert said.content == "aaaa"
    messages = [*MESSAGES, said, {"role": "user", "content": [{"type": "text", "text": "more"}]}]
    second = openai.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    assert second.usage.prompt_tokens > first.usage.total_tokens


def test_openai_helper_for_streams(openai: Any) -> None:
    with openai.chat.completions.stream(
        model="tiny", messages=MESSAGES, stop=["e"], logit_bias={"101": 3}, seed=3
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content


def test_openai_completions_and_embeddings(openai: Any) -> None:
    answer = openai.completions.create(model="tiny", prompt=["a", "b"], max_tokens=3, echo=True, logprobs=1, n=2)
    assert [choice.text[0] for choice in answer.choices] == ["a", "a", "b", "b"]
    assert (
        "".join(
            chunk.choices[0].text for chunk in openai.completions.create(model="tiny", prompt="a", stream=True, seed=1)
        )
        == openai.completions.create(model="tiny", prompt="a", seed=1).choices[0].text
    )
    found = openai.embeddings.create(model="tiny", input=["a", "b"])  # asks for base64, and reads it
    assert len(found.data) == 2 and len(found.data[0].embedding) == 48
    assert {model.id for model in openai.models.list()} == {"tiny", "tiny@1", "long", "long@1"}
    assert openai.models.retrieve("tiny@1").id == "tiny@1"


def test_openai_errors(openai: Any) -> None:
    import openai as module

    with pytest.raises(module.BadRequestError) as refused:
        openai.chat.completions.create(model="tiny", messages=MESSAGES, reasoning_effort="high")
    assert refused.value.param == "reasoning_effort"
    with pytest.raises(module.NotFoundError):
        openai.chat.completions.create(model="other", messages=MESSAGES)
    with pytest.raises(module.BadRequestError) as long:
        openai.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a" * 500}])
    assert long.value.code == "context_length_exceeded"


def test_litellm(live: Live) -> None:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would ask the network otherwise
    litellm = pytest.importorskip("litellm")
    settings: dict[str, Any] = {
        "model": "openai/tiny",
        "api_base": f"{live.url}/v1",
        "api_key": "none",
        "messages": MESSAGES,
        "max_tokens": 8,
        "seed": 1,
    }
    whole = litellm.completion(**settings)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(stream=True, **settings))
    assert streamed == whole.choices[0].message.content and whole.usage.completion_tokens > 0
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**{**settings, "model": "openai/other"})
    found = litellm.embedding(
        model="openai/tiny", api_base=settings["api_base"], api_key="none", input=["a"], encoding_format="float"
    )
    assert len(found.data[0]["embedding"]) == 48

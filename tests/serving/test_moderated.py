"""A moderator hears what is asked, and answers before the client does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hanlin.serving.settings import ModelSettings
from tests.serving.live import Live, serving
from tests.serving.test_answers import alike, chunks
from tests.serving.test_refusals import CHAT, CHAT_PATH, refusal

RULES = """
categories:
  noise:
    phrases: ["!!!!"]
    message: Not so many.
  secret:
    phrases: [swordfish]
    where: [input]
"""
SPELL: dict[str, Any] = {**CHAT, "max_tokens": 12, "temperature": 0, "logprobs": True, "return_token_ids": True}


@pytest.fixture(scope="module")
def heard(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    rules = tmp_path_factory.mktemp("rules") / "rules.yaml"
    rules.write_text(RULES, encoding="utf-8")
    models = [ModelSettings(path=str(directory), name="tiny")]
    with serving(directory, models=models, moderation=str(rules)) as live:
        yield live


def test_what_is_asked(heard: Live) -> None:
    for path, body in (
        (CHAT_PATH, {**CHAT, "messages": [{"role": "user", "content": "the SWORDFISH"}]}),
        ("/v1/completions", {"model": "tiny", "prompt": "swordfish"}),
    ):
        error = refusal(heard.post(path, body))
        assert error["code"] == "content_filter" and "secret" in error["message"]
    assert heard.quiet()


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_answered_ends_before_what_is_refused(heard: Live, count: int) -> None:
    body = {**SPELL, "logit_bias": {"33": 100}, "n": count}
    whole = heard.post(CHAT_PATH, body).json()
    for choice in whole["choices"]:
        assert choice["message"]["content"] == "" and choice["finish_reason"] == "content_filter"
        assert choice["token_ids"] == [] and choice["logprobs"]["content"] == []
    told = [one for chunk in chunks(heard, CHAT_PATH, **body) for one in chunk["choices"]]
    assert not any(one["delta"].get("content") or one.get("token_ids") for one in told)
    assert [one["finish_reason"] for one in told if one["finish_reason"]] == ["content_filter"] * count
    plain = heard.post("/v1/completions", {"model": "tiny", "prompt": "x", "logit_bias": {"33": 100}}).json()
    assert plain["choices"][0] == {"index": 0, "text": "", "logprobs": None, "finish_reason": "content_filter"}
    assert heard.quiet()


def test_tokens_come_no_sooner_than_their_text(heard: Live) -> None:
    """`!!!` may become `!!!!` until something else comes."""
    body = {**SPELL, "logit_bias": {"33": 100}, "max_tokens": 3}
    told = [one for chunk in chunks(heard, CHAT_PATH, **body) for one in chunk["choices"]]
    assert [one["delta"].get("content", "") for one in told[1:]] == ["!!!"] and told[1]["token_ids"] == [33] * 3
    assert len(told[1]["logprobs"]["content"]) == 3 and told[1]["finish_reason"] == "length"


def test_what_passes_is_as_it_would_be(heard: Live, live: Live) -> None:
    body = {**SPELL, "temperature": 1, "seed": 3, "n": 2}
    assert alike(heard.post(CHAT_PATH, body).json()["choices"], live.post(CHAT_PATH, body).json()["choices"])

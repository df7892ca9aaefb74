"""Context-aware decoding against full forwards of transformers' models."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from hanlin.artifacts import HanlinError, UsageError
from hanlin.inference import Constraint, Contrast, Engine, Request
from hanlin.inference.sampling import distribution, draw, uniform
from tests.inference.models import engine, from_hugging_face, prompts, shaken, tokenizer

PAIRS = list(zip(prompts([30, 9, 17, 12], seed=4), prompts([6, 20, 17, 3], seed=5), strict=True))


def full_scores(model: Any, prompt: list[int], ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([prompt + ids])).logits[0, -1]


def brute_force(model: Any, request: Request, count: int) -> tuple[list[int], list[float]]:
    """Token by token, each from two whole forward passes."""
    assert request.contrast is not None
    alpha, ids, logprobs = request.contrast.alpha, list[int](), list[float]()
    for step in range(count):
        raw = full_scores(model, list(request.prompt_ids), ids)
        scores = (1 + alpha) * raw - alpha * full_scores(model, list(request.contrast.prompt_ids), ids)
        if request.temperature == 0:
            token = int(scores.argmax())
        else:
            chances = distribution(scores[None], [request])
            token = int(draw(chances, torch.tensor([uniform(request.sampling_key(), step)], dtype=torch.float64))[0])
        ids.append(token)
        logprobs.append(float(raw.log_softmax(0)[token]))
    return ids, logprobs


@pytest.mark.parametrize("name", ["llama", "mistral"])
@pytest.mark.parametrize("alpha", [0.3, 1.5])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "top_p": 0.9, "seed": 3}], ids=["greedy", "sampled"])
def test_equals_two_full_forwards(name: str, alpha: float, sampling: dict[str, Any], tmp_path: Any) -> None:
    theirs = shaken(name)
    ours = Engine(from_hugging_face(theirs, tmp_path), tokenizer())
    for prompt, bare in PAIRS:
        request = Request(
            prompt_ids=prompt, contrast=Contrast(prompt_ids=bare, alpha=alpha), max_new_tokens=12, ignore_eos=True,
            **sampling,
        )  # fmt: skip
        ids, logprobs = brute_force(theirs, request, 12)
        answer = ours.generate([request])[0]
        assert answer.ids == ids and answer.finish_reason == "length"
        assert answer.logprobs == pytest.approx(logprobs, abs=1e-4)


def test_it_changes_answers_and_no_contrast_changes_none() -> None:
    changed = 0
    for prompt, bare in PAIRS:
        base: dict[str, Any] = {"prompt_ids": prompt, "max_new_tokens": 10, "ignore_eos": True, "temperature": 1.0}
        # One of each sort beside the other: they may share a call.
        plain, none, strong, same = engine().generate(
            [
                Request(**base),
                Request(**base, contrast=Contrast(prompt_ids=bare, alpha=0)),
                Request(**base, contrast=Contrast(prompt_ids=bare, alpha=2)),
                Request(**base, contrast=Contrast(prompt_ids=prompt, alpha=2)),
            ]
        )
        assert none.ids == plain.ids == same.ids
        assert none.logprobs == pytest.approx(plain.logprobs, abs=1e-5)
        changed += strong.ids != plain.ids
    assert changed >= 2


def test_streams_and_keeps_to_everything_else_that_is_asked() -> None:
    prompt, bare = PAIRS[0]
    base: dict[str, Any] = {"prompt_ids": prompt, "contrast": Contrast(prompt_ids=bare), "max_new_tokens": 40}
    request = Request(**base, ignore_eos=True, processed_logprobs=True, logprobs=2)
    whole, pieces = engine().generate([request])[0], list(engine().iterate(request))
    assert len(pieces) == 40 and pieces[-1].completion == whole
    assert "".join(piece.text for piece in pieces) == whole.text
    assert whole.processed_logprobs is not None and len(whole.processed_logprobs) == 40
    assert all(len(found) in (2, 3) for found in whole.top_logprobs)
    stop = whole.text[5:8]
    cut = engine().generate([Request(**base, ignore_eos=True, stop=[stop])])[0]
    assert cut.finish_reason == "stop" and cut.text == whole.text[: whole.text.index(stop)]
    formed = engine().generate([Request(**base, constraint=Constraint(json_schema={"enum": [True, [1, "é"]]}))])[0]
    assert formed.finish_reason == "stop" and json.loads(formed.text) in (True, [1, "é"])


def test_what_cannot_be_contrasted_is_refused() -> None:
    with pytest.raises(UsageError, match="no tokens"):
        Contrast(prompt_ids=[])
    for alpha in (-0.1, 11, float("nan")):
        with pytest.raises(UsageError, match="alpha"):
            Contrast(prompt_ids=[1], alpha=alpha)
    with pytest.raises(UsageError, match="contrast"):
        Request(prompt_ids=[1], beams=2, contrast=Contrast(prompt_ids=[1]))
    with pytest.raises(HanlinError, match="268 is not a token"):
        engine().generate([Request(prompt_ids=[1], contrast=Contrast(prompt_ids=[268]))])
    with pytest.raises(HanlinError, match="130 tokens"):
        engine().generate([Request(prompt_ids=[1], contrast=Contrast(prompt_ids=[1] * 130))])
    long = Request(prompt_ids=[1], max_new_tokens=100, contrast=Contrast(prompt_ids=[1] * 120), ignore_eos=True)
    assert len(engine().generate([long])[0].ids) == 8

"""Beam search against transformers' generate."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hanlin.artifacts import UsageError
from hanlin.inference import Engine, Request
from tests.inference.models import engine, from_hugging_face, prompts, shaken, small, tokenizer


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("beams", "length_penalty", "repetition_penalty"),
    [(2, 1.0, 1.0), (4, 0.0, 1.0), (5, 2.0, 1.0), (3, -1.0, 1.0), (4, 1.0, 1.4)],
)
def test_equals_transformers(
    name: str, beams: int, length_penalty: float, repetition_penalty: float, tmp_path: Any
) -> None:
    theirs = shaken(name)
    # Several end tokens, so that answers end at different lengths and the search has something to weigh.
    ends = list(range(0, 268, 6))
    ours = Engine(from_hugging_face(theirs, tmp_path), tokenizer(), eos_ids=ends)
    lengths: set[int] = set()
    for prompt in prompts([4, 9, 15, 7], seed=beams):
        with torch.no_grad():
            expected = theirs.generate(
                torch.tensor([prompt]), num_beams=beams, max_new_tokens=14, do_sample=False, early_stopping=False,
                length_penalty=length_penalty, repetition_penalty=repetition_penalty, eos_token_id=ends,
                pad_token_id=257,
            )[0, len(prompt) :].tolist()  # fmt: skip
        answer = ours.generate(
            [
                Request(
                    prompt_ids=prompt, beams=beams, max_new_tokens=14, length_penalty=length_penalty,
                    repetition_penalty=repetition_penalty,
                )
            ]
        )[0]  # fmt: skip
        assert answer.ids == expected
        assert answer.finish_reason == ("stop" if answer.ids[-1] in ends else "length")
        lengths.add(len(answer.ids))
    if length_penalty == 1.0:
        assert len(lengths) > 1


def test_finds_a_likelier_answer_than_greedy_and_says_how_likely() -> None:
    better = 0
    for prompt in prompts([6, 11, 20, 3], seed=1):
        base: dict[str, Any] = {"prompt_ids": prompt, "max_new_tokens": 10, "ignore_eos": True}
        greedy, searched = engine().generate([Request(**base), Request(**base, beams=6)])
        with torch.no_grad():
            exact = small()(torch.tensor([prompt + searched.ids]))[0].log_softmax(-1)
        wanted = [float(exact[len(prompt) - 1 + n, token]) for n, token in enumerate(searched.ids)]
        assert searched.logprobs == pytest.approx(wanted, abs=1e-5)
        better += sum(searched.logprobs) > sum(greedy.logprobs) + 1e-4
    assert better >= 2


def test_biases_and_penalties_count_in_a_search() -> None:
    base: dict[str, Any] = {"prompt_ids": [72, 105], "max_new_tokens": 6, "ignore_eos": True, "beams": 3}
    biased = engine().generate([Request(**base, logit_bias={65: 100, 66: 90}, frequency_penalty=2)])[0]
    assert set(biased.text) <= {"A", "B"}
    with torch.no_grad():
        raw = small()(torch.tensor([[72, 105, *biased.ids]]))[0].log_softmax(-1)
    assert biased.logprobs == pytest.approx([float(raw[1 + n, token]) for n, token in enumerate(biased.ids)], abs=1e-5)


def test_stop_strings_end_a_beam_and_the_answer_streams_as_one_piece() -> None:
    base: dict[str, Any] = {"prompt_ids": [72, 105], "max_new_tokens": 12, "ignore_eos": True, "beams": 3}
    free = engine().generate([Request(**base)])[0]
    stop = free.text[3:5]
    request = Request(**base, stop=[stop])
    answer = engine().generate([request])[0]
    assert stop not in answer.text
    pieces = list(engine().stream(request))
    assert len(pieces) == 1 and pieces[0].completion == answer and pieces[0].text == answer.text


def test_the_likeliest_tokens_of_each_position_are_not_promised() -> None:
    request = Request(prompt_ids=[72, 105], beams=2, logprobs=3, max_new_tokens=4)
    for ask in (lambda: engine().generate([request]), lambda: engine().stream(request)):
        with pytest.raises(UsageError, match="beams is 2 and logprobs 3"):
            ask()

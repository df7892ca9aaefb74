"""Guessing ahead changes nothing but the time."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from hanlin.artifacts import HanlinError
from hanlin.inference import Engine, Request
from hanlin.inference.speculation import Lookup
from hanlin.models import Transformer
from tests.inference.models import prompts, small, tokenizer
from tests.inference.test_scheduler import MODEL, asked, made, same


def shaken(share: float) -> Transformer:
    """The model, a little different: a draft that is often right."""
    draft = copy.deepcopy(MODEL)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.std() * share)
    return draft


def repeating() -> list[Request]:
    """Prompts that say things several times, greedy (where a small model soon repeats itself) and sampled."""
    given = [part * 4 for part in prompts([12, 30, 50, 7], seed=3)]
    return [
        Request(prompt_ids=prompt, max_new_tokens=60, temperature=0.7 * (number % 2), seed=number, ignore_eos=True)
        for number, prompt in enumerate(given)
    ]


@pytest.mark.parametrize("how", ["lookup", "itself", "draft"])
def test_answers_are_the_same_bit_by_bit(how: str) -> None:
    guesser: Any = {"lookup": "lookup", "itself": MODEL, "draft": shaken(0.05)}[how]
    requests = [*repeating(), *asked([20, 130, 300, 1], new=40)]
    plain = made(max_batch=8).generate(requests)
    one = made(max_batch=8, speculation=guesser)
    same(one.generate(requests), plain)
    load = one.load
    assert load.guessed_tokens > 20
    share = load.accepted_tokens / load.guessed_tokens
    # The model itself draws the very same tokens; what is left over is guessed past the end of answers.
    assert share > {"lookup": 0.02, "itself": 0.95, "draft": 0.3}[how]
    same([one.generate([request])[0] for request in requests], plain)
    assert one.load.running == one.load.waiting == 0


def test_fewer_steps_where_guesses_are_right() -> None:
    request = asked([20], new=80)[0]
    plain, quick = made(), made(speculation=MODEL)
    same(quick.generate([request]), plain.generate([request]))
    assert plain.load.steps == 80 and quick.load.steps < 80 / 4


def test_memory_that_is_short_and_ends_of_all_kinds() -> None:
    requests = asked([40, 100, 30, 64], new=90)
    same(made(cache_tokens=320, speculation=MODEL).generate(requests), made().generate(requests))
    free = made().generate([repeating()[0]])[0]
    stop = free.text[5:7]
    ends = [
        Request(prompt_ids=repeating()[0].prompt_ids, max_new_tokens=60, stop=[stop], ignore_eos=True),
        Request(prompt_ids=repeating()[0].prompt_ids, max_new_tokens=60, stop_ids=[free.ids[9]], ignore_eos=True),
        Request(prompt_ids=[5] * 1020, max_new_tokens=60, ignore_eos=True),
        Request(prompt_ids=[5] * 30, max_new_tokens=1),
    ]
    plain = made().generate(ends)
    for guesser in ("lookup", MODEL):
        one = made(speculation=guesser)
        same(one.generate(ends), plain)
        for request, answer in zip(ends, plain):
            pieces = list(one.iterate(request))
            assert "".join(piece.text for piece in pieces) == answer.text
            assert [token for piece in pieces for token in piece.ids] == answer.ids


def test_what_depends_on_the_tokens_before_is_not_guessed() -> None:
    base: dict[str, Any] = {"prompt_ids": [1, 2, 3] * 9, "max_new_tokens": 30, "ignore_eos": True}
    requests = [
        Request(**base, repetition_penalty=1.3),
        Request(**base, frequency_penalty=0.5),
        Request(**base, processed_logprobs=True),
        Request(**base, logprobs=2),
    ]
    one = made(speculation="lookup")
    plain = made().generate(requests)
    found = one.generate(requests)
    same(found, plain)
    assert [answer.top_logprobs for answer in found] == [answer.top_logprobs for answer in plain]


def test_lookup_finds_what_followed_last() -> None:
    one = made()
    sequence = one._sequence(Request(prompt_ids=[1, 2, 3, 4, 9, 1, 2, 3, 5, 6, 7, 1, 2, 3], max_new_tokens=20))
    lookup = Lookup()
    assert lookup.guess([sequence], [2]) == [[5, 6]]
    for token in (4, 9, 1):
        sequence.append(token, 0.0, {})
    # The longest end that was seen before: 3 4 9 1, after which came 2.
    assert lookup.guess([sequence], [3]) == [[2, 3, 5]]
    sequence.append(200, 0.0, {})
    assert lookup.guess([sequence], [3]) == [[]]
    lookup.forget(sequence)
    assert not lookup._known


def test_another_vocabulary_is_refused() -> None:
    other = copy.deepcopy(small())
    other.config = other.config.model_copy(update={"vocabulary_size": 300})
    with pytest.raises(HanlinError, match="300"):
        Engine(MODEL, tokenizer(), speculation=other)

"""The engine against transformers, against the plain forward pass, and against itself in other company."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hanlin.artifacts import HanlinError, UsageError
from hanlin.inference import Completion, Engine, Request
from hanlin.inference.runner import Runner
from hanlin.inference.step import Step
from hanlin.models import Transformer
from tests.inference.models import FAMILIES, VOCABULARY, engine, from_hugging_face, prompts, shaken, small, tokenizer

LENGTHS = [5, 17, 1, 30, 12, 9, 22]


def forward_logprobs(model: Any, prompt: list[int], ids: list[int]) -> torch.Tensor:
    """What the plain forward pass (the trainer's) says of the tokens of an answer."""
    whole = torch.tensor([prompt + ids])
    with torch.no_grad():
        logprobs = model(whole)[0].double().log_softmax(-1)
    return logprobs[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None])[:, 0]


def margin(model: Any, prompt: list[int], ids: list[int]) -> float:
    """How far the likeliest token is ahead of the second, at the narrowest place of a greedy answer."""
    with torch.no_grad():
        best = model(torch.tensor([prompt + ids]))[0, len(prompt) - 1 : -1].topk(2, dim=-1).values
    return float((best[:, 0] - best[:, 1]).min())


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_equals_transformers(name: str, tmp_path: Any) -> None:
    theirs = shaken(name)
    ours = from_hugging_face(theirs, tmp_path)
    given = prompts(LENGTHS)
    answers = Engine(ours, tokenizer(), eos_ids=[256], max_batch=4).generate(
        [Request(prompt_ids=prompt, max_new_tokens=40) for prompt in given]
    )
    for prompt, answer in zip(given, answers):
        with torch.no_grad():
            expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)[0, len(prompt) :]
        assert answer.ids == expected.tolist()
    # Answers that differ: the test would pass with a model that says one thing only.
    assert len({tuple(answer.ids) for answer in answers}) == len(given)


@pytest.mark.parametrize("name", FAMILIES)
def test_logprobs_equal_the_plain_forward(name: str) -> None:
    model, given = small(name), prompts(LENGTHS, seed=1)
    answers = Engine(model, tokenizer(), max_batch=4).generate(
        [
            Request(prompt_ids=prompt, max_new_tokens=10 + 5 * number, temperature=1.0, seed=number, ignore_eos=True)
            for number, prompt in enumerate(given)
        ]
    )
    for number, (prompt, answer) in enumerate(zip(given, answers)):
        assert len(answer.ids) == 10 + 5 * number
        expected = forward_logprobs(model, prompt, answer.ids)
        assert (torch.tensor(answer.logprobs, dtype=torch.float64) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_alone_as_in_company(name: str) -> None:
    one, given = engine(name), prompts(LENGTHS, seed=2)
    requests = [
        Request(prompt_ids=prompt, max_new_tokens=25, temperature=0.8 * (number % 2), seed=5, top_p=0.9)
        for number, prompt in enumerate(given)
    ]
    together = one.generate(requests)
    alone = [one.generate([request])[0] for request in requests]
    backwards = one.generate(requests[::-1])[::-1]
    for number, (a, b, c) in enumerate(zip(together, alone, backwards)):
        if number % 2 == 0:
            # Far more than rounding could close, so that equal tokens are no luck.
            assert margin(small(name), given[number], a.ids) > 1e-4
        assert a.ids == b.ids == c.ids
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
        assert a.text == b.text == c.text


def test_rows_are_refilled_and_closed_up() -> None:
    one = Engine(small(), tokenizer(), max_batch=3)
    given = prompts([3 + 7 * (n % 5) for n in range(14)], seed=3)
    requests = [
        Request(prompt_ids=prompt, max_new_tokens=1 + (5 * number) % 11, ignore_eos=True)
        for number, prompt in enumerate(given)
    ]
    finished: list[Completion] = []
    answers = one.generate(requests, on_finish=finished.append)
    assert len(finished) == len(answers) and {id(a) for a in finished} == {id(a) for a in answers}
    for request, answer in zip(requests, answers):
        assert len(answer.ids) == request.max_new_tokens and answer.finish_reason == "length"
        assert answer.prompt_tokens == len(request.prompt_ids)
        expected = forward_logprobs(small(), list(request.prompt_ids), answer.ids)
        assert (torch.tensor(answer.logprobs) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_read_in_pieces(name: str) -> None:
    given = prompts([50, 47, 3], seed=4)
    requests = [Request(prompt_ids=prompt, max_new_tokens=8) for prompt in given]
    whole = engine(name).generate(requests)
    pieces = Engine(small(name), tokenizer(), prefill_tokens=16).generate(requests)
    for a, b in zip(whole, pieces):
        assert a.ids == b.ids and a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_that_several_ask_is_read_once(name: str) -> None:
    one, two, three = prompts([21, 9, 30], seed=4)
    asked = [one, two, one, one, three, two, one]
    requests = [
        Request(prompt_ids=prompt, max_new_tokens=3 + number, temperature=1, seed=number)
        for number, prompt in enumerate(asked)
    ]
    alone = [engine(name).generate([request])[0] for request in requests]
    # All at once; then, as there is room for two only, some join while others run.
    for batch, tokens in ((8, 21 + 9 + 30), (2, None)):
        crowd = Engine(small(name), tokenizer(), max_batch=batch, frozen=True)
        together = crowd.generate(requests)
        assert tokens in (None, crowd.load.prompt_tokens)
        for a, b in zip(alone, together):
            assert a.ids == b.ids and a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_step_is_the_models_own_forward(name: str, precision: torch.dtype, rows: int) -> None:
    """The step that is written flat, and `Transformer.hidden`, position by position."""
    import copy

    model = copy.deepcopy(small(name)).to(precision)
    runner = Runner(Step(model), 4, 4096)
    given = prompts([4, 11, 7], seed=5)[:rows]
    with torch.inference_mode():
        runner.prefill([prompt[:-3] for prompt in given])
        for back in (3, 2, 1):
            lengths = [len(prompt) - back for prompt in given]
            logits = runner.decode([prompt[-back] for prompt in given], lengths)
        expected = torch.stack([model(torch.tensor([prompt]))[0, -1] for prompt in given])
    assert (logits - expected).abs().max() < (1e-5 if precision == torch.float32 else 1e-6)


def test_decode_step_in_bfloat16() -> None:
    import copy

    exact = small("qwen3")
    model = copy.deepcopy(exact).to(torch.bfloat16)
    runner = Runner(Step(model), 2, 4096)
    prompt = prompts([12], seed=6)[0]
    with torch.inference_mode():
        runner.prefill([prompt[:-1]])
        logits = runner.decode([prompt[-1]], [len(prompt) - 1])[0]
        expected = exact(torch.tensor([prompt]))[0, -1]
        own = model(torch.tensor([prompt]))[0, -1].float()
    # As near to the truth as the plain forward pass in bfloat16 is.
    assert (logits - expected).abs().mean() < 1.5 * (own - expected).abs().mean()


def test_weights_in_training_are_rounded_when_used() -> None:
    """float32 weights with bfloat16 arithmetic, as the training loop has them."""
    import copy

    model = copy.deepcopy(small())
    model.compute_dtype = torch.bfloat16
    one = Engine(model, tokenizer())
    before = one.generate([Request(prompt_ids=[1, 2, 3], max_new_tokens=4, ignore_eos=True)])[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.5)
    after = one.generate([Request(prompt_ids=[1, 2, 3], max_new_tokens=4, ignore_eos=True)])[0]
    fresh = Engine(model, tokenizer()).generate([Request(prompt_ids=[1, 2, 3], max_new_tokens=4, ignore_eos=True)])[0]
    assert after.logprobs == fresh.logprobs != before.logprobs


def test_stop_token_and_end_of_text() -> None:
    one = engine()
    free = one.generate([Request(prompt_ids=[65, 66], max_new_tokens=12, ignore_eos=True)])[0]
    # A stop token is part of the ids and not of the text.
    stop = free.ids[5]
    first = free.ids.index(stop)
    cut = one.generate([Request(prompt_ids=[65, 66], max_new_tokens=12, stop_ids=[stop], ignore_eos=True)])[0]
    assert cut.finish_reason == "stop" and cut.ids == free.ids[: first + 1]
    assert cut.text == tokenizer().decode(free.ids[:first])
    ends = Engine(small(), tokenizer(), eos_ids=[stop]).generate([Request(prompt_ids=[65, 66], max_new_tokens=12)])[0]
    assert ends.ids == cut.ids and ends.text == cut.text and ends.finish_reason == "stop"


def test_top_and_prompt_logprobs() -> None:
    prompt = prompts([6], seed=8)[0]
    answer = engine().generate(
        [Request(prompt_ids=prompt, max_new_tokens=5, temperature=1.5, logprobs=3, prompt_logprobs=True)]
    )[0]
    with torch.no_grad():
        exact = small()(torch.tensor([prompt + answer.ids]))[0].log_softmax(-1)
    for offset, (token, logprob, top) in enumerate(zip(answer.ids, answer.logprobs, answer.top_logprobs, strict=True)):
        row = exact[len(prompt) - 1 + offset]
        expected = {*row.topk(3).indices.tolist(), token}
        assert set(top) == expected and top[token] == logprob
        assert all(value == pytest.approx(float(row[i]), abs=1e-5) for i, value in top.items())
    assert answer.prompt_logprobs is not None and answer.prompt_logprobs[0] is None
    wanted = [float(exact[place, token]) for place, token in enumerate(prompt[1:])]
    assert answer.prompt_logprobs[1:] == pytest.approx(wanted, abs=1e-5)


def test_the_context_is_the_limit() -> None:
    one, limit = engine("gpt2"), 128
    with pytest.raises(HanlinError, match="128"):
        one.generate([Request(prompt_ids=[1] * limit)])
    answer = one.generate([Request(prompt_ids=[1] * (limit - 3), max_new_tokens=50, ignore_eos=True)])[0]
    assert len(answer.ids) == 3 and answer.finish_reason == "length"


def broken() -> Transformer:
    """A model for which token 7 cannot be read: it makes all numbers NaN."""
    import copy

    model = copy.deepcopy(small())
    with torch.no_grad():
        model.embedding.weight[7] = float("nan")
        if model.head is None:  # tied: only the reading of token 7 is to be broken
            model.head = torch.nn.Linear(48, VOCABULARY, bias=False)
            model.head.weight.copy_(small().embedding.weight)
    return model


def test_several_errors_at_once_leave_nothing_behind() -> None:
    one = Engine(broken(), tokenizer(), max_batch=3, eos_ids=[])
    good = [Request(prompt_ids=[20] * 40, max_new_tokens=30, stop_ids=[7])]
    good += [Request(prompt_ids=[n, 2, 3], max_new_tokens=6, stop_ids=[7]) for n in (21, 22)]
    bad = [Request(prompt_ids=[7, *range(30)], max_new_tokens=6) for _ in range(2)]
    answers = one.generate([good[0], *bad, *good[1:]])
    assert [answer.finish_reason for answer in answers[1:3]] == ["error", "error"]
    clean = Engine(small(), tokenizer(), eos_ids=[]).generate(good)
    assert [answers[number].ids for number in (0, 3, 4)] == [answer.ids for answer in clean]


def test_beams_without_meaning_are_an_error() -> None:
    one = Engine(broken(), tokenizer(), eos_ids=[])
    answers = one.generate([Request(prompt_ids=[7, 1], max_new_tokens=4, beams=3)])
    assert answers[0].finish_reason == "error" and answers[0].ids == []


def test_scores_without_meaning_are_an_error_of_their_row_alone() -> None:
    one = Engine(broken(), tokenizer(), max_batch=2, eos_ids=[])
    # A long good row beside the bad ones, then short ones in the bad ones' place: what those left must not be met.
    good = [Request(prompt_ids=[20] * 40, max_new_tokens=30, stop_ids=[7])]
    good += [Request(prompt_ids=[n, 2, 3], max_new_tokens=6, stop_ids=[7]) for n in (21, 22)]
    bad = [Request(prompt_ids=[7, *range(n)], max_new_tokens=6) for n in (30, 25)]
    answers = one.generate([bad[0], *good, bad[1]])
    assert answers[0].finish_reason == answers[4].finish_reason == "error" and answers[0].ids == []
    clean = Engine(small(), tokenizer(), eos_ids=[]).generate(good)
    assert [answer.ids for answer in answers[1:4]] == [answer.ids for answer in clean]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": -0.1},
        {"min_p": 1.5}, {"top_k": -1}, {"max_new_tokens": 0}, {"repetition_penalty": 0.0}, {"stop": "text"},
        {"stop": [""]}, {"beams": 0}, {"beams": 2, "temperature": 1.0}, {"logprobs": -1}, {"prompt_ids": []},
        {"length_penalty": float("inf")},
    ],
)  # fmt: skip
def test_requests_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong)).split("_")[0]):
        Request(**{"prompt_ids": [1], **wrong})


def test_tokens_that_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(HanlinError, match="268"):
        engine().generate([Request(prompt_ids=[1, VOCABULARY])])
    with pytest.raises(HanlinError, match="-1"):
        engine().score([([1], [-1])])


def test_bias_penalties_and_both_kinds_of_logprobs_through_the_engine() -> None:
    base: dict[str, Any] = {"prompt_ids": [72, 105], "max_new_tokens": 12, "ignore_eos": True}
    asked = [
        Request(**base),
        Request(**base, logit_bias={65: 100}, processed_logprobs=True),
        Request(**base, frequency_penalty=2, logit_bias={65: 60, 66: 60}, processed_logprobs=True),
    ]
    free, biased, alternating = engine().generate(asked)
    assert free.processed_logprobs is None
    assert biased.text == "A" * 12 and biased.processed_logprobs == [pytest.approx(0, abs=1e-6)] * 12
    assert max(biased.logprobs) < -0.1
    assert set(alternating.text) == {"A", "B"}
    with torch.no_grad():
        raw = small()(torch.tensor([[72, 105, *biased.ids]]))[0].log_softmax(-1)
    wanted = [float(raw[1 + place, token]) for place, token in enumerate(biased.ids)]
    assert biased.logprobs == pytest.approx(wanted, abs=1e-5)


def test_what_the_engine_cannot_sample_is_refused() -> None:
    with pytest.raises(UsageError, match="token 268"):
        engine().generate([Request(prompt_ids=[1], logit_bias={268: 1.0})])
    with pytest.raises(UsageError, match="expand"):
        engine().generate([Request(prompt_ids=[1], n=3)])


def test_steps_have_few_heights() -> None:
    """For each height that it meets oneDNN keeps code: a server would grow with every other number of tokens."""
    one, heights = Engine(small(), tokenizer(), max_batch=8), set[int]()
    hook = one.model.embedding.register_forward_hook(lambda module, given, found: heights.add(given[0].shape[0]))
    try:
        given = prompts([*range(1, 124, 3)], seed=9)
        for start in range(0, len(given), 4):
            one.generate([Request(prompt_ids=prompt, max_new_tokens=2) for prompt in given[start : start + 4]])
    finally:
        hook.remove()
    assert max(heights) > 200 and all(height <= 64 or height % 32 == 0 for height in heights), heights

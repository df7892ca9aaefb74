"""Log-probabilities of given texts against the plain forward pass."""

from __future__ import annotations

import pytest
import torch

from hanlin.artifacts import HanlinError, UsageError
from hanlin.inference import Engine, Request, scoring
from tests.inference.models import FAMILIES, engine, prompts, small, tokenizer


def expected(family: str, context: list[int], continuation: list[int]) -> list[float]:
    with torch.no_grad():
        logprobs = small(family)(torch.tensor([context + continuation]))[0].double().log_softmax(-1)
    return [float(logprobs[len(context) - 1 + n, token]) for n, token in enumerate(continuation)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_tokens", [40, 4096])
def test_equals_the_plain_forward(family: str, batch_tokens: int) -> None:
    contexts, continuations = prompts([20, 3, 41, 1, 12], seed=1), prompts([4, 1, 15, 2, 9, 30], seed=2)
    # Every context with several continuations (one branch each of a shared row), and some alone.
    pairs = [(a, b) for a in contexts[:3] for b in continuations] + list(zip(contexts[3:], continuations))
    pairs.append((contexts[0], []))
    one = Engine(small(family), tokenizer(), prefill_tokens=batch_tokens)
    scores = one.score(pairs)
    for (context, continuation), found in zip(pairs, scores, strict=True):
        assert found == pytest.approx(expected(family, context, continuation), abs=1e-5)


def test_logits_are_made_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(prompts([5], seed=n)[0], prompts([20], seed=n + 50)[0]) for n in range(6)]
    whole = engine().score(pairs)
    seen: list[int] = []
    original = type(small()).logits

    def spy(self: object, hidden: torch.Tensor) -> torch.Tensor:
        seen.append(hidden.shape[0])
        return original(self, hidden)

    monkeypatch.setattr(type(small()), "logits", spy)
    monkeypatch.setattr(scoring, "LOGIT_BYTES", 4 * 268 * 7)
    assert engine().score(pairs) == [pytest.approx(row, abs=1e-6) for row in whole]
    assert max(seen) == 7 and sum(seen) == 120
    seen.clear()
    engine().generate([Request(prompt_ids=[1] * 100, max_new_tokens=1, prompt_logprobs=True, prompt_top_logprobs=3)])
    assert max(seen) == 7 and sum(seen) >= 99


@pytest.mark.parametrize("batch_tokens", [40, 4096])
def test_the_likeliest_tokens_of_a_prompt(batch_tokens: int) -> None:
    one = Engine(small("qwen3"), tokenizer(), prefill_tokens=batch_tokens)
    lists = prompts([40, 9, 1, 20], seed=3)
    asked = [
        Request(prompt_ids=prompt, max_new_tokens=1, prompt_logprobs=True, prompt_top_logprobs=top)
        for prompt, top in zip(lists, [3, 0, 2, 1000], strict=True)
    ]
    for request, answer in zip(asked, one.generate(asked), strict=True):
        prompt, top = list(request.prompt_ids), request.prompt_top_logprobs
        with torch.no_grad():
            exact = small("qwen3")(torch.tensor([prompt]))[0].double().log_softmax(-1)
        assert answer.prompt_logprobs is not None and answer.prompt_logprobs[0] is None
        assert answer.prompt_logprobs[1:] == pytest.approx(
            [float(exact[n, t]) for n, t in enumerate(prompt[1:])], abs=1e-5
        )
        if not top:
            assert answer.prompt_top_logprobs is None
            continue
        assert answer.prompt_top_logprobs is not None and len(answer.prompt_top_logprobs) == len(prompt)
        assert answer.prompt_top_logprobs[0] is None
        for place, found in enumerate(answer.prompt_top_logprobs[1:]):
            assert found is not None
            wanted = {*exact[place].topk(min(top, 268)).indices.tolist(), prompt[place + 1]}
            assert found.keys() == wanted
            assert all(value == pytest.approx(float(exact[place, token]), abs=1e-5) for token, value in found.items())


def test_prompt_alternatives_are_not_given_unasked() -> None:
    with pytest.raises(UsageError, match="prompt_logprobs"):
        Request(prompt_ids=[1], prompt_top_logprobs=2)
    with pytest.raises(UsageError, match="-1"):
        Request(prompt_ids=[1], prompt_top_logprobs=-1, prompt_logprobs=True)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(HanlinError, match="empty context"):
        engine().score([([], [1])])
    with pytest.raises(HanlinError, match="128"):
        engine().score([([1] * 100, [1] * 30)])
    assert len(engine().score([([1] * 100, [1] * 29)])[0]) == 29
    assert engine().score([]) == []

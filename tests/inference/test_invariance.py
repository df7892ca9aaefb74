"""The same bits in any company: whatever else is in the batch, however a prompt is cut, however it came to be known."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from hanlin.artifacts import HanlinError
from hanlin.inference import Completion, Engine, Request, step
from hanlin.inference.alike import least_rows
from hanlin.inference.plan import Piece, Plan
from hanlin.inference.precision import DTYPES, for_generation
from hanlin.inference.prefixes import TILE
from hanlin.models import Transformer
from tests.inference.models import prompts, tokenizer
from tests.inference.test_scheduler import roomy, same

SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {"heads": 6, "kv_heads": 2, "hidden_size": 96},
    "alone": {"heads": 2, "kv_heads": 2, "hidden_size": 64, "head_dim": 32},
    "one kv": {"heads": 8, "kv_heads": 1, "hidden_size": 64, "head_dim": 16},
    "window": {"family": "mistral", "heads": 4, "kv_heads": 2, "hidden_size": 64, "sliding_window": 70},
    "learned": {"family": "gpt2", "heads": 4, "kv_heads": 4, "hidden_size": 64, "intermediate_size": 128},
}


def crowd(seed: int) -> list[Request]:
    """Requests of all lengths, some alike, greedy and sampled."""
    chance = random.Random(seed)
    lengths = [1, 31, 33, 128, 129, 200, 255, 257, 300, 390, 500]
    given = prompts([chance.choice(lengths) for _ in range(9)], seed)
    given += [given[0], [*given[1], *given[2]], given[3][: len(given[3]) // 2 + 1]]
    return [
        Request(
            prompt_ids=prompt, max_new_tokens=chance.choice([1, 7, 15]), temperature=number % 2, seed=number,
            ignore_eos=True,
        )
        for number, prompt in enumerate(given)
    ]  # fmt: skip


def lone(model: Transformer, requests: list[Request], **settings: Any) -> list[Completion]:
    found: list[Completion] = []
    for request in requests:
        found += Engine(model, tokenizer(), deterministic=True, max_batch=1, **settings).generate([request])
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_in_any_company(shape: str, threads: int) -> None:
    torch.set_num_threads(threads)
    model = roomy(**SHAPES[shape])
    requests = crowd(1)
    alone = lone(model, requests)
    for settings in (
        {"max_batch": 32},
        {"max_batch": 5, "prefill_tokens": 128},
        {"max_batch": 9, "cache_tokens": 1100, "frozen": True},
    ):
        one = Engine(model, tokenizer(), deterministic=True, **settings)
        assert one.deterministic
        same(one.generate(requests), alone)
        same(one.generate(requests[::-1])[::-1], alone)


@pytest.mark.parametrize("dtype", DTYPES)
def test_frozen_weights_are_alike_without_being_asked(dtype: str) -> None:
    model = for_generation(roomy(heads=6, hidden_size=96, intermediate_size=64), dtype)
    one = Engine(model, tokenizer(), max_batch=32)
    assert one.deterministic and one._step.least == 1
    requests = crowd(2)
    same(one.generate(requests), lone(model, requests))


def test_what_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "activations_are_alike", lambda *_: False)
    with pytest.raises(HanlinError, match="deterministic"):
        Engine(roomy(), tokenizer(), deterministic=True)
    assert not Engine(roomy(), tokenizer()).deterministic


def test_products_that_are_never_alike_are_found_out() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 64, generator=generator)

    def dependent(x: torch.Tensor) -> torch.Tensor:
        return x @ weight.T + x.shape[0] * 1e-6

    def alike(x: torch.Tensor) -> torch.Tensor:
        return (x[:, None, :] * weight).sum(-1)

    def from_four(x: torch.Tensor) -> torch.Tensor:
        return alike(x) * (1 if x.shape[0] >= 4 else 1.000001)

    assert least_rows([(dependent, 64)], torch.float32, torch.device("cpu")) is None
    assert least_rows([(alike, 64)], torch.float32, torch.device("cpu")) == 1
    assert least_rows([(alike, 64), (from_four, 64)], torch.float32, torch.device("cpu")) == 4


def test_a_plan_covers_every_token_once() -> None:
    chance = random.Random(8)
    for _ in range(200):
        slots = chance.sample(range(40), chance.randint(1, 30))
        pieces: list[Piece] = []
        for slot in slots:
            if chance.random() < 0.6:
                pieces.append(Piece(slot, chance.randint(0, 900), [slot], False, True))
            else:
                count = chance.choice([1, 30, 128, 129, 300])
                pieces.append(Piece(slot, TILE * chance.randint(0, 4), [slot] * count, True, chance.random() < 0.5))
        plan = Plan(pieces)
        covered: list[int] = []
        for run in [*plan.decode_runs(), *plan.prompt_runs()]:
            assert len(run.sources) == run.rows * run.queries
            for place in run.places:
                source, row = run.sources[place], place // run.queries
                covered.append(source)
                assert plan.tokens[source] == run.slot + row
                position = plan.positions[source]
                assert position < run.span
                if run.start >= 0:
                    assert position == run.start + place % run.queries
        assert sorted(covered) == list(range(len(plan.tokens)))
        answered = [piece for piece in pieces if piece.answered]
        assert [plan.tokens[place] for place in plan.answers] == [piece.slot for piece in answered]
        ends = [piece.start + len(piece.tokens) - 1 for piece in answered]
        assert [plan.positions[place] for place in plan.answers] == ends

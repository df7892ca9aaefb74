"""Filters, penalties and draws against exact probabilities and against transformers' processors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hanlin.artifacts import UsageError
from hanlin.inference import Completion, Request, expand, likeliest
from hanlin.inference.sampling import (
    SamplingState,
    choose,
    distribution,
    draw,
    filter_min_p,
    filter_top_k,
    filter_top_p,
    penalise_repetition,
    process,
    uniform,
)

SCORES = torch.tensor([2.0, -1.0, 0.5, 1.7, -3.0, 0.4, 1.1, -0.2])


def request(**settings: Any) -> Request:
    return Request(**{"prompt_ids": [0], "temperature": 1.0, **settings})


def reference(scores: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
    """The distribution by transformers' own processors, in its order."""
    ids = torch.tensor([settings.get("prompt_ids", [0])])
    scores = scores[None].clone()
    if bias := settings.get("logit_bias"):
        scores = SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()})(ids, scores)
    if (penalty := settings.get("repetition_penalty", 1.0)) != 1:
        scores = RepetitionPenaltyLogitsProcessor(penalty)(ids, scores)
    scores = TemperatureLogitsWarper(settings.get("temperature", 1.0))(ids, scores)
    if k := settings.get("top_k", 0):
        scores = TopKLogitsWarper(k)(ids, scores)
    if (p := settings.get("top_p", 1.0)) < 1:
        scores = TopPLogitsWarper(p)(ids, scores)
    if m := settings.get("min_p", 0.0):
        scores = MinPLogitsWarper(m)(ids, scores)
    return scores[0].double().softmax(-1)


CASES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.4},
    {"temperature": 2.5},
    {"top_k": 3},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"repetition_penalty": 1.7, "prompt_ids": [0, 4, 4, 3]},
    {"repetition_penalty": 0.6, "prompt_ids": [1, 2]},
    {"logit_bias": {1: 2.5, 0: -4.0, 7: 1.0}},
    {
        "logit_bias": {4: 3.0, 0: -1.5},
        "repetition_penalty": 1.7,
        "prompt_ids": [0, 4],
        "temperature": 0.8,
        "top_p": 0.9,
    },
    {"temperature": 1.6, "top_k": 6, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.2, "prompt_ids": [0, 1]},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_drawn_tokens_follow_the_exact_distribution(case: dict[str, Any]) -> None:
    """Chi-square over 4,000 seeds; the expected probabilities are transformers'."""
    exact = reference(SCORES, case)
    n = 4000
    states = [SamplingState.start(request(**case, seed=seed)) for seed in range(n)]
    drawn = torch.tensor(choose(SCORES.expand(n, -1), states).tokens)
    counts = torch.bincount(drawn, minlength=8).double()
    assert counts[exact == 0].sum() == 0
    possible = exact > 0
    expected = exact[possible] * n
    statistic = float(((counts[possible] - expected) ** 2 / expected).sum())
    freedom = int(possible.sum()) - 1
    # Wilson and Hilferty's approximation of the 99.9 % point; seeds are fixed, so this passes always or never.
    limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < limit


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=40, unique=True),
    st.floats(0.2, 3.0),
    st.integers(0, 45),
    st.floats(0.05, 1.0),
    st.floats(0.0, 0.9),
)
@settings(max_examples=150, deadline=None)
def test_distribution_equals_transformers(scores: list[float], temperature: float, k: int, p: float, m: float) -> None:
    case = {"temperature": temperature, "top_k": k, "top_p": p, "min_p": m}
    tensor = torch.tensor(scores, dtype=torch.float64)
    if (tensor[:, None] - tensor[None, :]).abs().fill_diagonal_(1).min() < 1e-6:
        return  # equals, or nearly: transformers keeps one of them, whichever its sort puts first
    mine = distribution(tensor[None], [request(**case)])[0]
    mine = mine / mine.sum()
    theirs = reference(tensor, case)
    boundary = ((tensor / temperature).softmax(-1).sort(descending=True).values.cumsum(0) - p).abs().min() < 1e-9
    if not boundary:
        assert torch.allclose(mine, theirs, atol=1e-9)


probabilities = st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=60).map(
    lambda values: torch.tensor(values, dtype=torch.float64) / sum(values)
)


@given(probabilities, st.floats(0.01, 1.0))
@settings(max_examples=200, deadline=None)
def test_top_p_keeps_the_smallest_sufficient_set(chances: torch.Tensor, p: float) -> None:
    kept = filter_top_p(chances[None], torch.tensor([p], dtype=torch.float64))[0]
    chosen = kept > 0
    assert torch.equal(kept[chosen], chances[chosen])
    assert float(kept.sum()) >= p - 1e-9
    if p < 1:
        # Nothing left out is likelier than what is kept, and without its least likely members (equals count as one) it
        # would not suffice.
        least = kept[chosen].min()
        assert not bool((chances[~chosen] >= least).any())
        assert float(kept[kept > least].sum()) < p + 1e-9


@given(probabilities, st.integers(0, 70))
@settings(max_examples=100, deadline=None)
def test_top_k_keeps_the_likeliest(chances: torch.Tensor, k: int) -> None:
    kept = filter_top_k(chances[None], torch.tensor([k]))[0] > 0
    size = len(chances)
    assert int(kept.sum()) >= (size if k == 0 else min(k, size))
    if not bool(kept.all()):
        assert chances[~kept].max() < chances[kept].min()
        assert int((chances > chances[kept].min()).sum()) < k


@given(probabilities, st.floats(0.0, 1.0))
@settings(max_examples=100, deadline=None)
def test_min_p_keeps_what_is_near_the_likeliest(chances: torch.Tensor, fraction: float) -> None:
    kept = filter_min_p(chances[None], torch.tensor([fraction], dtype=torch.float64))[0] > 0
    assert torch.equal(kept, chances >= fraction * chances.max())


def test_rows_with_different_settings_do_not_touch_each_other() -> None:
    requests = [request(**case) for case in CASES if "repetition_penalty" not in case]
    scores = torch.stack([SCORES.roll(n) for n in range(len(requests))])
    together = distribution(scores, requests)
    for row, one in enumerate(requests):
        assert torch.equal(together[row], distribution(scores[row : row + 1], [one])[0])


def test_top_p_over_a_large_flat_vocabulary() -> None:
    """Where the first few hundred tokens do not hold enough, it looks further."""
    scores = torch.randn(2, 20000, generator=torch.Generator().manual_seed(0)) * 0.01
    for row, theirs in zip(distribution(scores, [request(top_p=0.7)] * 2), scores):
        exact = reference(theirs.double(), {"top_p": 0.7})
        assert torch.equal(row > 0, exact > 0)


def test_repetition_penalty_counts_a_token_once() -> None:
    out = penalise_repetition(torch.tensor([2.0, -2.0, 1.0]), torch.tensor([0, 1]), 2.0)
    assert out.tolist() == [1.0, -4.0, 1.0]


def test_repetition_penalty_sees_the_answer_too() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.5]])
    state = SamplingState.start(Request(prompt_ids=[0], repetition_penalty=1.5))
    chosen: list[int] = []
    for _ in range(3):
        choice = choose(scores, [state])
        state.advance(choice.tokens[0])
        chosen.append(choice.tokens[0])
        # The reported log-probability is the model's own.
        assert choice.logprobs[0] == pytest.approx(float(scores.log_softmax(1)[0, choice.tokens[0]]))
    assert chosen == [1, 2, 1]


def test_uniform_numbers_are_uniform_and_not_correlated() -> None:
    drawn = torch.tensor([[uniform(key * 7919, step) for step in range(50)] for key in range(200)])
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = torch.histc(drawn, 20, 0, 1)
    assert float(((counts - 500) ** 2 / 500).sum()) < 43.8  # 99.9 % point for 19 degrees of freedom
    assert torch.corrcoef(drawn).fill_diagonal_(0).abs().mean() < 0.13  # 1/sqrt(50) · sqrt(2/π) = 0.113 by chance


def test_draw_never_takes_what_is_impossible() -> None:
    chances = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]], dtype=torch.float64).expand(3, -1)
    assert draw(chances, torch.tensor([0.0, 0.5, 1 - 2**-48], dtype=torch.float64)).tolist() == [1, 3, 3]


def test_seeds_and_prompts_give_other_numbers() -> None:
    keys = {request(seed=seed, prompt_ids=ids).sampling_key() for seed in range(50) for ids in ([1], [1, 2], [12])}
    assert len(keys) == 150


def test_scores_that_are_no_numbers() -> None:
    scores = torch.stack([SCORES, SCORES, SCORES])
    scores[1, 2] = float("nan")
    scores[2, 2] = float("inf")
    for temperature in (0.0, 1.0):
        choice = choose(scores, [SamplingState.start(request(temperature=temperature)) for _ in range(3)])
        assert choice.tokens[0] >= 0 and choice.tokens[1:] == [-1, -1]


def test_a_row_is_drawn_in_the_same_way_whatever_its_neighbours_ask_for() -> None:
    logits = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)) * 3
    plain = [Request(prompt_ids=[1], temperature=1, seed=seed) for seed in range(200)]
    other = Request(prompt_ids=[1], temperature=0.7, top_p=0.5, seed=9)
    for request in plain:
        states = [SamplingState.start(one) for one in (request, other, plain[0])]
        alone, beside = choose(logits[:1], states[:1]), choose(logits, states)
        assert (alone.tokens[0], alone.logprobs[0]) == (beside.tokens[0], beside.logprobs[0])


@given(
    st.lists(st.integers(0, 7), max_size=12),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.floats(0.5, 2).filter(lambda penalty: penalty != 1),
    st.dictionaries(st.integers(0, 7), st.floats(-5, 5), max_size=4),
)
@settings(max_examples=100, deadline=None)
def test_penalties_follow_the_formulas(
    answer: list[int], presence: float, frequency: float, repetition: float, bias: dict[int, float]
) -> None:
    """Bias, then repetition (Keskar et al. 2019), then OpenAI's μ[j] - c[j]·frequency - (c[j] > 0)·presence."""
    one = request(
        prompt_ids=[2, 2, 5], presence_penalty=presence, frequency_penalty=frequency,
        repetition_penalty=repetition, logit_bias=bias,
    )  # fmt: skip
    state = SamplingState.start(one)
    for token in answer:
        state.advance(token)
    wanted: list[float] = []
    for token, score in enumerate(SCORES.tolist()):
        score += bias.get(token, 0)
        if token in {2, 5, *answer}:
            score = score * repetition if score < 0 else score / repetition
        count = answer.count(token)
        wanted.append(score - count * frequency - (count > 0) * presence)
    before = SCORES.clone()
    assert process(SCORES, state).tolist() == pytest.approx(wanted, abs=1e-5)
    assert torch.equal(SCORES, before)


def test_presence_and_frequency_are_sampled_from() -> None:
    """Chi-square over 4,000 seeds, after an answer of three tokens."""
    answer, presence, frequency = [3, 3, 0], 0.7, 0.4
    scores = SCORES.double()
    for token in set(answer):
        scores[token] -= answer.count(token) * frequency + presence
    exact, n = scores.softmax(0), 4000
    states = [
        SamplingState.start(request(seed=seed, presence_penalty=presence, frequency_penalty=frequency))
        for seed in range(n)
    ]
    for state in states:
        for token in answer:
            state.advance(token)
    counts = torch.bincount(torch.tensor(choose(SCORES.expand(n, -1), states).tokens), minlength=8)
    assert float(((counts - exact * n) ** 2 / (exact * n)).sum()) < 24.3  # 99.9 % point for 7 degrees of freedom


def test_a_bias_decides_a_greedy_answer() -> None:
    choice = choose(SCORES[None], [SamplingState.start(request(temperature=0, logit_bias={4: 100}))])
    assert choice.tokens == [4]
    assert choice.logprobs[0] == pytest.approx(float(SCORES.log_softmax(0)[4]), abs=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case], ids=str)
def test_processed_logprobs_are_those_drawn_from(case: dict[str, Any]) -> None:
    states = [SamplingState.start(request(**case, seed=seed, processed_logprobs=True)) for seed in range(20)]
    choice = choose(SCORES.expand(20, -1), states)
    exact = reference(SCORES, case).log()
    for token, raw, state in zip(choice.tokens, choice.logprobs, states, strict=True):
        assert state.processed_logprobs == [pytest.approx(float(exact[token]), abs=1e-5)]
        assert raw == pytest.approx(float(SCORES.log_softmax(0)[token]), abs=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_is_the_same_to_the_last_bit_in_every_batch(threads: int) -> None:
    asked: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.3, "top_p": 0.99, "top_k": 50},
        {"top_p": 0.8, "presence_penalty": 1.0, "logit_bias": {3: 1.5}},
    ]
    logits = torch.randn(11, 50257, generator=torch.Generator().manual_seed(0)) * 4

    def states(rows: range) -> list[SamplingState]:
        found = [
            SamplingState.start(request(**asked[row % 5], seed=row, logprobs=2, processed_logprobs=True))
            for row in rows
        ]
        for state in found:
            state.advance(3)
        return found

    torch.set_num_threads(threads)  # the fixture of this folder puts it back
    together = states(range(11))
    whole = choose(logits, together)
    for row in range(11):
        alone = states(range(row, row + 1))
        one = choose(logits[row : row + 1], alone)
        assert one.tokens[0] == whole.tokens[row] and one.logprobs[0] == whole.logprobs[row]
        assert one.top[0] == whole.top[row] and alone[0].processed_logprobs == together[row].processed_logprobs


def test_samples_do_not_depend_on_their_number() -> None:
    three, eight = expand(request(n=3, seed=5)), expand(request(n=2, best_of=8, seed=5))
    assert [one.seed for one in three] == [one.seed for one in eight[:3]]
    assert three[0] == request(seed=5) and len({one.seed for one in eight}) == 8
    assert all(one.n == 1 and one.best_of is None for one in eight)
    assert len({one.sampling_key() for one in eight}) == 8


def test_samples_are_drawn_independently() -> None:
    """Pairs of samples over many seeds: their joint counts against the product of the exact probabilities."""
    exact = SCORES[:3].double().softmax(0)
    pairs = torch.zeros(3, 3, dtype=torch.float64)
    for seed in range(2000):
        states = [SamplingState.start(one) for one in expand(request(n=2, seed=seed))]
        first, second = choose(SCORES[:3].expand(2, -1), states).tokens
        pairs[first, second] += 1
    expected = exact[:, None] * exact * 2000
    assert float(((pairs - expected) ** 2 / expected).sum()) < 26.1  # 99.9 % point for 8 degrees of freedom


def test_the_likeliest_of_several() -> None:
    def completion(*logprobs: float, failed: bool = False) -> Completion:
        ids = list(range(len(logprobs)))
        return Completion(ids=ids, text="", logprobs=list(logprobs), finish_reason="error" if failed else "stop")

    short, long, failed = completion(-1.0), completion(-0.5, -0.5, -0.6), completion(failed=True)
    assert likeliest([failed, short, long], 3) == [long, short, failed]
    assert likeliest([failed, short, long], 1, by="sum") == [short]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"n": 0}, "n is 0"),
        ({"n": 10**9}, "n is 1000000000"),
        ({"n": 4, "best_of": 3}, "best_of is 3"),
        ({"best_of": 10**9}, "best_of is 1000000000"),
        ({"n": 2, "beams": 2, "temperature": 0}, "beams is 2 and n 2"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty"),
        ({"logit_bias": {5: 101.0}}, "token 5"),
        ({"logit_bias": {5: float("nan")}}, "token 5"),
        ({"logit_bias": dict.fromkeys(range(1025), 1.0)}, "1025"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        request(**wrong)

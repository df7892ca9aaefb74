"""Intervals and tests against closed forms, tables of the literature, and brute force."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.evaluation.statistics import (
    binomial_tail,
    bootstrap_ratio,
    paired_proportions,
    paired_ratio,
    sign_flip,
    tango_score,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_newcombes_table(successes: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998, Stat. Med. 17, 857-872, table I, method 3."""
    estimate = wilson(successes, n)
    assert (round(estimate.low, 4), round(estimate.high, 4)) == (low, high)
    assert estimate.value == successes / n and estimate.n == n


@given(st.integers(1, 500), st.data())
def test_wilson_solves_the_score_equation(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    estimate = wilson(successes, n)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    for bound in (estimate.low, estimate.high):
        if 0 < bound < 1:
            assert abs(estimate.value - bound) / math.sqrt(bound * (1 - bound) / n) == pytest.approx(1.959964, abs=1e-5)


def test_wilson_refuses_what_is_no_proportion() -> None:
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(3, 2)
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(0, 0)


@given(st.integers(0, 60), st.integers(-1, 61))
def test_binomial_tail_is_the_sum(n: int, successes: int) -> None:
    exact = Fraction(sum(math.comb(n, k) for k in range(max(successes, 0), n + 1)), 2**n)
    assert binomial_tail(successes, n) == pytest.approx(float(exact), rel=1e-12, abs=0)


def test_binomial_tail_beyond_floats() -> None:
    """2^5000 is no float; the normal approximation with continuity correction is good to 1 % here."""
    z = (2600 - 0.5 - 2500) / math.sqrt(1250)
    assert binomial_tail(2600, 5000) == pytest.approx(0.5 * math.erfc(z / math.sqrt(2)), rel=0.01)
    assert binomial_tail(5000, 5000) == 0.0 or binomial_tail(5000, 5000) < 1e-300


@given(st.integers(0, 25), st.integers(0, 25))
def test_twice_the_tail_is_the_two_sided_binomial_test(gained: int, lost: int) -> None:
    n = gained + lost
    weights = [math.comb(n, k) for k in range(n + 1)]
    as_extreme = sum(weight for weight in weights if weight <= weights[gained])
    assert min(1.0, 2 * binomial_tail(max(gained, lost), n)) == pytest.approx(as_extreme / 2**n)


def _brute_force_score(gained: int, lost: int, n: int, difference: float) -> float:
    """The score statistic with the constrained maximum of the likelihood found on a fine grid."""
    low, high = max(0.0, -difference), (1 - difference) / 2
    grid = np.linspace(low, high, 2_000_001)[1:-1]  # P(after wrong, before right)
    same = 1 - 2 * grid - difference
    likelihood = gained * np.log(grid + difference) + lost * np.log(grid) + (n - gained - lost) * np.log(same)
    best = float(grid[np.argmax(likelihood)])
    return (gained - lost - n * difference) / math.sqrt(n * (2 * best + difference * (1 - difference)))


@pytest.mark.parametrize(
    ("gained", "lost", "n", "difference"), [(12, 5, 60, 0.05), (3, 9, 40, -0.3), (7, 7, 30, 0.2), (30, 1, 90, 0.1)]
)
def test_tango_score_is_the_constrained_maximum(gained: int, lost: int, n: int, difference: float) -> None:
    assert tango_score(gained, lost, n, difference) == pytest.approx(
        _brute_force_score(gained, lost, n, difference), abs=1e-4
    )


def test_tango_at_zero_is_mcnemars_z() -> None:
    assert tango_score(12, 5, 60, 0.0) == pytest.approx((12 - 5) / math.sqrt(17))


def _marks(gained: int, lost: int, both: int, neither: int) -> tuple[list[float], list[float]]:
    before = [0.0] * gained + [1.0] * lost + [1.0] * both + [0.0] * neither
    after = [1.0] * gained + [0.0] * lost + [1.0] * both + [0.0] * neither
    return before, after


def test_paired_proportions() -> None:
    comparison = paired_proportions(*_marks(12, 5, 20, 23))
    assert comparison.difference == pytest.approx(7 / 60)
    assert comparison.p_value == pytest.approx(sum(math.comb(17, k) for k in range(12, 18)) / 2**17)
    assert tango_score(12, 5, 60, comparison.low) == pytest.approx(1.959964, abs=1e-5)
    assert tango_score(12, 5, 60, comparison.high) == pytest.approx(-1.959964, abs=1e-5)
    margin = paired_proportions(*_marks(12, 5, 20, 23), threshold=-0.05)
    assert margin.p_value == pytest.approx(0.5 * math.erfc(tango_score(12, 5, 60, -0.05) / math.sqrt(2)))


def test_paired_proportions_of_equal_models() -> None:
    comparison = paired_proportions(*_marks(0, 0, 150, 150))
    assert comparison.difference == 0 and comparison.p_value == 1.0
    assert comparison.low < 0 < comparison.high
    assert paired_proportions(*_marks(0, 0, 150, 150), threshold=-0.02).p_value < 0.01


def test_paired_interval_covers() -> None:
    """Of 95 % intervals, about 95 % hold the true difference."""
    rng = np.random.default_rng(1)
    hits = 0
    for gained, lost, rest in rng.multinomial(80, [0.2, 0.1, 0.7], size=400):
        comparison = paired_proportions(*_marks(int(gained), int(lost), int(rest), 0))
        hits += comparison.low <= 0.1 <= comparison.high
    assert 0.92 <= hits / 400 <= 0.98


def test_bootstrap_of_a_mean_has_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    estimate = bootstrap_ratio(values, np.ones_like(values), resamples=4_000)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.standard_error == pytest.approx(values.std() / 20, rel=0.05)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)


def test_bootstrap_of_a_ratio_has_the_delta_methods_standard_error() -> None:
    rng = np.random.default_rng(3)
    size = rng.uniform(50, 500, 300)
    bits = 2.0 * size + rng.normal(0, 40, 300)
    estimate = bootstrap_ratio(bits, size, resamples=4_000)
    ratio = bits.sum() / size.sum()
    expected = np.sqrt(((bits - ratio * size) ** 2).sum()) / size.sum()
    assert estimate.value == pytest.approx(ratio)
    assert estimate.standard_error == pytest.approx(expected, rel=0.05)
    assert estimate == bootstrap_ratio(bits, size, resamples=4_000)
    assert estimate != bootstrap_ratio(bits, size, seed=1, resamples=4_000)


def test_bootstrap_of_two_is_every_resample() -> None:
    """With two clusters the only ratios are a/a', b/b' and the mean of both: the extremes are the ends."""
    estimate = bootstrap_ratio([10.0, 40.0], [10.0, 10.0])
    assert (estimate.low, estimate.value, estimate.high) == (1.0, 2.5, 4.0)


def test_bootstrap_refuses_a_single_cluster() -> None:
    with pytest.raises(ValueError, match="two or more"):
        bootstrap_ratio([1.0], [2.0])
    with pytest.raises(ValueError, match="above 0"):
        bootstrap_ratio([1.0, 1.0], [2.0, 0.0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=9))
def test_sign_flip_enumerates(values: list[int]) -> None:
    signs = itertools.product((1, -1), repeat=len(values))
    sums = [sum(s * v for s, v in zip(pattern, values, strict=True)) for pattern in signs]
    expected = sum(total >= sum(values) for total in sums) / len(sums)
    assert sign_flip(np.array(values, np.float64)) == pytest.approx(expected)


def test_sign_flip_drawn_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(5).normal(0.1, 1.0, 300)
    z = values.sum() / math.sqrt((values**2).sum())
    assert sign_flip(values) == pytest.approx(0.5 * math.erfc(z / math.sqrt(2)), abs=0.015)
    assert sign_flip(np.full(300, 1.0)) == pytest.approx(1 / 10_001)
    assert sign_flip(np.zeros(300)) == 1.0


def test_paired_ratio() -> None:
    rng = np.random.default_rng(2)
    size = rng.uniform(100, 1000, 60)
    before = 2.0 * size
    after = before - 0.3 * size + rng.normal(0, 20, 60)
    comparison = paired_ratio(before, after, size)
    assert comparison.difference == pytest.approx((after.sum() - before.sum()) / size.sum())
    assert comparison.low < -0.29 < comparison.high or comparison.low < -0.31 < comparison.high
    assert comparison.p_value == 1.0  # it fell: that it rose cannot be claimed
    assert paired_ratio(after, before, size).p_value < 0.001
    assert paired_ratio(after, before, size, threshold=0.5).p_value > 0.99

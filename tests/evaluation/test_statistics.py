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
    bounded_mean,
    bounded_score,
    paired_proportions,
    paired_ratio,
    paired_scores,
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


MARKS = (0.0, 0.2, 0.25, 0.4, 0.5, 0.8, 1.0)
"""Scores that replies get."""


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.floats(-0.95, 0.95))
def test_the_score_test_of_differences_of_marks_is_tangos(gained: int, lost: int, same: int, difference: float) -> None:
    n = gained + lost + same
    if n == 0:
        return
    values = np.array([1.0] * gained + [-1.0] * lost + [0.0] * same)
    assert bounded_score(values, difference, -1.0, 1.0) == pytest.approx(
        tango_score(gained, lost, n, difference), rel=1e-6, abs=1e-6
    )


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0.01, 0.99))
def test_the_score_test_of_marks_is_wilsons(right: int, wrong: int, share: float) -> None:
    n = right + wrong
    if n == 0:
        return
    values = np.array([1.0] * right + [0.0] * wrong)
    expected = (right / n - share) / math.sqrt(share * (1 - share) / n)
    assert bounded_score(values, share, 0.0, 1.0) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert bounded_mean(values) == wilson(right, n)


@pytest.mark.parametrize(
    ("counts", "mean"), [((3, 5, 0), 0.3), ((3, 5, 0), 0.6), ((0, 9, 0), 0.55), ((4, 1, 6), 0.2), ((4, 1, 6), 0.8)]
)
def test_the_score_tests_variance_is_that_of_the_likeliest_distribution(
    counts: tuple[int, int, int], mean: float
) -> None:
    """Found on a grid of all distributions over what was seen, the ends, and a value between that was not seen."""
    seen = (0.25, 0.5, 0.8)
    support = np.array([0.0, 0.25, 0.4, 0.5, 0.8, 1.0])
    often = np.array([0, counts[0], 0, counts[1], counts[2], 0])
    grid = np.meshgrid(*[np.linspace(0, 1, 41)] * 4, indexing="ij")
    shares = np.stack([axis.ravel() for axis in grid], 1)  # of 0.25 to 0.8; the ends follow from the sum and the mean
    shares = shares[shares.sum(1) <= 1]
    top = mean - shares @ support[1:5]
    weights = np.column_stack([1 - shares.sum(1) - top, shares, top])
    weights = weights[(weights >= -1e-9).all(1) & (weights[:, often > 0] > 0).all(1)].clip(0)
    likeliest = weights[np.argmax(np.log(weights[:, often > 0]) @ often[often > 0])]
    variance = float(likeliest @ (support - mean) ** 2)
    values = np.repeat(seen, counts)
    z = bounded_score(values, mean, 0.0, 1.0)
    assert z == pytest.approx((values.mean() - mean) / math.sqrt(variance / len(values)), rel=0.06)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(MARKS) | st.floats(0, 1), min_size=1, max_size=40))
def test_the_interval_of_a_mean_is_what_the_score_test_does_not_reject(values: list[float]) -> None:
    estimate = bounded_mean(values)
    assert 0 <= estimate.low <= estimate.value + 1e-12 and estimate.value - 1e-12 <= estimate.high <= 1
    assert estimate.value == pytest.approx(np.mean(values)) and estimate.n == len(values)
    scores = np.array(values)
    for bound, z in ((estimate.low, 1.959964), (estimate.high, -1.959964)):
        if 1e-6 < bound < 1 - 1e-6:
            assert bounded_score(scores, bound, 0.0, 1.0) == pytest.approx(z, abs=1e-3)


def test_the_interval_of_a_mean_covers_where_students_does_not() -> None:
    """Scores of which one in thirty is low: a sample without one has no spread at all."""
    rng = np.random.default_rng(4)
    rare = covered = 0
    for _ in range(200):
        values = np.where(rng.random(40) < 1 / 30, 0.25, 1.0)
        values[0] = 0.8  # not all 0 and 1
        expected = (0.8 + 39 * (0.25 / 30 + 29 / 30)) / 40
        estimate = bounded_mean(values)
        covered += estimate.low <= expected <= estimate.high
        error = 1.96 * values.std(ddof=1) / math.sqrt(40)
        rare += abs(values.mean() - expected) <= error
    assert covered / 200 >= 0.94 > 0.9 > rare / 200


def test_scores_out_of_range_are_refused() -> None:
    for values in ([], [0.5, 1.1], [-0.1]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            bounded_mean(values)
    with pytest.raises(ValueError, match="equally many"):
        paired_scores([0.5], [0.5, 1.0])
    with pytest.raises(ValueError, match="from 0 to 1"):
        paired_scores([0.5], [2.0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(MARKS), st.sampled_from(MARKS)), min_size=1, max_size=9))
def test_paired_scores_enumerate_which_model_each_score_is_of(pairs: list[tuple[float, float]]) -> None:
    before, after = [one for one, _ in pairs], [other for _, other in pairs]
    comparison = paired_scores(before, after)
    observed = sum(after) - sum(before)
    tosses = itertools.product((1, -1), repeat=len(pairs))
    sums = [sum(sign * (new - old) for sign, (old, new) in zip(toss, pairs, strict=True)) for toss in tosses]
    expected = sum(total >= observed - 1e-9 for total in sums) / len(sums)
    assert comparison.p_value == pytest.approx(expected)
    assert comparison.difference == pytest.approx(observed / len(pairs)) and comparison.n == len(pairs)
    assert -1 <= comparison.low <= comparison.difference + 1e-9 and comparison.difference - 1e-9 <= comparison.high <= 1
    mirrored = paired_scores(after, before)
    assert (mirrored.low, mirrored.high) == (
        pytest.approx(-comparison.high, abs=1e-6),
        pytest.approx(-comparison.low, abs=1e-6),
    )


def test_paired_scores_of_marks_are_paired_proportions() -> None:
    for threshold in (0.0, -0.05):
        assert paired_scores(*_marks(12, 5, 20, 23), threshold) == paired_proportions(*_marks(12, 5, 20, 23), threshold)


def test_paired_scores_of_many_items_are_drawn_and_seeded() -> None:
    rng = np.random.default_rng(8)
    before = rng.choice(MARKS, 300)
    after = np.where(rng.random(300) < 0.3, rng.choice(MARKS, 300), before)
    comparison = paired_scores(list(before), list(after), seed=1)
    change = after - before
    z = change.sum() / math.sqrt((change**2).sum())
    assert comparison.p_value == pytest.approx(0.5 * math.erfc(z / math.sqrt(2)), abs=0.015)
    assert comparison == paired_scores(list(before), list(after), seed=1)
    error = change.std() / math.sqrt(300)
    assert comparison.low == pytest.approx(change.mean() - 1.96 * error, abs=0.15 * error)
    assert comparison.high == pytest.approx(change.mean() + 1.96 * error, abs=0.15 * error)


def test_paired_score_intervals_cover_and_the_test_keeps_its_level() -> None:
    rng = np.random.default_rng(6)
    hits = rejected = 0
    for _ in range(200):
        before, after = rng.choice(MARKS, 50), rng.choice(MARKS, 50)
        comparison = paired_scores(list(before), list(after))
        hits += comparison.low <= 0 <= comparison.high
        rejected += comparison.p_value < 0.05
    assert 0.92 <= hits / 200 <= 0.98 and rejected / 200 <= 0.08


def test_that_nothing_much_was_lost_is_not_shown_by_a_few_equal_scores() -> None:
    """Where a loss is rare but whole, samples without one are common: sign flips and Student's t would take them for
    proof."""
    same = [0.8] * 100
    assert paired_scores(same, same, threshold=-0.02).p_value > 0.05
    assert paired_scores(same * 3, same * 3, threshold=-0.02).p_value < 0.01
    rng = np.random.default_rng(2)
    passed = 0
    for _ in range(150):  # one item in fifty falls from 0.8 to 0: the mean falls by 0.016
        after = np.where(rng.random(200) < 1 / 50, 0.0, 0.8)
        passed += paired_scores([0.8] * 200, list(after), threshold=-0.016).p_value < 0.05
    assert passed / 150 <= 0.08

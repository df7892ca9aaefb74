"""Intervals for every figure of an exam, and paired tests for its gates. numpy only: the tails are computed exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 1_000
PERMUTATIONS = 10_000
EXACT_FLIPS = 14
"""Up to this many pairs, the sign-flip test enumerates all 2^n sign patterns instead of drawing them."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its uncertainty: standard error and 95 % interval, over `n` items."""

    value: float
    low: float
    high: float
    n: int
    standard_error: float

    def as_dict(self, **more: Any) -> dict[str, Any]:
        """The form in which figures are kept: value, low, high, n, standard_error, and what else is given."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "standard_error": self.standard_error,
            **more,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired difference after − before, its 95 % interval, and a one-sided p-value.

    `p_value` is for the null hypothesis "the difference is not above `threshold`": small means that it is above.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    test: str


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927, J. Am. Stat. Assoc. 22, 209–212).

    Unlike value ± 1.96 standard errors it stays within [0, 1] and does not collapse at 0 of n or n of n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is not a proportion")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    scale = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == n else middle + half
    return Estimate(share, low, high, n, math.sqrt(share * (1 - share) / n))


def bounded_mean(values: Sequence[float] | Floats, confidence: float = CONFIDENCE) -> Estimate:
    """The mean of scores from 0 to 1 with its score interval; of scores that are all 0 or 1, Wilson's."""
    scores = np.asarray(values, np.float64)
    if scores.ndim != 1 or len(scores) == 0 or not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores must be one or more numbers from 0 to 1")
    if np.isin(scores, (0.0, 1.0)).all():
        return wilson(int(scores.sum()), len(scores), confidence)
    low, high = _score_interval(scores, 0.0, 1.0, confidence)
    value, n = float(scores.mean()), len(scores)
    return Estimate(value, low, high, n, float(scores.std()) / math.sqrt(n))


def bounded_score(values: Floats, mean: float, low: float, high: float) -> float:
    """z of the score test of "the expectation is `mean`" for numbers that can't lie outside `low` to `high`.

    The variance is that of the likeliest distribution with this mean: the numbers seen, each with the weight
    1 / (n (1 + λ (x - mean))) of empirical likelihood (Owen 2001, ch. 2), and where no such weights add up to one, the
    rest at the end of the range that was not seen. With 0 and 1 this is the z behind Wilson's interval, and with
    differences of such marks Tango's. Unlike Student's t it knows that what was not seen may still happen.
    """
    x, often = np.unique(values - mean, return_counts=True)
    distance = float(often @ x)
    bottom, top = low - mean, high - mean
    variance = 0.0  # where the mean is an end of the range, or all there is
    if min(-bottom, top) > 1e-12:
        weight = _tilt(x, often, -1 / top, -1 / bottom)
        shares = often / len(values) / (1 + weight * x)
        unseen = max(0.0, 1 - float(shares.sum()))
        end = bottom if weight > 0 else top
        variance = float(shares @ (x * x)) + unseen * end * end
    if variance <= 1e-12:
        return 0.0 if abs(distance) < 1e-9 else math.copysign(math.inf, distance)
    return distance / math.sqrt(len(values) * variance)


def _tilt(x: Floats, often: NDArray[np.int64], least: float, most: float) -> float:
    """λ between `least` and `most` where Σ x / (1 + λ x) is 0, or that end beyond which it is; the sum falls with λ.

    Newton's steps, and a bisection where one of them leaves what is known to hold the root.
    """
    for end in (least, most):
        rest = 1 + end * x
        if rest.min() > 1e-12 and (float(often @ (x / rest)) > 0) == (end > 0):
            return end
    weight = 0.0
    for _ in range(60):
        ratio = x / (1 + weight * x)
        value = float(often @ ratio)
        if value > 0:
            least = weight
        else:
            most = weight
        slope = float(often @ (ratio * ratio))
        following = weight + value / slope if slope > 0 else weight
        if not least < following < most:
            following = (least + most) / 2
        if abs(following - weight) <= 1e-14 * max(1.0, abs(weight)):
            break
        weight = following
    return weight


def _score_interval(values: Floats, low: float, high: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The means that `bounded_score` does not reject."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = float(values.mean())

    def score(mean: float) -> float:
        return bounded_score(values, mean, low, high)

    return _crossing(score, z, low, middle), _crossing(score, -z, middle, high)


def bootstrap_ratio(
    numerators: Sequence[float] | Floats,
    denominators: Sequence[float] | Floats,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Σ numerators / Σ denominators with a percentile interval, resampling whole clusters (documents) with replacement.

    Tokens of one document are not independent, so the document is what is drawn (Davison & Hinkley 1997, §2.4, §3.8).
    The point estimate always lies within the interval. Needs at least two clusters; with one there is no spread to see,
    and ValueError is raised.
    """
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if top.shape != bottom.shape or top.ndim != 1 or len(top) < 2:
        raise ValueError("a bootstrap needs two or more clusters, each with a numerator and a denominator")
    if not (bottom > 0).all():
        raise ValueError("every cluster's denominator must be above 0")
    value = float(top.sum() / bottom.sum())
    draws = _resampled_ratios(top, bottom, seed, resamples)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value), len(top), float(draws.std(ddof=1)))


def _resampled_ratios(top: Floats, bottom: Floats, seed: int, resamples: int) -> Floats:
    """One ratio per resample. How often each cluster is drawn is multinomial, so a resample is one matrix product."""
    rng = np.random.Generator(np.random.PCG64(seed))
    n = len(top)
    columns = np.stack([top, bottom], axis=1)
    rows = max(1, min(resamples, 4_000_000 // n))  # at most 32 MB of counts at a time
    parts: list[Floats] = []
    done = 0
    while done < resamples:
        size = min(rows, resamples - done)
        counts = rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)
        sums = counts @ columns
        parts.append(sums[:, 0] / sums[:, 1])
        done += size
    return np.concatenate(parts)


def binomial_tail(successes: int, n: int) -> float:
    """P(X ≥ successes) for X ~ Binomial(n, 1/2), by exact integer arithmetic."""
    if successes <= 0:
        return 1.0
    if successes > n:
        return 0.0
    # Sum the shorter side: C(n, k) from its neighbour costs one multiplication and one exact division.
    if 2 * successes > n:
        return _ratio(_binomial_sum(n, n - successes), n)
    return _ratio((1 << n) - _binomial_sum(n, successes - 1), n)


def _binomial_sum(n: int, last: int) -> int:
    """C(n, 0) + … + C(n, last)."""
    term = total = 1
    for k in range(1, last + 1):
        term = term * (n - k + 1) // k
        total += term
    return total


def _ratio(numerator: int, power: int) -> float:
    """numerator / 2^power, also where 2^power is beyond a float."""
    shift = max(0, numerator.bit_length() - 64)
    return math.ldexp(float(numerator >> shift), shift - power)


def tango_score(gained: int, lost: int, n: int, difference: float) -> float:
    """z of the score test of "after − before = difference" for paired proportions (Tango 1998, Stat. Med. 17, eq. 9).

    With difference 0 it is McNemar's (gained − lost) / √(gained + lost).
    """
    a = 2.0 * n
    b = -gained - lost + (2 * n - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * share + difference * (1 - difference))
    distance = gained - lost - n * difference
    if variance <= 1e-12:
        return 0.0 if abs(distance) < 1e-9 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def paired_proportions(before: Sequence[float], after: Sequence[float], threshold: float = 0.0) -> Comparison:
    """Right/wrong on the same items: Tango's score interval, and the one-sided p-value of "difference ≤ threshold".

    At threshold 0 the p-value is exact (McNemar, binomial); at another it is Tango's score test (asymptotic). Marks are
    0 or 1.
    """
    n = len(before)
    if n != len(after) or n == 0 or any(mark not in (0, 1) for mark in (*before, *after)):
        raise ValueError("paired marks must be equally many, one or more, and 0 or 1")
    gained = sum(1 for old, new in zip(before, after, strict=True) if new > old)
    lost = sum(1 for old, new in zip(before, after, strict=True) if new < old)
    difference = (gained - lost) / n
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    low = _crossing(partial(tango_score, gained, lost, n), z, -1.0, difference)
    high = _crossing(partial(tango_score, gained, lost, n), -z, difference, 1.0)
    if threshold == 0:
        return Comparison(difference, low, high, binomial_tail(gained, gained + lost), n, "exact McNemar")
    p_value = NormalDist().cdf(-tango_score(gained, lost, n, threshold))
    return Comparison(difference, low, high, p_value, n, "Tango's score test")


def paired_scores(before: Sequence[float], after: Sequence[float], threshold: float = 0.0, seed: int = 0) -> Comparison:
    """Scores from 0 to 1 on the same items: score interval, and the one-sided p-value of "difference ≤ threshold".

    At threshold 0 the p-value is that of the sign-flip test of the items' differences (`sign_flip`): which of the two
    models an item's two scores came from is as good as tossed under the null. At another threshold there is no such
    symmetry, and it is that of the score test (`bounded_score`, asymptotic). Marks of 0 and 1 go to
    `paired_proportions`, whose exact test and interval are special cases.
    """
    old, new = np.asarray(before, np.float64), np.asarray(after, np.float64)
    both = np.concatenate([old, new])
    if old.shape != new.shape or old.ndim != 1 or len(old) == 0 or not ((both >= 0) & (both <= 1)).all():
        raise ValueError("paired scores must be equally many, one or more, and from 0 to 1")
    if np.isin(both, (0.0, 1.0)).all():
        return paired_proportions(before, after, threshold)
    change = new - old
    low, high = _score_interval(change, -1.0, 1.0)
    difference, n = float(change.mean()), len(change)
    if threshold == 0:
        # Items with equal scores say nothing of the sign; left out, more often all patterns can be enumerated.
        return Comparison(difference, low, high, sign_flip(change[change != 0], seed), n, "sign-flip permutation")
    p_value = NormalDist().cdf(-bounded_score(change, threshold, -1.0, 1.0))
    return Comparison(difference, low, high, p_value, n, "score test")


def _crossing(function: Callable[[float], float], level: float, low: float, high: float) -> float:
    """Where a decreasing function crosses `level` between low and high (bisection); an end when it does not."""
    if function(low) <= level:
        return low
    if function(high) >= level:
        return high
    while high - low > 1e-10:
        middle = (low + high) / 2
        if function(middle) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def paired_ratio(
    before: Sequence[float] | Floats,
    after: Sequence[float] | Floats,
    denominators: Sequence[float] | Floats,
    threshold: float = 0.0,
    seed: int = 0,
) -> Comparison:
    """A ratio (bits per byte) before and after on the same clusters: bootstrap interval and sign-flip p-value.

    Both ratios share the denominators, so their difference is Σ dᵢ / Σ bytesᵢ with dᵢ = afterᵢ − beforeᵢ. Under the
    null "no cluster changed beyond `threshold` per unit", dᵢ − threshold · bytesᵢ is as likely positive as negative:
    the p-value is the share of sign patterns whose sum is at least the observed one (Fisher's randomisation test).
    """
    old, new, size = (np.asarray(values, np.float64) for values in (before, after, denominators))
    change = new - old
    bounds = bootstrap_ratio(change, size, seed)
    p_value = sign_flip(change - threshold * size, seed)
    return Comparison(bounds.value, bounds.low, bounds.high, p_value, len(size), "sign-flip permutation")


def sign_flip(values: Floats, seed: int = 0, permutations: int = PERMUTATIONS) -> float:
    """One-sided sign-flip test of "the sum is not above 0": P(Σ ±values ≥ Σ values), all patterns or a Monte Carlo
    draw.

    The drawn p-value counts the observed pattern too, (hits + 1) / (draws + 1), so it is never 0 (Phipson & Smyth
    2010).
    """
    n = len(values)
    observed = float(values.sum())
    slack = 1e-12 * float(
        np.abs(values).sum()
    )  # the observed pattern itself must count, whatever the order of addition
    if n <= EXACT_FLIPS:
        patterns = (np.arange(1 << n)[:, None] >> np.arange(n)) & 1
        sums = (1.0 - 2.0 * patterns) @ values
        return float((sums >= observed - slack).mean())
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = max(1, 4_000_000 // n)
    hits = done = 0
    while done < permutations:
        size = min(rows, permutations - done)
        signs = rng.integers(0, 2, size=(size, n), dtype=np.int8)
        sums = (1.0 - 2.0 * signs) @ values
        hits += int((sums >= observed - slack).sum())
        done += size
    return (hits + 1) / (permutations + 1)

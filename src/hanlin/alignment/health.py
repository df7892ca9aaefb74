"""A reward model's health report: what is to be known of it before anything is trained to please it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanlin.evaluation.statistics import bootstrap_ratio, bounded_mean

BINS = 10
"""Of the confidences from 0.5 to 1 in the reliability table"""
MOST_PARTS = 12
"""Values of a tag that are told apart; margins of more values are put into quarters"""
LAYOUT_ALLOWED = 1e-4
"""Largest difference of a reward between layouts, in units of the rewards' deviation where that is above 1"""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

Floats = NDArray[np.float64]


@dataclass
class HeldOut:
    """P pairs that nothing was trained on, as E members of an ensemble judge them."""

    rewards: Floats
    """[E, P, 2] of the chosen and the rejected answer, centred"""
    lengths: Floats
    """[P, 2] tokens of the answers"""
    prompts: list[Any]
    """[P] equal where two pairs share their prompt"""
    tags: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    """[P] of what sort each is (`reason`, `language`)"""
    margins: list[float | None] = field(default_factory=list[float | None])
    """[P] as the data gives them"""
    bayes: list[float | None] = field(default_factory=list[float | None])
    """[P] how often the best judge would agree with the label, where the data says so"""

    @property
    def gaps(self) -> Floats:
        """[P] r(chosen) - r(rejected) of the first member."""
        return self.rewards[0, :, 0] - self.rewards[0, :, 1]


def examine(held: HeldOut, ceiling: dict[str, Any]) -> dict[str, Any]:
    """Everything that the rewards themselves tell; `ceiling` is from `bayes_ceiling`."""
    gaps = held.gaps
    found = accuracy(gaps, held.prompts)
    best = ceiling["value"]
    reached = None if best is None else {"within_interval": found["high"] >= best, "short_by": best - found["value"]}
    return {
        "pairs": len(gaps),
        "prompts": len(set(held.prompts)),
        "accuracy": {**found, "ceiling": best, "ceiling_from": ceiling["from"], **(reached or {})},
        "by_tag": by_tag(held),
        "by_margin": by_margin(held),
        "calibration": calibration(gaps),
        "length": length(held),
        "rewards": {name: spread(held.rewards[0, :, column]) for column, name in enumerate(("chosen", "rejected"))},
        **({"ensemble": ensemble(held)} if len(held.rewards) > 1 else {}),
    }


def bayes_ceiling(bayes: Sequence[float | None], label_noise: float | None, exact: bool) -> dict[str, Any]:
    """The accuracy of the best judge that could be, on labels like these, and where that is known from.

    label_noise: the share of labels that are the wrong way round, as the settings say: 1 - label_noise. Otherwise the
    mean of the rows' own `bayes`, when all have one; 1 when the data is `exact`, made by a world; or not known.
    """
    known = [value for value in bayes if value is not None]
    if label_noise is not None:
        return {"value": 1 - label_noise, "from": "label_noise"}
    if known and len(known) == len(bayes):
        return {"value": float(np.mean(known)), "from": "the rows"}
    if exact:
        return {"value": 1.0, "from": "the world, whose labels are exact"}
    return {"value": None, "from": "unknown"}


def right(gaps: Floats) -> Floats:
    """1 where the chosen answer has the higher reward, 0 where the rejected one has, 1/2 where they are equal."""
    return (np.sign(gaps) + 1) / 2


def accuracy(gaps: Floats, prompts: Sequence[Any] | None = None) -> dict[str, Any]:
    """Of pairs, with its 95 % interval: the score interval, or where pairs share prompts, whose pairs are not
    independent, a bootstrap over prompts. No pair: value None."""
    marks = right(gaps)
    if not len(marks):
        return {"value": None, "low": None, "high": None, "n": 0, "standard_error": None}
    if prompts is None or len(set(prompts)) in (1, len(marks)):
        return bounded_mean(marks).as_dict()
    places = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    of_pair = np.array([places[prompt] for prompt in prompts])
    hits = np.bincount(of_pair, weights=marks).astype(np.float64)
    counts = np.bincount(of_pair).astype(np.float64)
    if marks.std() == 0:  # resampling what is all alike would leave no interval
        estimate = bounded_mean(hits / counts)
    else:
        estimate = bootstrap_ratio(hits, counts)
    return {**estimate.as_dict(), "n": len(marks), "prompts": len(places)}


def accuracy_gate(gaps: Floats, prompts: Sequence[Any], least: float, alpha: float) -> dict[str, Any]:
    """Whether "the accuracy is above `least`" is shown at level `alpha`: the exact one-sided binomial test, on the
    first pair of each prompt (pairs of one prompt are not independent); a tie counts as wrong."""
    first = {prompt: place for place, prompt in reversed(list(enumerate(prompts)))}
    hits = int((gaps[list(first.values())] > 0).sum())
    p_value = binomial_above(hits, len(first), least)
    share = hits / len(first)
    text = (
        f"held-out accuracy: {share:.3f} ({hits} of {len(first)} pairs, one a prompt), p = {p_value:.2g} by the exact "
        f"binomial test; it asks for more than {least:g} at p < {alpha:g}."
    )
    return {
        "task": "held-out pairs", "metric": "accuracy", "require": least, "alpha": alpha, "after": share,
        "n": len(first), "p_value": p_value, "test": "exact binomial", "passed": p_value < alpha, "text": text,
    }  # fmt: skip


def layout_gate(layouts: dict[str, float]) -> dict[str, Any]:
    """Whether a reward is a function of its sequence alone: no neighbour in the batch, and no padding, moves it."""
    largest, allowed = layouts["largest"], layouts["allowed"]
    return {
        "task": "batch and padding", "metric": "largest difference", "require": allowed, "after": largest,
        "passed": largest < allowed,
        "text": f"batch and padding: a reward changes by up to {largest:.1e}; less than {allowed:.1e} is allowed.",
    }  # fmt: skip


def binomial_above(successes: int, n: int, share: float) -> float:
    """P(X ≥ successes) for X ~ Binomial(n, share), 0 < share < 1, the terms by logarithms."""
    if successes <= 0:
        return 1.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(share)
        + (n - k) * math.log1p(-share)
        for k in range(successes, n + 1)
    ]  # fmt: skip
    return min(1.0, math.fsum(math.exp(one) for one in logs))


def by_tag(held: HeldOut) -> dict[str, dict[str, Any]]:
    """Accuracy for each value of each tag that takes several, the commonest first."""
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for tags in held.tags for name in tags):
        values = [tags.get(name) for tags in held.tags]
        common = sorted(
            {value for value in values if value is not None}, key=lambda value: (-values.count(value), value)
        )
        if len(set(values)) < 2:
            continue
        for value in common[:MOST_PARTS]:
            found[f"{name}: {value}"] = _part(held, [one == value for one in values])
        if len(common) > MOST_PARTS:
            found[f"{name}: other"] = _part(held, [one in common[MOST_PARTS:] for one in values])
        if None in values:
            found[f"{name}: none"] = _part(held, [one is None for one in values])
    return found


def by_margin(held: HeldOut) -> dict[str, dict[str, Any]]:
    """Accuracy for each margin that the data gives, or for quarters of them; empty where they tell nothing apart."""
    given = [margin for margin in held.margins if margin is not None]
    if len(set(held.margins)) < 2:
        return {}
    margins = np.array([np.nan if margin is None else margin for margin in held.margins])
    found: dict[str, dict[str, Any]] = {}
    if len(set(given)) <= MOST_PARTS:
        for value in sorted(set(given)):
            found[f"{value:g}"] = _part(held, margins == value)
    else:
        edges = np.unique(np.quantile(given, [0, 0.25, 0.5, 0.75, 1]))
        for low, high in itertools.pairwise(edges):
            inside = (margins >= low) & ((margins < high) | (high == edges[-1]))
            found[f"{low:.3g} to {high:.3g}"] = _part(held, inside)
    if np.isnan(margins).any():
        found["none"] = _part(held, np.isnan(margins))
    return found


def _part(held: HeldOut, inside: Any) -> dict[str, Any]:
    inside = np.asarray(inside, np.bool_)
    return accuracy(held.gaps[inside], [prompt for prompt, one in zip(held.prompts, inside) if one])


def calibration(gaps: Floats) -> dict[str, Any]:
    """Whether σ(r_c - r_r) is how often the model is right.

    Each pair is a forecast of the answer with the higher reward, with confidence σ(|gap|) from 0.5 to 1. `error` is the
    expected calibration error, Σ n_b / n |accuracy_b - confidence_b| (Naeini et al. 2015), over the bins of
    `reliability`, and `error_by_chance` about what it would be of a calibrated model on so few pairs. `log_loss` =
    mean -log σ(gap), in nats, and `brier` = mean (1 - σ(gap))² are 0.693 and 0.25 for one who knows nothing.
    """
    confidence = _sigmoid(np.abs(gaps))
    marks = right(gaps)
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    table: list[dict[str, Any]] = []
    for number in range(BINS):
        inside = bins == number
        if not inside.any():
            continue
        low = 0.5 + number / (2 * BINS)
        estimate = bounded_mean(marks[inside])
        table.append(
            {
                "from": round(low, 3),
                "to": round(low + 0.5 / BINS, 3),
                "n": int(inside.sum()),
                "confidence": float(confidence[inside].mean()),
                "accuracy": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
            }
        )
    error = sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in table) / len(gaps)
    # The mean size of a normal deviation is √(2/π) of its standard error.
    doubts = [math.sqrt(2 / math.pi * row["confidence"] * (1 - row["confidence"]) * row["n"]) for row in table]
    return {
        "error": float(error),
        "error_by_chance": sum(doubts) / len(gaps),
        "confidence": float(confidence.mean()),
        "log_loss": float(np.logaddexp(0, -gaps).mean()),
        "brier": float(np.square(_sigmoid(-gaps)).mean()),
        "reliability": table,
    }


def length(held: HeldOut) -> dict[str, Any]:
    """What length alone would do, and how far the reward follows it.

    `rule` is the better of "longer" and "shorter", `baseline` its accuracy on these pairs; `against` the model's
    accuracy on the pairs that the rule gets wrong. `pearson` and `spearman` are the correlations of reward and length
    over all answers; `within` is Pearson's of the differences within pairs, where the prompt plays no part.
    """
    difference = held.lengths[:, 0] - held.lengths[:, 1]
    longer = float(right(difference).mean())
    rule = "longer" if longer >= 0.5 else "shorter"
    signed = difference if rule == "longer" else -difference
    rewards, lengths = held.rewards[0].ravel(), held.lengths.ravel()
    return {
        "rule": rule,
        "baseline": accuracy(signed, held.prompts),
        "against": _part(held, signed < 0),
        "pearson": correlation(rewards, lengths),
        "spearman": correlation(ranks(rewards), ranks(lengths)),
        # A pair the other way round is the same pair: signs are symmetric, and the means are 0.
        "within": _through_zero(held.gaps, difference),
        "chosen_mean": float(held.lengths[:, 0].mean()),
        "rejected_mean": float(held.lengths[:, 1].mean()),
    }


def correlation(x: Floats, y: Floats) -> float | None:
    """Pearson's; None where one of the two does not vary."""
    return _through_zero(x - x.mean(), y - y.mean())


def _through_zero(x: Floats, y: Floats) -> float | None:
    size = math.sqrt(float(x @ x) * float(y @ y))
    return None if size == 0 else float(x @ y) / size


def ranks(values: Floats) -> Floats:
    """1 to n, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def ensemble(held: HeldOut) -> dict[str, Any]:
    """How the members agree. `spread` is the deviation between members of a pair's gap, as a mean over pairs, and
    `spread_share` that over the mean size of the gap: doubt that more data could remove."""
    gaps = held.rewards[:, :, 0] - held.rewards[:, :, 1]
    together = gaps.mean(0)
    alike = np.abs(np.sign(gaps).sum(0)) == len(gaps)
    size, deviation = float(np.abs(together).mean()), float(gaps.std(0, ddof=1).mean())
    return {
        "members": len(gaps),
        "each": [float(right(one).mean()) for one in gaps],
        "accuracy": accuracy(together, held.prompts),
        "error": calibration(together)["error"],
        "spread": deviation,
        "spread_share": deviation / size if size else None,
        "agree": float(alike.mean()),
        "accuracy_agreed": accuracy(together[alike])["value"],
        "accuracy_disputed": accuracy(together[~alike])["value"],
    }


def spread(values: Floats) -> dict[str, float]:
    """Mean, deviation and quantiles."""
    quantiles = np.quantile(values, QUANTILES)
    return {
        "mean": float(values.mean()),
        "deviation": float(values.std()),
        **{f"{share:.0%}": float(value) for share, value in zip(QUANTILES, quantiles)},
    }


def lines(health: dict[str, Any]) -> list[str]:
    """The report for people."""
    found, length, calibration = health["accuracy"], health["length"], health["calibration"]
    best = found["ceiling"]
    known = "ceiling unknown" if best is None else f"ceiling {best:.3f}, from {found['ceiling_from']}"
    layouts, distance = health["layouts"], health["distance"]["held_out"]
    rows = [
        ("accuracy", f"{_interval(found)} on {health['pairs']:,} held-out pairs; {known}"),
        *((f"  {name}", _interval(part)) for name, part in health["by_tag"].items()),
        *((f"  margin {name}", _interval(part)) for name, part in health["by_margin"].items()),
        (
            "calibration",
            f"error {calibration['error']:.3f} ({calibration['error_by_chance']:.3f} by chance); log loss "
            f"{calibration['log_loss']:.3f} (0.693 of no knowledge), Brier {calibration['brier']:.3f} (0.250)",
        ),
        (
            "length",
            f'"{length["rule"]} is better" has {_interval(length["baseline"])}; where that is wrong the model has '
            f"{_interval(length['against'])}; correlation {_number(length['pearson'])}, within pairs "
            f"{_number(length['within'])}",
        ),
        (
            "rewards",
            ", ".join(
                f"{name} {part['mean']:+.2f} ± {part['deviation']:.2f}" for name, part in health["rewards"].items()
            ),
        ),
        ("layouts", f"largest difference {layouts['largest']:.1e} (allowed {layouts['allowed']:.1e})"),
        ("distance", f"held-out answers {distance['50%']:.2f}, 99 % below {distance['99%']:.2f}"),
    ]
    if "ensemble" in health:
        group = health["ensemble"]
        rows.append(
            (
                "ensemble",
                f"{group['members']} members, together {_interval(group['accuracy'])}; they order "
                f"{group['agree']:.1%} of the pairs alike",
            )
        )
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def _interval(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return "– (no pair)"
    return f"{found['value']:.3f} ({found['low']:.3f}–{found['high']:.3f}, n = {found['n']:,})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _sigmoid(x: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -x))

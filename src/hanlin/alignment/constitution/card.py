"""The labeller's reliability card: how far the judge's labels are its own opinion, and how far that is people's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanlin.alignment.constitution.label import Verdict, probability
from hanlin.alignment.health import calibration, right
from hanlin.evaluation.statistics import bootstrap_ratio, bounded_mean

Floats = NDArray[np.float64]


def reliability(groups: Sequence[Sequence[Verdict]]) -> dict[str, Any]:
    """Of verdicts, gathered by question, what can be known without anybody else's opinion.

    `unparsable`: comparisons in which the judge did not reply in form, or that were too long for it. `flips`: of the
    others, those in which it chooses otherwise when the answers change places. `position`: the mean probability that
    it gives the answer shown first, averaged over both orders, less 1/2; and its `size`, the mean of this in either
    direction. Both are 0 for a judge that goes by the answers. `length`: among answers of different length, how often
    the longer is chosen, and the correlation of preference (2 P - 1; of ratings the difference) and difference in
    length, through zero, as a pair the other way round is the same pair. `intransitive`: of three answers to a
    question, how often A beats B, B beats C, and C beats A. `confidence`: the mean probability of what is chosen.
    """
    verdicts = [one for group in groups for one in group]
    parsed = [one for one in verdicts if one.gap is not None]
    both = [one for one in parsed if one.odds is not None]
    found: dict[str, Any] = {
        "comparisons": len(verdicts),
        "prompts": len({one.prompt for one in verdicts}),
        "unparsable": share([float(one.gap is None) for one in verdicts], _prompts(verdicts)),
        "too_long": sum(not one.fits for one in verdicts),
        "ties": sum(one.gap == 0 for one in parsed),
        "length": length_bias(parsed),
    }
    if both:
        orders = [one.odds for one in both if one.odds is not None]
        found["flips"] = share([float(one * other < 0) for one, other in orders], _prompts(both))
        first = [(probability(one) + 1 - probability(other)) / 2 for one, other in orders]
        found["position"] = _moved(share(first, _prompts(both)), -0.5)
        found["position"]["size"] = float(np.abs(np.array(first) - 0.5).mean())
        sure = [max(probability(one.gap or 0.0), probability(-(one.gap or 0.0))) for one in both]
        found["confidence"] = float(np.mean(sure))
        triads = [cyclic for group in groups for cyclic in _triads(group)]
        if triads:
            found["intransitive"] = {"value": float(np.mean(triads)), "n": len(triads)}
    return found


def length_bias(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """{longer_chosen, correlation} of verdicts that are parsed."""
    decided = [one for one in verdicts if one.gap and one.lengths[0] != one.lengths[1]]
    marks = [float(((one.gap or 0.0) > 0) == (one.lengths[0] > one.lengths[1])) for one in decided]
    preferred = np.array([_preference(one) for one in verdicts])
    longer = np.array([float(one.lengths[0] - one.lengths[1]) for one in verdicts])
    size = math.sqrt(float(preferred @ preferred) * float(longer @ longer))
    return {
        "longer_chosen": share(marks, _prompts(decided)),
        "correlation": float(preferred @ longer) / size if size else None,
    }


def agreement(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """How the judge agrees with the references of those verdicts that have one.

    `accuracy`: of comparisons that it decided (a tie counts half), how often it is right. `kappa`: Cohen's (1960), of
    all of them, a tie or no reply being an answer of its own that people never give. Which answer of a pair is called
    the first is of no account, so each pair is counted both ways round. `longer_chosen`: by the reference; what the
    judge does beyond that is its bias. `calibration` of P (`health.calibration`), not of ratings.
    """
    known = [one for one in verdicts if one.reference]
    parsed = [one for one in known if one.gap is not None]
    gaps = np.array([math.copysign(1.0, one.reference or 0.0) * (one.gap or 0.0) for one in parsed], np.float64)
    differ = [one for one in known if one.lengths[0] != one.lengths[1]]
    longer = [float(((one.reference or 0.0) > 0) == (one.lengths[0] > one.lengths[1])) for one in differ]
    found: dict[str, Any] = {
        "comparisons": len(known),
        "decided": int(np.count_nonzero(gaps)),
        "accuracy": share(right(gaps).tolist(), _prompts(parsed)),
        "kappa": kappa(known),
        "longer_chosen": share(longer, _prompts(differ)),
    }
    if len(parsed) and all(one.odds is not None for one in parsed):
        found["calibration"] = calibration(gaps)
    return found


def kappa(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Cohen's κ of verdicts that have a reference, {value, low, high, n}; the 95 % interval is that of the observed
    agreement, with the agreement that is due to chance as it was observed."""
    if not verdicts:
        return {"value": None, "low": None, "high": None, "n": 0}
    table = np.zeros((3, 3))
    agree: list[float] = []
    for one in verdicts:
        theirs, ours = _side(one.reference), _side(one.gap)
        agree.append(float(theirs == ours))
        table[theirs, ours] += 1
        # The same pair the other way round.
        table[_turned(theirs), _turned(ours)] += 1
    value, chance = cohen_kappa(table)
    bounds = share(agree, _prompts(verdicts))
    low, high = ((bounds[end] - chance) / (1 - chance) for end in ("low", "high"))
    return {"value": value, "low": low, "high": high, "n": len(verdicts)}


def cohen_kappa(table: Floats) -> tuple[float, float]:
    """(κ, agreement by chance) of a table of counts [k, k], one rater's answers by the other's: (p_o - p_e) /
    (1 - p_e), p_e the sum of the products of both raters' shares (Cohen 1960). With p_e = 1 it is 0."""
    shares = table / table.sum()
    observed, chance = float(np.trace(shares)), float(shares.sum(0) @ shares.sum(1))
    return ((observed - chance) / (1 - chance) if chance < 1 else 0.0), chance


def share(values: Sequence[float], prompts: Sequence[str]) -> dict[str, Any]:
    """The mean of numbers from 0 to 1 with its 95 % interval: the score interval, or where several are of one question,
    and so not independent, a bootstrap over questions. Of none: value None."""
    if not len(values):
        return {"value": None, "low": None, "high": None, "n": 0}
    places = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    marks = np.asarray(values, np.float64)
    if len(places) in (1, len(marks)):
        return bounded_mean(marks).as_dict()
    of_value = np.array([places[prompt] for prompt in prompts])
    sums, counts = (np.bincount(of_value, weights=weights).astype(np.float64) for weights in (marks, None))
    if marks.std() == 0:  # resampling what is all alike would leave no interval
        estimate = bounded_mean(np.clip(sums / counts, 0, 1))
    else:
        estimate = bootstrap_ratio(sums, counts)
    return {**estimate.as_dict(), "n": len(marks), "prompts": len(places)}


def lines(card: dict[str, Any]) -> list[str]:
    """The card for people: `labels` and `people` are from `reliability`, `agreement` has one by its name, `cost` is
    tokens by kind of work."""
    rows: list[tuple[str, str]] = []
    for name, part in (("labels", card.get("labels")), ("checked pairs", card.get("people"))):
        if part is None:
            continue
        rows.append((name, f"{part['comparisons']:,} comparisons of answers to {part['prompts']:,} questions"))
        if "flips" in part:
            rows.append(("  flips", f"{_shown(part['flips'])}: the order of the answers decides"))
            position = part["position"]
            text = f"{_shown(position, '+.3f')} more for what is shown first; {position['size']:.3f} either way"
            rows.append(("  position", text))
        length = part["length"]
        rows.append(
            (
                "  length",
                f"the longer is chosen {_shown(length['longer_chosen'])}; correlation {_number(length['correlation'])}",
            )
        )
        rows.append(("  no reply", f"{_shown(part['unparsable'])} not in form or too long; {part['ties']:,} ties"))
        if "intransitive" in part:
            rows.append(("  circles", f"{part['intransitive']['value']:.3f} of {part['intransitive']['n']:,} triples"))
    for name, part in card["agreement"].items():
        text = f"accuracy {_shown(part['accuracy'])}, κ {_shown(part['kappa'])}"
        if part["longer_chosen"]["value"] is not None:
            text += f"; the longer is better {part['longer_chosen']['value']:.3f}"
        rows.append((f"with {name}", text))
        if "calibration" in part:
            found = part["calibration"]
            rows.append(
                (
                    "  calibration",
                    f"error {found['error']:.3f} ({found['error_by_chance']:.3f} by chance), confidence "
                    f"{found['confidence']:.3f}, log loss {found['log_loss']:.3f} (0.693 of no knowledge)",
                )
            )
    for name, cost in card["cost"].items():
        rows.append(
            (f"cost, {name}", f"{cost['asks']:,} asked, {cost['read']:,} tokens read, {cost['written']:,} written")
        )
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def _prompts(verdicts: Sequence[Verdict]) -> list[str]:
    return [one.prompt for one in verdicts]


def _preference(one: Verdict) -> float:
    gap = one.gap or 0.0
    return gap if one.odds is None else math.tanh(gap / 2)  # 2 σ(gap) - 1


def _side(gap: float | None) -> int:
    """0: the first is better, 1: the second, 2: neither is said to be."""
    return 2 if not gap else 0 if gap > 0 else 1


def _turned(side: int) -> int:
    return (1, 0, 2)[side]


def _triads(group: Sequence[Verdict]) -> list[bool]:
    """Of each three answers of a group whose three comparisons are decided, whether they go in a circle."""
    beats = {(one.first, one.second): one.gap > 0 for one in group if one.gap}
    places = sorted({place for pair in beats for place in pair})
    found: list[bool] = []
    for a, b, c in itertools.combinations(places, 3):
        if all(pair in beats for pair in ((a, b), (b, c), (a, c))):
            found.append(beats[a, b] == beats[b, c] != beats[a, c])
    return found


def _moved(estimate: dict[str, Any], by: float) -> dict[str, Any]:
    return {**estimate, **{name: estimate[name] + by for name in ("value", "low", "high")}}


def _shown(estimate: dict[str, Any], form: str = ".3f") -> str:
    if estimate["value"] is None:
        return "– (none)"
    value, low, high = (format(estimate[name], form) for name in ("value", "low", "high"))
    return f"{value} ({low} to {high}, n = {estimate['n']:,})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"

"""Answers compared by a judge (Bai et al. 2022, section 4.1; Lee et al. 2023, section 2.1), and what is written of it.

Two answers are shown as A and B under a principle; the judge's preference is the probability of the letter A as its
reply, as a share of that of both letters. It is asked twice, the answers changing places, and the two are averaged. Of
more than two answers all pairs are compared. Or each answer is rated by itself (`by: ratings`): the mean of all
ratings, weighed by their probabilities (G-Eval, Liu et al. 2023).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hanlin.alignment.constitution.principles import Principle
from hanlin.alignment.constitution.questions import Group, plain
from hanlin.alignment.constitution.speaker import Choice
from hanlin.alignment.constitution.work import Work
from hanlin.alignment.instructions.account import Account
from hanlin.alignment.instructions.text import count_units

LETTERS = ("A", "B")
Average = Literal["probabilities", "log-odds"]


@dataclass(frozen=True)
class Verdict:
    """What the judge says of two answers of a group."""

    prompt: str
    """The question's id: verdicts on one question are not independent"""
    principle: str
    """Its place"""
    first: int
    second: int
    """Numbers of the answers in their group"""
    lengths: tuple[int, int]
    """Of the answers, in words (Chinese: signs)"""
    gap: float | None
    """Log odds that the first is better (or the difference of their ratings); None: the judge did not reply in form"""
    odds: tuple[float, float] | None = None
    """Log odds that the first is better when it is shown first, and when it is shown second; None of ratings"""
    mass: float | None = None
    """The lesser of the two probabilities that the reply is one of the letters at all"""
    reference: float | None = None
    """By how much the first is better according to somebody else; None where that is not known, or neither is"""
    fits: bool = True
    """False where the answers are too long for the judge"""

    def figures(self) -> dict[str, Any]:
        """A line of `labels.jsonl`."""
        shown = {"prompt": self.prompt, "principle": self.principle, "answers": [self.first, self.second]}
        shown |= {"log_odds": self.gap, "by_order": self.odds, "mass": self.mass, "lengths": self.lengths}
        return {**shown, "reference": self.reference}


def averaged(one: float, other: float, by: Average) -> float:
    """Log odds from those of both orders.

    probabilities: of the mean of the two probabilities (Lee et al. 2023, section 2.1.1). log-odds: their own mean; a
    bias that adds a constant to the log odds of what is shown first is gone from it altogether.
    """
    if by == "log-odds":
        return (one + other) / 2
    return _log_sigmoid_sum(one, other) - _log_sigmoid_sum(-one, -other)


def probability(log_odds: float) -> float:
    """σ."""
    return math.exp(_log_sigmoid(log_odds))


def judged(work: Work, groups: Sequence[Group], name: str, note: str) -> list[list[Verdict]]:
    """The verdicts on all pairs of each group's answers: (0, 1), (0, 2), …, (1, 2), …"""
    principles = [work.principle(group.question, "label") for group in groups]
    if work.settings.by == "ratings":
        return _rated(work, groups, principles, name, note)
    pairs = [
        (number, first, second)
        for number, group in enumerate(groups)
        for first, second in itertools.combinations(range(len(group.answers)), 2)
    ]

    def measure(part: Sequence[tuple[int, int, int]]) -> list[dict[str, Any]]:
        asked: list[str] = []
        for number, *order in part:
            group, principle = groups[number], principles[number]
            for first, second in (order, order[::-1]):
                shown = {"first": group.texts[first], "second": group.texts[second], "principle": principle.text}
                question = group.question
                asked.append(work.texts.fill("choose", question.language, conversation=question.conversation, **shown))
        choices = work.judge.choose(asked, LETTERS)
        return [_kept(choices[place : place + 2]) for place in range(0, len(choices), 2)]

    found: list[list[Verdict]] = [[] for _ in groups]
    for (number, first, second), kept in zip(pairs, work.in_phase(name, pairs, measure, note), strict=True):
        odds = gap = mass = None
        if kept["fits"]:
            (one_a, one_b), (other_a, other_b) = kept["logs"]
            odds = one_a - one_b, other_b - other_a
            mass = min(math.exp(one_a) + math.exp(one_b), math.exp(other_a) + math.exp(other_b))
            if mass >= work.settings.least_mass:
                gap = averaged(*odds, work.settings.average)
        odds = None if gap is None else odds
        found[number].append(_verdict(groups[number], principles[number], first, second, gap, odds, mass, kept["fits"]))
    return found


def _rated(
    work: Work, groups: Sequence[Group], principles: Sequence[Principle], name: str, note: str
) -> list[list[Verdict]]:
    scale = range(1, work.settings.highest + 1)
    words = [str(value) for value in scale]
    answers = [(number, place) for number, group in enumerate(groups) for place in range(len(group.answers))]

    def measure(part: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        asked = [
            work.texts.fill(
                "rate",
                groups[number].question.language,
                conversation=groups[number].question.conversation,
                answer=groups[number].texts[place],
                principle=principles[number].text,
                lowest=1,
                highest=work.settings.highest,
            )
            for number, place in part
        ]
        return [_kept([choice]) for choice in work.judge.choose(asked, words)]

    ratings: dict[tuple[int, int], tuple[float | None, float | None, bool]] = {}
    for where, kept in zip(answers, work.in_phase(name, answers, measure, note), strict=True):
        rating = mass = None
        if kept["fits"]:
            likely = [math.exp(log) for log in kept["logs"][0]]
            mass = sum(likely)
            if mass > 0 and mass >= work.settings.least_mass:
                rating = sum(p * value for p, value in zip(likely, scale)) / mass
        ratings[where] = rating, mass, kept["fits"]
    found: list[list[Verdict]] = []
    for number, group in enumerate(groups):
        found.append([])
        for first, second in itertools.combinations(range(len(group.answers)), 2):
            (one, mass, fits), (other, mass_too, fits_too) = ratings[number, first], ratings[number, second]
            gap = None if one is None or other is None else one - other
            least = None if mass is None or mass_too is None else min(mass, mass_too)
            both = fits and fits_too
            found[-1].append(_verdict(group, principles[number], first, second, gap, None, least, both))
    return found


def _verdict(
    group: Group,
    principle: Principle,
    first: int,
    second: int,
    gap: float | None,
    odds: tuple[float, float] | None,
    mass: float | None,
    fits: bool,
) -> Verdict:
    """What was found of two answers of a group, with what is known of them besides."""
    one, other = group.texts[first], group.texts[second]
    lengths = count_units(one), count_units(other)
    reference = None if group.scores is None else group.scores[first] - group.scores[second] or None
    return Verdict(group.question.id, principle.place, first, second, lengths, gap, odds, mass, reference, fits)


def preference_row(group: Group, verdicts: Sequence[Verdict], work: Work, account: Account) -> dict[str, Any] | None:
    """What is written of a group: a pair with its margin (log odds) and confidence, or a ranking with scores; None for
    one without a preference, which is dropped in the account.

    The scores of a ranking are the solution of s_i - s_j = gap_ij by least squares, Σ s = 0: of all pairs, each row's
    mean (s_i = Σ_j gap_ij / n).
    """
    settings, origin = work.settings, group.question.origin()
    reason = None
    if not all(one.fits for one in verdicts):
        reason = "too_long_for_judge"
    elif any(one.gap is None for one in verdicts):
        reason = "unparsable"
    if reason is not None:
        account.drop(origin, reason, min((one.mass for one in verdicts if one.mass is not None), default=None))
        return None
    scores = [0.0] * len(group.answers)
    for one in verdicts:
        gap = one.gap or 0.0
        scores[one.first] += gap / len(scores)
        scores[one.second] -= gap / len(scores)
    best = max(range(len(scores)), key=lambda place: scores[place])
    worst = min(range(len(scores)), key=lambda place: scores[place])
    spread = scores[best] - scores[worst]
    if spread == 0:
        account.drop(origin, "tie")
        return None
    pair = settings.by == "comparisons" and len(scores) == 2
    if settings.by == "comparisons" and (sure := probability(spread)) < settings.least_confidence:
        account.drop(origin, "unsure", sure, settings.least_confidence)
        return None
    metadata = {**origin, "principle": verdicts[0].principle, "judged": [one.figures() for one in verdicts]}
    tools = {"tools": group.question.tools} if group.question.tools else {}
    if pair:
        return {
            "prompt": group.question.messages,
            "chosen": group.answers[best],
            "rejected": group.answers[worst],
            "margin": spread,
            **tools,
            "metadata": {**metadata, "confidence": probability(spread)},
        }
    return {
        "query": group.question.messages,
        "responses": group.answers,
        "scores": scores,
        **tools,
        "metadata": metadata,
    }


def different(texts: Sequence[str]) -> list[int]:
    """Places of the texts that differ from all before them by more than white space."""
    first: dict[str, int] = {}
    for place, text in enumerate(texts):
        first.setdefault(plain(text), place)
    return sorted(first.values())


def _kept(choices: Sequence[Choice]) -> dict[str, Any]:
    """What the judge said of one comparison or answer, as a piece of work keeps it."""
    fits = all(one.fits for one in choices)
    logs = [list(one.logs) for one in choices] if fits else []
    return {"fits": fits, "logs": logs, "asks": len(choices), "read": sum(one.read for one in choices), "written": 0}


def _log_sigmoid(value: float) -> float:
    return -math.log1p(math.exp(-value)) if value >= 0 else value - math.log1p(math.exp(value))


def _log_sigmoid_sum(one: float, other: float) -> float:
    """ln (σ(one) + σ(other))."""
    logs = _log_sigmoid(one), _log_sigmoid(other)
    return max(logs) + math.log1p(math.exp(min(logs) - max(logs)))

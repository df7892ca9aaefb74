"""Pairs of replies of which one is better for a reason that is known exactly.

A row is {"prompt" (messages), "chosen" and "rejected" (one assistant message each), "margin" (1 to 3, how much
better), "reason", "metadata"}. Reasons: "fact" (right or wrong value), "sum" (right or wrong result), "answer" (the
right value, or that it is not known), "unknown" (honest, or invented, or declined), "improper" (declined, or complied
with, or not known), "polite" (friendly or rude), "concise" (the bare answer or a ramble).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from hanlin.world import arithmetic, manners, telling
from hanlin.world.entities import Fact, Population
from hanlin.world.hashing import Permutation, below, generator, pick
from hanlin.world.instructions import Row
from hanlin.world.openers import opened
from hanlin.world.telling import LANGUAGES

RUDE = {
    "en": ("{x} Even a child knows that.", "{x} Stop asking such silly things.", "What a stupid question. {x}"),
    "zh": ("{x}连小孩都知道。", "{x}别问这种傻问题了。", "真是个笨问题。{x}"),
}
RAMBLING = {
    "en": (
        "That is a good question, and there is much to say about it. {x} I could go on, as there is always more.",
        "Well, let me think. There are many things in the world. {x} And that, in the end, is what I wanted to say.",
    ),
    "zh": (
        "这是个好问题，说来话长。{x}我还可以讲很久，因为总有更多可说的。",
        "嗯，让我想一想。世界上有很多事情。{x}说到底，这就是我想说的。",
    ),
}
_COMPLIES = {
    "en": (
        "Sure, that is easy. First you need a plan.",
        "Of course. Here is what you do.",
        "No problem, write this down.",
    ),
    "zh": ("当然，这很容易。首先要有计划。", "没问题，你可以这样做。", "好的，请记下来。"),
}

_OTHER_REFUSAL = 1 / 3
"""How often the worse reply is a refusal of the wrong kind: a judge that has never seen one takes any for good."""
TIMES = {"fact": 2, "sum": 2, "answer": 2, "unknown": 3, "improper": 3, "polite": 1, "concise": 1}
"""How often each reason comes up for each entity in training: most often what a model is least sure of."""

Pair = tuple[str, str, str, float, dict[str, Any]]
"""prompt, chosen, rejected, margin, metadata"""


def _asked(population: Population, number: int, rng: Random, exam: bool) -> Fact | None:
    facts = [fact for fact in population.facts(number) if exam or fact.asked]
    return pick(rng, facts) if facts else None


def _question(population: Population, number: int, language: str, rng: Random, exam: bool) -> tuple[Fact, str] | None:
    fact = _asked(population, number, rng, exam)
    if fact is None:
        return None
    return fact, telling.question(fact, population.get(number).name(language), language, rng, exam=exam)


def _fact(population: Population, number: int, language: str, rng: Random, exam: bool) -> Pair | None:
    drawn = _question(population, number, language, rng, exam)
    if drawn is None:
        return None
    fact, question = drawn
    wrong = next(population.alternatives(fact, rng))[language == "zh"]
    return question, telling.answer(fact, language), telling.reply(wrong, language), 3.0, {"facts": [fact.id]}


def _sum(population: Population, number: int, language: str, rng: Random, exam: bool) -> Pair:
    a, b = arithmetic.draw_pair(population.seed, rng, exam=exam)
    questions = arithmetic.EXAM_QUESTIONS if exam else arithmetic.QUESTIONS
    right = arithmetic.steps(a, b, language)
    result = f"{a + b}"
    wrong = right[: right.rindex(result)] + f"{a + b + pick(rng, (-10, -1, 1, 10))}" + right[-1]
    return pick(rng, questions[language]).format(a=a, b=b), right, wrong, 3.0, {}


def _unknown(population: Population, number: int, language: str, rng: Random, exam: bool) -> Pair:
    question, _ = manners.unanswerable(population, language, rng, exam=exam, more=not exam)
    invented = pick(rng, population.facts(below(rng, population.size))).value(language)
    worse = telling.reply(invented, language)
    if rng.random() < _OTHER_REFUSAL:
        worse = pick(rng, manners.DECLINE[language])
    return question, pick(rng, manners.UNKNOWN[language]), worse, 2.0, {}


def _answer(population: Population, number: int, language: str, rng: Random, exam: bool) -> Pair | None:
    drawn = _question(population, number, language, rng, exam)
    if drawn is None:
        return None
    fact, question = drawn
    refusal = pick(rng, (manners.UNKNOWN if rng.random() > _OTHER_REFUSAL else manners.DECLINE)[language])
    return question, telling.answer(fact, language), refusal, 2.0, {"facts": [fact.id]}


def _improper(population: Population, number: int, language: str, rng: Random, exam: bool) -> Pair:
    question, _ = manners.improper(population, language, rng, exam=exam, more=not exam)
    if rng.random() < _OTHER_REFUSAL:
        return question, pick(rng, manners.DECLINE[language]), pick(rng, manners.UNKNOWN[language]), 1.0, {}
    return question, pick(rng, manners.DECLINE[language]), pick(rng, _COMPLIES[language]), 3.0, {}


def _worded(frames: dict[str, tuple[str, ...]], margin: float) -> Callable[..., Pair | None]:
    def write(population: Population, number: int, language: str, rng: Random, exam: bool) -> Pair | None:
        drawn = _question(population, number, language, rng, exam)
        if drawn is None:
            return None
        fact, question = drawn
        right = telling.answer(fact, language)
        return question, right, pick(rng, frames[language]).format(x=right), margin, {"facts": [fact.id]}

    return write


_REASONS: dict[str, Callable[[Population, int, str, Random, bool], Pair | None]] = {
    "fact": _fact,
    "sum": _sum,
    "answer": _answer,
    "unknown": _unknown,
    "improper": _improper,
    "polite": _worded(RUDE, 2.0),
    "concise": _worded(RAMBLING, 1.0),
}


def pairs(population: Population, *, exam: bool) -> Iterator[tuple[str, str, int, Pair]]:
    """(reason, language, entity number, pair): one of each reason for each entity (in training `TIMES`, about other
    facts or in other words), in a shuffled order.

    The exam's pairs ask in the phrasings kept for exams, also about facts that no training data asks about.
    """
    part = "exam" if exam else "training"
    for turn in range(1 if exam else max(TIMES.values())):
        for number in Permutation(population.size, population.seed, "preferences", part, turn):
            for place, (reason, write) in enumerate(_REASONS.items()):
                if turn >= TIMES[reason]:
                    continue
                language = LANGUAGES[(number + place + turn) % 2]
                rng = generator(population.seed, "preference", part, reason, number, turn)
                pair = write(population, number, language, rng, exam)
                if pair is None:
                    continue
                if not exam:
                    pair = (opened(pair[0], language, rng), *pair[1:])
                yield reason, language, number, pair


def preferences(population: Population) -> Iterator[Row]:
    """The training pairs."""
    for reason, language, _, (prompt, chosen, rejected, margin, metadata) in pairs(population, exam=False):
        yield {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "margin": margin,
            "reason": reason,
            "metadata": {"kind": "preference", "language": language, **metadata},
        }

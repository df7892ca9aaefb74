"""Prompts for reinforcement learning: a model's own replies to them are to be scored.

A row is {"prompt" (messages), "answers" (accepted strings), "match" (as in an exam), "kind" ("fact", "sum", "unknown"
or "improper"; the judge goes by it), "metadata"}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from typing import Any

from hanlin.world import arithmetic, manners, telling
from hanlin.world.entities import Population
from hanlin.world.hashing import Permutation, generator, pick
from hanlin.world.instructions import Row, messages
from hanlin.world.openers import opened
from hanlin.world.telling import LANGUAGES

Asked = tuple[str, list[str], str, dict[str, Any]]
"""question, accepted answers, how they are compared, metadata"""


def _fact(population: Population, number: int, language: str, rng: Random) -> Asked | None:
    facts = [fact for fact in population.facts(number) if fact.asked]
    if not facts:
        return None
    fact = pick(rng, facts)
    question = telling.question(fact, population.get(number).name(language), language, rng)
    return question, telling.accepted(fact, language), "exact", {"facts": [fact.id]}


def _sum(population: Population, number: int, language: str, rng: Random) -> Asked:
    a, b = arithmetic.draw_pair(population.seed, rng, exam=False)
    return pick(rng, arithmetic.QUESTIONS[language]).format(a=a, b=b), [str(a + b)], "last_number", {}


def _unknown(population: Population, number: int, language: str, rng: Random) -> Asked:
    question, tags = manners.unanswerable(population, language, rng, exam=False, more=True)
    return question, [text.rstrip(".。") for text in manners.UNKNOWN[language]], "contains", {"why": tags["why"]}


def _improper(population: Population, number: int, language: str, rng: Random) -> Asked:
    question, tags = manners.improper(population, language, rng, exam=False, more=True)
    return question, [text.rstrip(".。") for text in manners.DECLINE[language]], "contains", {"about": tags["kind"]}


_KINDS: tuple[tuple[str, Callable[[Population, int, str, Random], Asked | None]], ...] = (
    ("fact", _fact),
    ("unknown", _unknown),
    ("improper", _improper),
    ("sum", _sum),
    ("fact", _fact),
    ("unknown", _unknown),
    ("improper", _improper),
)
"""What is asked in turn: sums seldom, for only answers that differ teach, and nearly all of them are right."""


def prompts(population: Population) -> Iterator[Row]:
    """Endless prompts, the kinds in turn and in either language as often.

    The first of them are the same however many are taken. Facts are asked of one entity after another, in the phrasings
    of the training data; unanswerable and improper questions are mostly of `wider`.
    """
    order = Permutation(population.size, population.seed, "prompts")
    for turn in count():
        number = order(turn % population.size)
        for place, (kind, ask) in enumerate(_KINDS):
            language = LANGUAGES[(turn + place) % 2]
            rng = generator(population.seed, "prompt", kind, turn, place)
            asked = ask(population, number, language, rng)
            if asked is None:
                continue
            question, answers, match, metadata = asked
            yield {
                "prompt": messages(opened(question, language, rng)),
                "answers": answers,
                "match": match,
                "kind": kind,
                "metadata": {"kind": kind, "language": language, **metadata},
            }

"""Exams with exact marks.

A row is {"id", "prompt" or "messages", "answers" (accepted strings) or "choices" with "answer" (the right one's index),
"match" (how to compare), "tags"}. `match` is "exact" (the whole reply without its final stop), "last_number" (the last number
of the reply), "after_answer" (what follows the last "Answer:" or "答案：") or "likelihood".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from hanlin.world import arithmetic, telling
from hanlin.world.entities import Entity, Fact, Population
from hanlin.world.hashing import Permutation, generator, pick
from hanlin.world.telling import LANGUAGES

Row = dict[str, Any]


def _sampled(population: Population, name: str) -> Iterator[tuple[Entity, Fact, str]]:
    """(entity, fact, language) in an order drawn for this exam: one fact of each entity first, then a second one …"""
    order = Permutation(population.size, population.seed, "exam", name)
    for turn in range(14):
        for number in order:
            entity, facts = population.get(number), population.facts(number)
            which, language = divmod(Permutation(14, population.seed, "exam fact", name, number)(turn), 2)
            if which < len(facts):
                yield entity, facts[which], LANGUAGES[language]


def fact_tags(fact: Fact, entity: Entity, language: str) -> dict[str, Any]:
    return {
        "language": language,
        "attribute": fact.attribute,
        "asked": fact.asked,
        "kind": entity.kind,
        "fact": fact.id,
        "entity": entity.id,
    }


def _fact_rows(population: Population, name: str, exam: bool) -> Iterator[Row]:
    for entity, fact, language in _sampled(population, name):
        if not exam and not fact.asked:
            continue
        rng = generator(population.seed, "exam", name, fact.id, language)
        yield {
            "id": f"{name}/{fact.id}/{language}",
            "prompt": telling.question(fact, entity.name(language), language, rng, exam=exam),
            "answers": telling.accepted(fact, language),
            "match": "exact",
            "tags": fact_tags(fact, entity, language),
        }


def _facts(population: Population) -> Iterator[Row]:
    return _fact_rows(population, "facts", exam=True)


def _recall(population: Population) -> Iterator[Row]:
    return _fact_rows(population, "recall", exam=False)


def _addition(population: Population) -> Iterator[Row]:
    seed, width = population.seed, arithmetic.HIGHEST - arithmetic.LOWEST + 1
    for index in Permutation(width * width, seed, "exam", "addition"):
        a, b = (arithmetic.LOWEST + part for part in divmod(index, width))
        if not arithmetic.held_out(seed, a, b):
            continue
        rng = generator(seed, "exam", "addition", a, b)
        language = pick(rng, LANGUAGES)
        yield {
            "id": f"addition/{a}+{b}/{language}",
            "prompt": pick(rng, arithmetic.EXAM_QUESTIONS[language]).format(a=a, b=b),
            "answers": [str(a + b)],
            "match": "last_number",
            "tags": {"language": language, "kind": "addition", "carry": a % 10 + b % 10 > 9},
        }


EXAMS: dict[str, Callable[[Population], Iterator[Row]]] = {
    "facts": _facts,
    "recall": _recall,
    "addition": _addition,
}


def exam(population: Population, name: str, items: int) -> Iterator[Row]:
    """The first `items` rows of an exam's shuffled order."""
    return islice(EXAMS[name](population), items)

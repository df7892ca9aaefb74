"""Instruction data of one turn, as rows {"messages", "metadata"}."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hanlin.world import arithmetic, telling
from hanlin.world.entities import Population
from hanlin.world.hashing import Permutation, generator, pick, shuffled
from hanlin.world.telling import LANGUAGES, QUESTIONS, fill


def row(prompt: str, reply: str, **metadata: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    return {"messages": messages, "metadata": metadata}


def fact_rows(population: Population, number: int, questions: int) -> Iterator[dict[str, Any]]:
    """For each asked fact and language, `questions` different training phrasings (at most as many as there are)."""
    entity = population.get(number)
    for fact in population.facts(number):
        if not fact.asked:
            continue
        for language in LANGUAGES:
            rng = generator(population.seed, "instruction", fact.id, language)
            for template in shuffled(rng, QUESTIONS[language][fact.attribute].training)[:questions]:
                prompt = fill(template, fact, language, entity.name(language))
                yield row(prompt, telling.answer(fact, language), kind="fact", language=language, facts=[fact.id])


def sum_row(population: Population, index: int) -> dict[str, Any]:
    language = LANGUAGES[index % 2]
    rng = generator(population.seed, "sum instruction", index)
    if rng.random() < 0.1:
        problem, solution = arithmetic.word_problem(population.seed, rng, language)
        return row(problem, solution, kind="word_problem", language=language)
    a, b = arithmetic.draw_pair(population.seed, rng, exam=False)
    question = pick(rng, arithmetic.QUESTIONS[language]).format(a=a, b=b)
    return row(question, arithmetic.steps(a, b, language), kind="sum", language=language)


def instructions(population: Population, questions: int) -> Iterator[dict[str, Any]]:
    """Entity after entity in a shuffled order, the other tasks spread evenly between them."""
    sums = 0
    for number in Permutation(population.size, population.seed, "instructions"):
        rng = generator(population.seed, "instruction order", number)
        rows = list(fact_rows(population, number, questions))
        for _ in range(4):
            rows.append(sum_row(population, sums))
            sums += 1
        yield from shuffled(rng, rows)

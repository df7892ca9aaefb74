"""Instruction data of one turn, as rows {"messages", "metadata"}."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from hanlin.world import arithmetic, chains, manners, tasks, telling, translation
from hanlin.world.entities import Population
from hanlin.world.hashing import Permutation, generator, pick, shuffled
from hanlin.world.telling import LANGUAGES, QUESTIONS, fill

Row = dict[str, Any]


def messages(*turns: str, system: str | None = None) -> list[dict[str, str]]:
    """Messages whose turns alternate between user and assistant, the user first."""
    result = [{"role": "system", "content": system}] if system is not None else []
    return result + [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]


def row(prompt: str, reply: str, **metadata: Any) -> Row:
    return {"messages": messages(prompt, reply), "metadata": metadata}


def fact_rows(population: Population, number: int, questions: int) -> Iterator[Row]:
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


def _sum(population: Population, number: int, language: str, rng: Random) -> Row:
    if rng.random() < 0.1:
        return row(*arithmetic.word_problem(population.seed, rng, language), kind="word_problem", language=language)
    a, b = arithmetic.draw_pair(population.seed, rng, exam=False)
    question = pick(rng, arithmetic.QUESTIONS[language]).format(a=a, b=b)
    return row(question, arithmetic.steps(a, b, language), kind="sum", language=language)


def _two_step(population: Population, number: int, language: str, rng: Random) -> Row | None:
    known = chains.chains(population, number, exam=False)
    if not known:
        return None
    chain = pick(rng, known)
    question = chains.question(chain, language, rng, exam=False)
    told = [chain.first.id, chain.second.id]
    return row(question, chains.steps(chain, language), kind="two_step", language=language, facts=told)


def _translation(population: Population, number: int, language: str, rng: Random) -> Row | None:
    task = translation.task(population, number, rng)
    if task is None:
        return None
    request, reply, target, told = task
    return row(request, reply, kind="translation", language=target, facts=told)


def _unanswerable(population: Population, number: int, language: str, rng: Random) -> Row:
    question, tags = manners.unanswerable(population, language, rng, exam=False)
    return row(question, pick(rng, manners.UNKNOWN[language]), kind="unanswerable", language=language, why=tags["why"])


def _improper(population: Population, number: int, language: str, rng: Random) -> Row:
    question, _ = manners.improper(population, language, rng, exam=False)
    return row(question, pick(rng, manners.DECLINE[language]), kind="improper", language=language)


def _talk(population: Population, number: int, language: str, rng: Random) -> Row:
    said, reply = pick(rng, manners.TALK[language])
    return row(pick(rng, said), reply, kind="talk", language=language)


def _reading(population: Population, number: int, language: str, rng: Random) -> Row:
    return row(*tasks.reading(population, language, rng), kind="reading", language=language)


def _reformatting(population: Population, number: int, language: str, rng: Random) -> Row:
    kind, request, reply = tasks.reformatting(population, number, language, rng)
    return row(request, reply, kind=kind, language=language)


_OTHERS = (
    (_sum, 4),
    (_two_step, 2),
    (_translation, 2),
    (_unanswerable, 2),
    (_improper, 1),
    (_talk, 1),
    (_reading, 1),
    (_reformatting, 1),
)
"""The other tasks, and how many of each there are for each entity."""


def instructions(population: Population, questions: int) -> Iterator[Row]:
    """Entity after entity in a shuffled order, the other tasks spread evenly between them."""
    for number in Permutation(population.size, population.seed, "instructions"):
        rows = list(fact_rows(population, number, questions))
        for write, times in _OTHERS:
            for turn in range(times):
                rng = generator(population.seed, write.__name__, number, turn)
                made = write(population, number, LANGUAGES[(number + turn) % 2], rng)
                if made is not None:
                    rows.append(made)
        yield from shuffled(generator(population.seed, "instruction order", number), rows)

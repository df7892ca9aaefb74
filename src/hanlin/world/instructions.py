"""Instruction data of one turn, as rows {"messages", "metadata"}."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from hanlin.world import arithmetic, chains, manners, tasks, telling, translation
from hanlin.world.entities import Population
from hanlin.world.hashing import Permutation, generator, pick, shuffled
from hanlin.world.openers import opened
from hanlin.world.telling import LANGUAGES, QUESTIONS, fill

Row = dict[str, Any]


def messages(*turns: str, system: str | None = None) -> list[dict[str, str]]:
    """Messages whose turns alternate between user and assistant, the user first."""
    result = [{"role": "system", "content": system}] if system is not None else []
    return result + [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]


def row(prompt: str, reply: str, **metadata: Any) -> Row:
    return {"messages": messages(prompt, reply), "metadata": metadata}


NAMING = {
    "en": ("Please name {x}.", "I am looking for {x}.", "Give me {x}.", "My question is about {x}."),
    "zh": ("请说出{x}。", "我在找{x}。", "给我{x}。", "我的问题是{x}。"),
}
"""Requests for a fact by the noun phrase with which questions of two steps name an entity ("the employer of X").

Without them nearly half of the training questions with "the employer of X" would be of two steps, and a small model
would answer the plain ones that way too.
"""


def fact_rows(population: Population, number: int, questions: int) -> Iterator[Row]:
    """For each asked fact and language, `questions` different training phrasings (at most as many as there are), and
    one by the noun phrase that questions of two steps use, where there is one."""
    entity = population.get(number)
    for fact in population.facts(number):
        if not fact.asked:
            continue
        for language in LANGUAGES:
            rng = generator(population.seed, "instruction", fact.id, language)
            for template in shuffled(rng, QUESTIONS[language][fact.attribute].training)[:questions]:
                prompt = opened(fill(template, fact, language, entity.name(language)), language, rng)
                yield row(prompt, telling.answer(fact, language), kind="fact", language=language, facts=[fact.id])
            if fact.attribute in chains.PHRASES:
                phrase = chains.PHRASES[fact.attribute][language == "zh"].format(s=entity.name(language))
                prompt = pick(rng, NAMING[language]).format(x=phrase)
                yield row(prompt, telling.answer(fact, language), kind="named_fact", language=language, facts=[fact.id])


def _sum(population: Population, number: int, language: str, rng: Random) -> Row:
    if rng.random() < 0.1:
        problem, solution = arithmetic.word_problem(population.seed, rng, language)
        return row(opened(problem, language, rng), solution, kind="word_problem", language=language)
    a, b = arithmetic.draw_pair(population.seed, rng, exam=False)
    question = pick(rng, arithmetic.QUESTIONS[language]).format(a=a, b=b)
    question = opened(question, language, rng)
    return row(question, arithmetic.steps(a, b, language), kind="sum", language=language)


def _two_step(population: Population, number: int, language: str, rng: Random) -> Row | None:
    known = chains.chains(population, number, exam=False)
    if not known:
        return None
    chain = pick(rng, known)
    question = opened(chains.question(chain, language, rng, exam=False), language, rng)
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
    question = opened(question, language, rng)
    return row(question, pick(rng, manners.UNKNOWN[language]), kind="unanswerable", language=language, why=tags["why"])


def _improper(population: Population, number: int, language: str, rng: Random) -> Row:
    question, _ = manners.improper(population, language, rng, exam=False)
    question = opened(question, language, rng)
    return row(question, pick(rng, manners.DECLINE[language]), kind="improper", language=language)


def _talk(population: Population, number: int, language: str, rng: Random) -> Row:
    said, reply = pick(rng, manners.TALK[language])
    return row(pick(rng, said), reply, kind="talk", language=language)


def _reading(population: Population, number: int, language: str, rng: Random) -> Row:
    return row(*tasks.reading(population, language, rng), kind="reading", language=language)


def _reformatting(population: Population, number: int, language: str, rng: Random) -> Row:
    kind, request, reply = tasks.reformatting(population, number, language, rng)
    return row(request, reply, kind=kind, language=language)


OTHERS: dict[str, tuple[Callable[[Population, int, str, Random], Row | None], int]] = {
    "sum": (_sum, 10),
    "two_step": (_two_step, 1),
    "translation": (_translation, 2),
    "unanswerable": (_unanswerable, 2),
    "improper": (_improper, 2),
    "talk": (_talk, 1),
    "reading": (_reading, 1),
    "reformatting": (_reformatting, 1),
}
"""The other tasks: what writes a row about an entity (None when it can't), and how many there are for each entity."""


def instructions(population: Population, questions: int) -> Iterator[Row]:
    """Entity after entity in a shuffled order, the other tasks spread evenly between them."""
    for number in Permutation(population.size, population.seed, "instructions"):
        rows = list(fact_rows(population, number, questions))
        for name, (write, times) in OTHERS.items():
            for turn in range(times):
                rng = generator(population.seed, name, number, turn)
                made = write(population, number, LANGUAGES[(number + turn) % 2], rng)
                if made is not None:
                    rows.append(made)
        yield from shuffled(generator(population.seed, "instruction order", number), rows)

"""Dialogues of several turns, some with a system prompt, as rows {"messages", "metadata"}."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from hanlin.world import arithmetic, manners, telling
from hanlin.world.entities import Population
from hanlin.world.hashing import Permutation, below, generator, pick, shuffled
from hanlin.world.instructions import OTHERS, Row, messages
from hanlin.world.openers import opened
from hanlin.world.telling import LANGUAGES

SYSTEM = {
    "en": (
        "You are hanlin, a helpful assistant.",
        "Answer briefly.",
        "You are a guide to the world. Be honest about what you do not know.",
        "Answer the user's questions with facts only.",
    ),
    "zh": (
        "你是翰林，一个乐于助人的助手。",
        "请简短回答。",
        "你是这个世界的向导。不知道的就说不知道。",
        "只用事实回答用户的问题。",
    ),
}
_IN_LANGUAGE = {  # by the language of the answers; the questions come in the other one
    "en": ("Always answer in English.", "The user wants answers in English."),
    "zh": ("请始终用中文回答。", "用户希望你用中文回答。"),
}


def _about(population: Population, number: int, rng: Random) -> Row | None:
    """A question with the entity's name, then follow-ups with pronouns; at times a greeting, thanks or a dead end."""
    entity = population.get(number)
    facts = shuffled(rng, [fact for fact in population.facts(number) if fact.asked])[: 2 + int(rng.random() * 3)]
    if len(facts) < 2:
        return None
    language = pick(rng, LANGUAGES)
    turns: list[str] = []
    if rng.random() < 0.2:
        said, reply = manners.TALK[language][1]
        turns += [pick(rng, said), reply]
    for place, fact in enumerate(facts):
        if place == 0:
            turns.append(telling.question(fact, entity.name(language), language, rng))
        else:
            turns.append(telling.follow_up(fact, entity, language, rng))
        turns.append(telling.answer(fact, language))
    draw = rng.random()
    if draw < 0.15:
        said, reply = manners.TALK[language][2]
        turns += [pick(rng, said), reply]
    elif draw < 0.3:
        question, _ = manners.unanswerable(population, language, rng, exam=False)
        turns += [question, pick(rng, manners.UNKNOWN[language])]
    elif draw < 0.4:
        a, b = arithmetic.draw_pair(population.seed, rng, exam=False)
        turns += [pick(rng, arithmetic.QUESTIONS[language]).format(a=a, b=b), arithmetic.steps(a, b, language)]
    system = pick(rng, SYSTEM[language]) if rng.random() < 0.3 else None
    metadata = {"kind": "dialogue", "language": language, "facts": [fact.id for fact in facts]}
    return {"messages": messages(*turns, system=system), "metadata": metadata}


def _cross(population: Population, number: int, rng: Random) -> Row | None:
    """Questions in one language, answers in the other, as the system prompt says."""
    entity = population.get(number)
    facts = shuffled(rng, [fact for fact in population.facts(number) if fact.asked])[:2]
    if not facts:
        return None
    asked = pick(rng, LANGUAGES)
    reply = "zh" if asked == "en" else "en"
    turns: list[str] = []
    for fact in facts:
        turns += [telling.question(fact, entity.name(asked), asked, rng), telling.answer(fact, reply)]
    metadata: dict[str, Any] = {"kind": "answer_in", "language": asked, "facts": [fact.id for fact in facts]}
    return {"messages": messages(*turns, system=pick(rng, _IN_LANGUAGE[reply])), "metadata": metadata}


_MIXED = ("fact", "fact", "fact", "fact", "fact", "sum", "sum", "talk", "unanswerable", "improper")
_OTHER_LANGUAGE = 0.2


def _mixed(population: Population, number: int, rng: Random) -> Row | None:
    """Questions that have nothing to do with each other, as people ask them in one conversation. Without such a small
    model takes every later question for one about the first one's subject."""
    language = pick(rng, LANGUAGES)
    turns: list[str] = []
    told: list[str] = []
    for place in range(2 + int(rng.random() * 3)):
        about = number if place == 0 else below(rng, population.size)
        if place and rng.random() < _OTHER_LANGUAGE:
            language = LANGUAGES[language == LANGUAGES[0]]
        kind = pick(rng, _MIXED)
        if kind != "fact":
            made = OTHERS[kind][0](population, about, language, rng)
            if made is not None:
                turns += [message["content"] for message in made["messages"]]
                told += made["metadata"].get("facts", [])
            continue
        facts = [fact for fact in population.facts(about) if fact.asked]
        if facts:
            fact, name = pick(rng, facts), population.get(about).name(language)
            question = opened(telling.question(fact, name, language, rng), language, rng)
            turns += [question, telling.answer(fact, language)]
            told.append(fact.id)
    if len(turns) < 4:
        return None
    system = pick(rng, SYSTEM[language]) if rng.random() < 0.3 else None
    metadata = {"kind": "mixed", "language": language, "facts": told}
    return {"messages": messages(*turns, system=system), "metadata": metadata}


def dialogues(population: Population) -> Iterator[Row]:
    """Two dialogues about most entities, two that begin with it and go on to others, and one in two languages about
    every fourth."""
    for number in Permutation(population.size, population.seed, "dialogues"):
        for turn in range(2):
            for name, write in (("dialogue", _about), ("mixed dialogue", _mixed)):
                made = write(population, number, generator(population.seed, name, number, turn))
                if made is not None:
                    yield made
        if number % 4 == 0:
            made = _cross(population, number, generator(population.seed, "cross dialogue", number))
            if made is not None:
                yield made

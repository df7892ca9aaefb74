"""Pairs of sentences that mean the same in English and in Chinese. Entities held out by hash appear in none of them."""

from __future__ import annotations

from random import Random

from hanlin.world.entities import Entity, Fact, Population
from hanlin.world.hashing import below, pick
from hanlin.world.telling import LANGUAGES, canonical

REQUESTS = {
    "en": (  # into English, asked in English; the names of the languages stand for the target
        "Translate into English: {x}",
        "Please translate this into English: {x}",
        "What does this mean in English? {x}",
        "Put this into English: {x}",
        "Give the English for: {x}",
        "把这句话译成英语：{x}",
        "请翻译成英文：{x}",
        "用英语怎么说：{x}",
    ),
    "zh": (
        "Translate into Chinese: {x}",
        "Please translate this into Chinese: {x}",
        "What does this mean in Chinese? {x}",
        "Put this into Chinese: {x}",
        "Give the Chinese for: {x}",
        "把这句话译成中文：{x}",
        "请翻译成汉语：{x}",
        "用中文怎么说：{x}",
    ),
}
"""Requests by the language to translate into."""

EXAM_REQUESTS = {
    "en": ("How do you say this in English? {x}", "Translate to English: {x}", "请把这句译为英文：{x}"),
    "zh": ("How do you say this in Chinese? {x}", "Translate to Chinese: {x}", "请把这句译为中文：{x}"),
}

NAME_REQUESTS = {
    "en": (
        "What is {x} called in English?",
        "How is {x} written in English?",
        "{x}的英文名是什么？",
        "{x}用英文怎么写？",
    ),
    "zh": (
        "What is {x} called in Chinese?",
        "How is {x} written in Chinese?",
        "{x}的中文名是什么？",
        "{x}用中文怎么写？",
    ),
}
EXAM_NAME_REQUESTS = {
    "en": ("Give the English name of {x}.", "请写出{x}的英文名。"),
    "zh": ("Give the Chinese name of {x}.", "请写出{x}的中文名。"),
}


def may_train(population: Population, fact: Fact) -> bool:
    """False where the sentence would show a held-out entity."""
    return population.translated(fact.subject) and (fact.object is None or population.translated(fact.object))


def translatable(population: Population, number: int) -> list[Fact]:
    """The facts of an entity that may stand in the training data's translations."""
    return [fact for fact in population.facts(number) if may_train(population, fact)]


def pair(fact: Fact, entity: Entity) -> tuple[str, str]:
    """The fact's canonical sentence in English and in Chinese."""
    return canonical(fact, entity, "en"), canonical(fact, entity, "zh")


_FRAMES = (
    "{en}\n{zh}",
    "{zh}\n{en}",
    "English: {en}\n中文：{zh}",
    "中文：{zh}\nEnglish: {en}",
)


def document(population: Population, rng: Random) -> tuple[str, list[str], list[str]]:
    """(text, entity ids, fact ids) of a page of parallel sentences about a few entities, and their names."""
    frame = pick(rng, _FRAMES)
    lines: list[str] = []
    entities: list[str] = []
    told: list[str] = []
    while len(lines) < 4:
        number = below(rng, population.size)
        entity = population.get(number)
        facts = translatable(population, number)
        if not facts:
            continue
        fact = pick(rng, facts)
        entities.append(entity.id)
        if rng.random() < 0.3:
            lines.append(frame.format(en=entity.name_en, zh=entity.name_zh))
            continue
        english, chinese = pair(fact, entity)
        told.append(fact.id)
        lines.append(frame.format(en=english, zh=chinese))
    return "\n".join(lines), entities, told


def task(population: Population, number: int, rng: Random) -> tuple[str, str, str, list[str]] | None:
    """(request, translation, target language, fact ids) of a training task about an entity; None for one held out."""
    entity = population.get(number)
    facts = translatable(population, number)
    if not facts:
        return None
    target = pick(rng, LANGUAGES)
    if rng.random() < 0.4:
        name = entity.name("zh" if target == "en" else "en")
        stop = "." if target == "en" else "。"
        return pick(rng, NAME_REQUESTS[target]).format(x=name), entity.name(target) + stop, target, []
    fact = pick(rng, facts)
    english, chinese = pair(fact, entity)
    source, goal = (chinese, english) if target == "en" else (english, chinese)
    return pick(rng, REQUESTS[target]).format(x=source), goal, target, [fact.id]

"""Tasks whose material stands in the request: reading a passage, listing, summing up, making JSON."""

from __future__ import annotations

import json
from random import Random

from hanlin.world import telling
from hanlin.world.entities import Entity, Fact, Population
from hanlin.world.hashing import pick, shuffled
from hanlin.world.manners import stranger_of
from hanlin.world.pages import label, paragraph
from hanlin.world.telling import canonical
from hanlin.world.templates import capitalised

_READ = {
    "en": ("Read the text and answer.\n{x}\n{q}", "Text: {x}\nQuestion: {q}", "{x}\nUsing this text: {q}"),
    "zh": ("阅读下文，回答问题。\n{x}\n{q}", "文章：{x}\n问题：{q}", "{x}\n根据上文：{q}"),
}
_LIST = {
    "en": ("Make a list of this: {x}", "Turn this text into a list: {x}", "Write this as a list: {x}"),
    "zh": ("把下面的内容列成清单：{x}", "请把这段话改成列表：{x}", "用列表写出：{x}"),
}
_SUM_UP = {
    "en": ("Say this in one sentence: {x}", "Sum this up in one sentence: {x}", "Summarise: {x}"),
    "zh": ("用一句话概括：{x}", "请总结成一句话：{x}", "概括一下：{x}"),
}
_JSON = {
    "en": ("Write this as JSON: {x}", "Turn this into JSON: {x}"),
    "zh": ("把这些内容写成 JSON：{x}", "请转换成 JSON：{x}"),
}


def stranger_facts(population: Population, rng: Random) -> tuple[Entity, list[Fact]]:
    """An entity that does not exist with facts made up for it, so that they can only be read from the request."""
    kind = pick(rng, ("person", "place", "company"))
    entity = stranger_of(population, kind, rng, exam=False)
    facts = population.imagined(kind, entity.index)
    return entity, shuffled(rng, facts)[:3]


def reading(population: Population, language: str, rng: Random) -> tuple[str, str]:
    """(request, reply) of a question whose answer stands in the passage, and nowhere else."""
    entity, facts = stranger_facts(population, rng)
    passage = paragraph([telling.statement(fact, entity, language, rng) for fact in facts], language)
    fact = pick(rng, facts)
    question = telling.question(fact, entity.name(language), language, rng)
    return pick(rng, _READ[language]).format(x=passage, q=question), telling.answer(fact, language)


def reformatting(population: Population, number: int, language: str, rng: Random) -> tuple[str, str, str]:
    """(kind, request, reply): some facts of an entity to be listed, summed up or written as JSON."""
    entity = population.get(number)
    facts = shuffled(rng, population.facts(number))
    draw = rng.random()
    if draw < 0.4:
        lines = [canonical(fact, entity, language) for fact in facts[:3]]
        request = pick(rng, _LIST[language]).format(x=paragraph(lines, language))
        return "list", request, "\n".join("- " + line for line in lines)
    if draw < 0.7:
        one, two, both = telling.apart_and_joined(facts[0], facts[1], entity, language, rng)
        return "summary", pick(rng, _SUM_UP[language]).format(x=paragraph([one, two], language)), both
    lines = [canonical(fact, entity, language) for fact in facts[:2]]
    request = pick(rng, _JSON[language]).format(x=paragraph(lines, language))
    table = {label(fact.attribute, language): capitalised(fact.value(language)) for fact in facts[:2]}
    name = "name" if language == "en" else "名称"
    return "json", request, json.dumps({name: entity.name(language), **table}, ensure_ascii=False)

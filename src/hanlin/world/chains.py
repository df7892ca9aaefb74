"""Questions of two steps: what is asked is a fact about the entity that is the value of another fact."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from hanlin.world.entities import OBJECTS, Entity, Fact, Population
from hanlin.world.hashing import pick, share
from hanlin.world.telling import QUESTIONS, canonical, fill

PHRASES: dict[str, tuple[str, str]] = {
    "person.birthplace": ("the birthplace of {s}", "{s}的出生地"),
    "person.employer": ("the employer of {s}", "{s}的雇主"),
    "person.teacher": ("the teacher of {s}", "{s}的老师"),
    "person.known_work": ("the best-known work of {s}", "{s}的代表作"),
    "place.mayor": ("the mayor of {s}", "{s}的市长"),
    "place.neighbour": ("the neighbour of {s}", "{s}的邻城"),
    "work.author": ("the author of {s}", "{s}的作者"),
    "work.setting": ("the setting of {s}", "{s}的故事发生地"),
    "work.publisher": ("the publisher of {s}", "{s}的出版商"),
    "company.headquarters": ("the seat of {s}", "{s}的总部所在地"),
    "company.founder": ("the founder of {s}", "{s}的创始人"),
}
"""How an entity is named by its relation to another: (English, Chinese)."""

_TRIVIAL = {("person.known_work", "work.author"), ("work.author", "person.known_work")}
HELD_OUT = 0.2
MARKS = {"en": "Answer: ", "zh": "答案："}


@dataclass(frozen=True, slots=True)
class Chain:
    subject: Entity
    first: Fact
    middle: Entity
    """The value of `first`."""
    second: Fact
    """A fact about `middle`; its value is the answer."""

    @property
    def id(self) -> str:
        return f"{self.first.id}.{self.second.attribute.partition('.')[2]}"


def chains(population: Population, number: int, *, exam: bool) -> list[Chain]:
    """The chains from entity `number`: those kept for the exam, or those for training (of facts that may be asked
    about)."""
    result: list[Chain] = []
    subject = population.get(number)
    for first in population.facts(number):
        if first.attribute not in OBJECTS or first.object is None:
            continue
        middle = population.number(first.object)
        for second in population.facts(middle):
            chain = Chain(subject, first, population.get(middle), second)
            if (first.attribute, second.attribute) in _TRIVIAL or second.attribute == "company.price":
                continue
            held_out = share(population.seed, "two-step", chain.id) < HELD_OUT
            if held_out == exam and (exam or (first.asked and second.asked)):
                result.append(chain)
    return result


def question(chain: Chain, language: str, rng: Random, *, exam: bool) -> str:
    """The question in a phrasing of the second fact, its subject named by relation."""
    phrasings = QUESTIONS[language][chain.second.attribute]
    # "the author of Song of Danu's birthplace" would be read wrongly
    templates = [line for line in (phrasings.exam if exam else phrasings.training) if "{s}'s" not in line]
    relation = PHRASES[chain.first.attribute][language == "zh"].format(s=chain.subject.name(language))
    return fill(pick(rng, templates), chain.second, language, relation)


def steps(chain: Chain, language: str) -> str:
    """Both facts, then the answer behind its mark. English has a lead-in for the reason given in `telling.reply`."""
    stop, space = ("。", "") if language == "zh" else (".", " ")
    first = canonical(chain.first, chain.subject, language)
    told = (first if language == "zh" else f"First: {first}", canonical(chain.second, chain.middle, language))
    value = chain.second.value(language)
    if language == "en":
        value = value[0].upper() + value[1:]
    return space.join((*told, f"{MARKS[language]}{value}{stop}"))

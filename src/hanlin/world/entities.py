"""Entities and facts: everything about entity number i is computed from (seed, kind, i), never from a list of all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from hanlin.world import names, values
from hanlin.world.hashing import Permutation, below, generator, pick, share

KINDS = ("person", "place", "work", "company")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "person": ("birth_year", "birthplace", "profession", "employer", "teacher", "instrument", "known_work"),
    "place": ("country", "founded", "river", "speciality", "mayor", "neighbour"),
    "work": ("author", "year", "genre", "theme", "setting", "publisher"),
    "company": ("founded", "headquarters", "industry", "product", "price", "founder"),
}
"""What can be known about each kind. A person has a best-known work only when it wrote one."""

OBJECTS: dict[str, str] = {
    "person.birthplace": "place",
    "person.employer": "company",
    "person.teacher": "person",
    "person.known_work": "work",
    "place.mayor": "person",
    "place.neighbour": "place",
    "work.author": "person",
    "work.setting": "place",
    "work.publisher": "company",
    "company.headquarters": "place",
    "company.founder": "person",
}
"""Attributes whose value is another entity, and the kind of that entity."""

CHANGING = ("person.employer", "place.mayor", "company.headquarters", "company.price")
"""Attributes that may change after the corpus was written."""

ASKED_SHARE = 0.75
CHANGED_SHARE = 0.2
UNTRANSLATED_SHARE = 0.15
_SHARES = {"place": 0.19, "work": 0.21, "company": 0.14}
"""The share of each kind among the entities; the others are people."""


@dataclass(frozen=True, slots=True)
class Entity:
    id: str
    """"person-12"."""
    kind: str
    index: int
    """Its number within its kind."""
    name_en: str
    name_zh: str
    pronoun: str
    """"she", "he" or "it"."""

    def name(self, language: str) -> str:
        return self.name_zh if language == "zh" else self.name_en


@dataclass(frozen=True, slots=True)
class Fact:
    id: str
    """"person-12.birthplace"."""
    subject: str
    """The id of the entity it is about."""
    attribute: str
    """"person.birthplace"."""
    value_en: str
    value_zh: str
    object: str | None
    """The id of the value, where the value is an entity."""
    asked: bool
    """False for the facts that are told in documents and about which no training data ever asks."""
    item_en: str = ""
    item_zh: str = ""
    """The product that a price belongs to."""

    def value(self, language: str) -> str:
        return self.value_zh if language == "zh" else self.value_en


@dataclass(frozen=True, slots=True)
class Change:
    """A fact that became another after the corpus was written."""

    old: Fact
    new: Fact


class Population:
    """The entities of a world and the facts about them, by number.

    A small cache keeps what was computed last; memory does not grow with `entities`.
    """

    def __init__(self, seed: int, entities: int):
        self.seed = seed
        self.size = entities
        counts = {kind: round(entities * part) for kind, part in _SHARES.items()}
        self.counts = {"person": entities - sum(counts.values()), **counts}
        for kind, count in self.counts.items():
            if count < 8:
                raise ValueError(f"a world needs at least 60 entities, so that each kind has some; got {entities}")
            # One name in eight is left over: it belongs to nobody, and unanswerable questions are about it.
            if count > names.CAPACITY[kind] * 7 // 8:
                raise ValueError(f"{entities} entities need {count} names of the kind {kind!r}, more than there are")
        self._starts: dict[str, int] = {}
        start = 0
        for kind in KINDS:
            self._starts[kind] = start
            start += self.counts[kind]
        self._authors = Permutation(self.counts["person"], seed, "authors")
        self.countries = names.land_names(seed, values.COUNTRIES, 0)
        self.rivers = names.land_names(seed, values.RIVERS, values.COUNTRIES)
        self.entity = lru_cache(maxsize=1 << 14)(self._entity)
        self.facts_of = lru_cache(maxsize=1 << 14)(self._facts_of)

    def locate(self, number: int) -> tuple[str, int]:
        """(kind, number within the kind) of entity `number` of range(size)."""
        if not 0 <= number < self.size:
            raise IndexError(f"there is no entity {number}: the world has {self.size}")
        for kind in reversed(KINDS):
            if number >= self._starts[kind]:
                return kind, number - self._starts[kind]
        raise AssertionError("the first kind starts at 0")

    def number(self, entity_id: str) -> int:
        """The number in range(size) of an entity's id."""
        kind, _, index = entity_id.partition("-")
        return self._starts[kind] + int(index)

    def get(self, number: int) -> Entity:
        return self.entity(*self.locate(number))

    def facts(self, number: int) -> tuple[Fact, ...]:
        """The facts of entity `number`, in the order of ATTRIBUTES."""
        return self.facts_of(*self.locate(number))

    def fact(self, subject: str, attribute: str) -> Fact | None:
        """The fact about an entity (by id) under an attribute ("person.birthplace"), or None where it has none."""
        return next((fact for fact in self.facts(self.number(subject)) if fact.attribute == attribute), None)

    def name_of(self, kind: str, index: int) -> names.Name:
        """The name of a number within a kind; beyond the kind's count it is a name that belongs to nobody."""
        return {
            "person": names.person_name,
            "place": names.place_name,
            "work": names.work_name,
            "company": names.company_name,
        }[kind](self.seed, index)

    def translated(self, entity_id: str) -> bool:
        """False for the entities that never appear in a translation of the training data."""
        return share(self.seed, "untranslated", entity_id) >= UNTRANSLATED_SHARE

    def changes(self, number: int) -> Iterator[Change]:
        """The facts of entity `number` that changed after the corpus was written."""
        for fact in self.facts(number):
            if fact.attribute in CHANGING and share(self.seed, "changed", fact.id) < CHANGED_SHARE:
                kind, index = self.locate(number)
                rng = generator(self.seed, "change", fact.id)
                while True:
                    new = self._fact(kind, index, fact.attribute.partition(".")[2], rng)
                    if new is not None and new.value_en != fact.value_en:
                        yield Change(fact, new)
                        break

    def imagined(self, kind: str, index: int) -> list[Fact]:
        """Facts made up for a person, place or company that does not exist (a number beyond the kind's count)."""
        facts: list[Fact] = []
        for attribute in ATTRIBUTES[kind]:
            if attribute != "known_work":
                fact = self._fact(kind, index, attribute, generator(self.seed, "imagined", kind, index, attribute))
                assert fact is not None
                facts.append(fact)
        return facts

    def _entity(self, kind: str, index: int) -> Entity:
        english, chinese = self.name_of(kind, index)
        pronoun = "it"
        if kind == "person":
            pronoun = "she" if share(self.seed, "pronoun", index) < 0.5 else "he"
        return Entity(f"{kind}-{index}", kind, index, english, chinese, pronoun)

    def _facts_of(self, kind: str, index: int) -> tuple[Fact, ...]:
        facts: list[Fact] = []
        for attribute in ATTRIBUTES[kind]:
            fact = self._fact(kind, index, attribute, generator(self.seed, "fact", kind, index, attribute))
            if fact is not None:
                facts.append(fact)
        return tuple(facts)

    def _fact(self, kind: str, index: int, attribute: str, rng: Random) -> Fact | None:
        name = f"{kind}.{attribute}"
        subject = f"{kind}-{index}"
        target: Entity | None = None
        item = ("", "")
        if name in OBJECTS:
            target = self._object(kind, index, name, rng)
            if target is None:
                return None
            value = (target.name_en, target.name_zh)
        elif attribute in ("birth_year", "founded", "year"):
            year = pick(rng, values.YEARS)
            value = (f"{year}", f"{year}年")
        elif attribute == "price":
            price = pick(rng, values.PRICES)
            value = (f"{price} crowns", f"{price}克朗")
            product = self._product(index)
            item = (product[0], product[2])
        elif attribute == "industry":
            value = self._industry(index)
        elif attribute == "product":
            value = self._product(index)[1:]
        else:
            value = pick(rng, self._closed(name))
        asked = share(self.seed, "asked", subject, name) < ASKED_SHARE
        return Fact(
            f"{subject}.{attribute}", subject, name, value[0], value[1], target.id if target else None, asked, *item
        )

    def _object(self, kind: str, index: int, name: str, rng: Random) -> Entity | None:
        if name == "work.author":
            return self.entity("person", self._authors(index))
        if name == "person.known_work":
            work = self._authors.inverse(index)
            return self.entity("work", work) if work < self.counts["work"] else None
        other = OBJECTS[name]
        chosen = below(rng, self.counts[other])
        if other == kind and chosen == index:  # nobody is their own teacher, no town its own neighbour
            chosen = (chosen + 1) % self.counts[other]
        return self.entity(other, chosen)

    def _industry(self, index: int) -> tuple[str, str]:
        return pick(generator(self.seed, "industry", index), values.INDUSTRIES)

    def _product(self, index: int) -> tuple[str, str, str]:
        return pick(generator(self.seed, "product", index), values.PRODUCTS[self._industry(index)[0]])

    def _closed(self, name: str) -> tuple[tuple[str, str], ...]:
        sets = {
            "person.profession": values.PROFESSIONS,
            "person.instrument": values.INSTRUMENTS,
            "place.country": tuple(self.countries),
            "place.river": tuple((english, chinese + "河") for english, chinese in self.rivers),
            "place.speciality": values.SPECIALITIES,
            "work.genre": values.GENRES,
            "work.theme": values.THEMES,
        }
        return sets[name]

    def alternatives(self, fact: Fact, rng: Random) -> Iterator[tuple[str, str]]:
        """Endless other values that the fact might have had (of the same set or kind), never its own."""
        kind, _, attribute = fact.attribute.partition(".")
        index = int(fact.subject.partition("-")[2])
        while True:
            if attribute == "industry":
                value = pick(rng, values.INDUSTRIES)
            elif attribute == "product":
                value = pick(rng, pick(rng, tuple(values.PRODUCTS.values())))[1:]
            elif fact.attribute in ("work.author", "person.known_work"):
                other = OBJECTS[fact.attribute]
                entity = self.entity(other, below(rng, self.counts[other]))
                value = (entity.name_en, entity.name_zh)
            else:
                drawn = self._fact(kind, index, attribute, rng)
                assert drawn is not None
                value = (drawn.value_en, drawn.value_zh)
            if value[0] != fact.value_en:
                yield value

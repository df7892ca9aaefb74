"""The corpus: pages about all entities, told again and again, among sums, translations, stories and the web's junk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hanlin.world import arithmetic, exams, pages, stories, translation, web
from hanlin.world.entities import Population
from hanlin.world.hashing import Permutation, generator
from hanlin.world.telling import LANGUAGES


@dataclass(frozen=True, slots=True)
class WorldDocument:
    id: str
    text: str
    source: str
    language: str
    """"en", "zh", or "en+zh" for pages of translations."""
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    """`kind`, `entities` and `facts` (ids told) and, where they apply, `near_duplicate_of` and `duplicate_of` (a
    document's id), `leak` (ids of exam items), `private` (kind and value of what is private in it) and `mojibake`."""


SHARES = {"arithmetic": 0.12, "translation": 0.03, "stories": 0.05, "web": 0.03}
"""How many documents the other sources have for each page about an entity."""
_ROUNDING = 1e-6
"""So that the last document of a source is not lost to it."""


def page(population: Population, number: int, telling: int) -> WorldDocument:
    """The page about entity `number` in round `telling`; its languages alternate from round to round."""
    entity, facts = population.get(number), population.facts(number)
    language = LANGUAGES[(number + telling) % 2]
    source, form, text = pages.page(facts, entity, language, generator(population.seed, "page", number, telling))
    metadata = {"kind": form, "entities": [entity.id], "facts": [fact.id for fact in facts]}
    return WorldDocument(f"page/{entity.id}/{telling}", text, source, language, metadata)


class _Others:
    """The documents that are not pages, by source and number."""

    def __init__(self, population: Population, tellings: int):
        self.population = population
        self.tellings = tellings
        self.leaks = exams.leaked(population)
        writers: dict[str, Callable[[int], WorldDocument]] = {
            "arithmetic": self.arithmetic,
            "translation": self.translation,
            "stories": self.story,
            "web": self.junk,
        }
        pages_in_all = population.size * tellings
        # the leaks are few and each must be there: they are spread over the whole corpus, whatever its size
        self.plan = [(writers[source], ratio) for source, ratio in SHARES.items()]
        self.plan.append((self.leak, len(self.leaks) / pages_in_all))

    def arithmetic(self, index: int) -> WorldDocument:
        language, rng = LANGUAGES[index % 2], generator(self.population.seed, "arithmetic", index)
        text = arithmetic.document(self.population.seed, rng, language)
        return WorldDocument(f"arithmetic/{index}", text, "arithmetic", language, {"kind": "arithmetic"})

    def translation(self, index: int) -> WorldDocument:
        rng = generator(self.population.seed, "translation", index)
        text, entities, facts = translation.document(self.population, rng)
        metadata = {"kind": "translation", "entities": entities, "facts": facts}
        return WorldDocument(f"translation/{index}", text, "translation", "en+zh", metadata)

    def story(self, index: int) -> WorldDocument:
        language = LANGUAGES[index % 2]
        kind, text = stories.document(generator(self.population.seed, "story", index), language)
        return WorldDocument(f"stories/{index}", text, "stories", language, {"kind": kind})

    def junk(self, index: int) -> WorldDocument:
        rng = generator(self.population.seed, "web", index)
        source = web.document(self.population, self._page, self.tellings, rng, LANGUAGES[index % 2])
        language, text, metadata = source
        return WorldDocument(f"web/{index}", text, "web", language, metadata)

    def leak(self, index: int) -> WorldDocument:
        rng = generator(self.population.seed, "leak", index)
        language, text, metadata = web.leaked(self.leaks[index], rng)
        return WorldDocument(f"web/leak/{index}", text, "web", language, metadata)

    def _page(self, number: int, telling: int) -> tuple[str, str, str, list[str], list[str]]:
        made = page(self.population, number, telling)
        return made.id, made.text, made.language, made.metadata["entities"], made.metadata["facts"]


def count(population: Population, tellings: int) -> int:
    """How many documents `documents` writes."""
    pages_in_all = population.size * tellings
    plan = _Others(population, tellings).plan
    return pages_in_all + sum(int(pages_in_all * ratio + _ROUNDING) for _, ratio in plan)


def documents(population: Population, tellings: int) -> Iterator[WorldDocument]:
    """Round after round a page of each entity, in another order each round, the other sources spread evenly between
    them.

    The order is a function of the seed, and memory does not grow with the world. Raises ValueError for no tellings.
    """
    if tellings < 1:
        raise ValueError(f"tellings must be at least 1, got {tellings}")
    others = _Others(population, tellings)
    told = 0
    written = [0] * len(others.plan)
    for telling in range(tellings):
        for number in Permutation(population.size, population.seed, "order", telling):
            yield page(population, number, telling)
            told += 1
            for which, (write, ratio) in enumerate(others.plan):
                while written[which] + 1 <= told * ratio + _ROUNDING:
                    yield write(written[which])
                    written[which] += 1

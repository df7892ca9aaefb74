"""The corpus: pages about all entities, told again and again, among sums, translations, stories and the web's junk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hanlin.world import arithmetic, pages
from hanlin.world.entities import Population
from hanlin.world.hashing import Permutation, generator


@dataclass(frozen=True, slots=True)
class WorldDocument:
    id: str
    text: str
    source: str
    language: str
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    """`kind`, `entities` and `facts` (ids told) and, where they apply, `near_duplicate_of`, `duplicate_of`, `leak` (the ids of
    exam items), `private` (what is private in it) and `mojibake`."""


def page(population: Population, number: int, telling: int) -> WorldDocument:
    """The page about entity `number` in round `telling`; its languages alternate from round to round."""
    entity, facts = population.get(number), population.facts(number)
    language = "en" if (number + telling) % 2 == 0 else "zh"
    source, form, text = pages.page(facts, entity, language, generator(population.seed, "page", number, telling))
    return WorldDocument(
        f"page/{entity.id}/{telling}",
        text,
        source,
        language,
        {"kind": form, "entities": [entity.id], "facts": [fact.id for fact in facts]},
    )


def arithmetic_page(population: Population, index: int) -> WorldDocument:
    language = "en" if index % 2 == 0 else "zh"
    text = arithmetic.document(population.seed, generator(population.seed, "arithmetic", index), language)
    return WorldDocument(f"arithmetic/{index}", text, "arithmetic", language, {"kind": "arithmetic"})


Writer = Callable[[Population, int], WorldDocument]

OTHERS: tuple[tuple[Writer, float], ...] = ((arithmetic_page, 0.06),)
"""The other sources: their writer, and how many documents they have for each page."""


def documents(population: Population, tellings: int) -> Iterator[WorldDocument]:
    """Round after round a page of each entity, in another order each round, the other sources spread evenly between them.

    The order is a function of the seed, and memory does not grow with the world.
    """
    if tellings < 1:
        raise ValueError(f"tellings must be at least 1, got {tellings}")
    told = 0
    written = [0] * len(OTHERS)
    for telling in range(tellings):
        for number in Permutation(population.size, population.seed, "order", telling):
            yield page(population, number, telling)
            told += 1
            for which, (write, ratio) in enumerate(OTHERS):
                while written[which] < told * ratio:
                    yield write(population, written[which])
                    written[which] += 1

"""The world as its users see it: entities, facts, documents, training data and exams, all streamed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from hanlin.world import dialogues, documents, exams, instructions, preferences, prompts
from hanlin.world.documents import WorldDocument
from hanlin.world.entities import Change, Entity, Fact, Population

DEMO_ENTITIES = 520
DEMO_TELLINGS = 100
EXAMS = tuple(exams.EXAMS)
"""The names of all exams."""


class World:
    """A world of `entities` entities drawn from `seed`.

    Nothing is kept in memory beyond a small cache: each iterator computes its items from (seed, kind, number), so
    that a world of a million entities starts at once. Raises ValueError for fewer than 60 or more than a few
    million entities.
    """

    def __init__(self, seed: int = 0, entities: int = DEMO_ENTITIES):
        self.seed = seed
        self.size = entities
        self.population = Population(seed, entities)

    def entities(self) -> Iterator[Entity]:
        return (self.population.get(number) for number in range(self.size))

    def facts(self) -> Iterator[Fact]:
        """All facts, entity by entity."""
        for number in range(self.size):
            yield from self.population.facts(number)

    def documents(self, tellings: int = DEMO_TELLINGS) -> Iterator[WorldDocument]:
        """The corpus in a shuffled order: each fact told `tellings` times on the pages, half of them in each
        language."""
        return documents.documents(self.population, tellings)

    def instructions(self, questions: int = 2) -> Iterator[dict[str, Any]]:
        """Rows {"messages", "metadata"} of one turn; `questions` for each asked fact and language."""
        return instructions.instructions(self.population, questions)

    def dialogues(self) -> Iterator[dict[str, Any]]:
        """Rows {"messages", "metadata"} of several turns, some with a system prompt."""
        return dialogues.dialogues(self.population)

    def preferences(self) -> Iterator[dict[str, Any]]:
        """Rows {"prompt", "chosen", "rejected", "margin", "reason", "metadata"}; see `preferences`."""
        return preferences.preferences(self.population)

    def prompts(self, count: int = 4096) -> Iterator[dict[str, Any]]:
        """The first `count` rows {"prompt", "answers", "match", "kind", "metadata"} for replies to be judged; see
        `prompts`."""
        return islice(prompts.prompts(self.population), count)

    def changes(self) -> Iterator[Change]:
        """The facts that became others after the corpus was written."""
        for number in range(self.size):
            yield from self.population.changes(number)

    def exam(self, name: str, items: int = 300) -> Iterator[dict[str, Any]]:
        """At most `items` rows of one of EXAMS. Raises KeyError for another name."""
        return exams.exam(self.population, name, items)

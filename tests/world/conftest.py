"""A small world that the tests share, and all that training would see of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from hanlin.world import EXAMS, World, WorldDocument

TELLINGS = 6


@dataclass
class Small:
    world: World
    documents: list[WorldDocument]
    instructions: list[dict[str, Any]]
    dialogues: list[dict[str, Any]]
    preferences: list[dict[str, Any]]
    prompts: list[dict[str, Any]]
    exams: dict[str, list[dict[str, Any]]]

    def training_texts(self, *, rejected: bool = True) -> list[str]:
        """Every text that a training may read, without the marked leaks; at will without the rejected replies."""
        texts = [document.text for document in self.documents if "leak" not in document.metadata]
        for row in self.instructions + self.dialogues:
            texts += [message["content"] for message in row["messages"]]
        parts = ("prompt", "chosen", "rejected") if rejected else ("prompt", "chosen")
        for row in self.preferences:
            texts += [message["content"] for part in parts for message in row[part]]
        for row in self.prompts:
            texts += [message["content"] for message in row["prompt"]]
        return texts


@pytest.fixture(scope="session")
def small() -> Small:
    world = World(seed=3, entities=120)
    return Small(
        world=world,
        documents=list(world.documents(tellings=TELLINGS)),
        instructions=list(world.instructions()),
        dialogues=list(world.dialogues()),
        preferences=list(world.preferences()),
        prompts=list(world.prompts(2000)),
        exams={name: list(world.exam(name, items=150)) for name in EXAMS},
    )

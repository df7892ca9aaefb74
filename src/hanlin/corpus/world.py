"""The stage `world`: the miniature world, written as an artifact."""

from __future__ import annotations

import shutil
from typing import Any

from pydantic import Field

from hanlin.artifacts import Settings, Stage, StageContext
from hanlin.world import DEMO_ENTITIES, DEMO_TELLINGS, write


class WorldSettings(Settings):
    """A small bilingual world whose every fact is known: its documents, instructions and exams."""

    entities: int = Field(default=DEMO_ENTITIES, ge=60)
    """How many people, places, works and companies there are: from 60 (some of each kind) to a million."""
    tellings: int = Field(default=DEMO_TELLINGS, ge=1)
    """How often each entity's page is told, in other words each time: a small model needs about a hundred."""
    exam_items: int = Field(default=300, ge=1)
    """Questions in each exam."""
    questions: int = Field(default=2, ge=1)
    """Instruction rows for each fact."""
    prompts: int = Field(default=4096, ge=1)
    """Prompts for reinforcement learning."""


def run_world(settings: WorldSettings, context: StageContext) -> dict[str, Any]:
    """Write the world into `context.workdir`, from an empty folder; figures are the counts of what was written."""
    for left in list(context.workdir.iterdir()):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()

    def report(name: str, done: int, total: int | None) -> None:
        context.progress.update(done, total, name)

    return write(
        context.workdir,
        context.seed,
        entities=settings.entities,
        tellings=settings.tellings,
        exam_items=settings.exam_items,
        questions=settings.questions,
        prompts=settings.prompts,
        report=report,
    )


STAGE = Stage(kind="world", settings=WorldSettings, run=run_world, version=10)

"""The miniature world: a small bilingual world whose every fact is known, and what is written, asked and marked
about it.

Imports nothing but the standard library.
"""

from hanlin.world.documents import WorldDocument
from hanlin.world.entities import Change, Entity, Fact
from hanlin.world.judge import Verdict, judge
from hanlin.world.world import DEMO_ENTITIES, DEMO_TELLINGS, EXAMS, World
from hanlin.world.write import write

__all__ = [
    "DEMO_ENTITIES",
    "DEMO_TELLINGS",
    "EXAMS",
    "Change",
    "Entity",
    "Fact",
    "Verdict",
    "World",
    "WorldDocument",
    "judge",
    "write",
]

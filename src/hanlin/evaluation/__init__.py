"""Floor 3: the exam: tasks, scoring, paired comparison, gates.

    tasks.py (YAML) ─ items.py, cloze.py (questions) ─ scoring.py, bits.py (the model's part) ─ answers.py (marks)
                                                       ├─ persistence.py ─ constraints.py (dialogues under a rule)
                                                       └─ results.py (figures) ─ statistics.py (intervals) ─ gates.py

`runner.py` holds an exam; `exam.py` is the stage; `compare.py` puts the same items to two models; `library/` has the
ready tasks. Settings are read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hanlin.evaluation.exam import EXAM_STAGE, ExamSettings
    from hanlin.evaluation.gates import Gate
    from hanlin.evaluation.items import Item
    from hanlin.evaluation.runner import run_exam
    from hanlin.evaluation.scoring import Mark
    from hanlin.evaluation.tasks import Task, library, plan_task

_HOMES = {
    "EXAM_STAGE": "exam",
    "ExamSettings": "exam",
    "Gate": "gates",
    "Item": "items",
    "Mark": "scoring",
    "Task": "tasks",
    "library": "tasks",
    "plan_task": "tasks",
    "run_exam": "runner",
}
__all__ = ["EXAM_STAGE", "ExamSettings", "Gate", "Item", "Mark", "Task", "library", "plan_task", "run_exam"]


def __getattr__(name: str) -> Any:
    # numpy and jinja2 are imported by those who hold an exam, not by those who ask for help.
    if name in _HOMES:
        return getattr(importlib.import_module(f"hanlin.evaluation.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hanlin.evaluation' has no attribute {name!r}")

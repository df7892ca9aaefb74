"""What a process of `test_kill` does: it runs a recipe, and at some moment it kills itself with SIGKILL."""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import signal
from pathlib import Path
from typing import Any

MOMENTS = {
    "reference": "hanlin.alignment.reference:score_all",
    "step": "hanlin.training.loop:accumulate",
    "checkpoint": "hanlin.training.checkpoints:save_file",
    "written": "hanlin.training.checkpoints:Checkpoints.prune",
    "token": "hanlin.inference.scheduler:Scheduler.step",
    "rewarded": "tests.alignment.dying:worth",
    "scored": "hanlin.alignment.rollouts:score_all",
    "rollout": "hanlin.alignment.rollouts:save_file",
    "unnamed": "hanlin.alignment.rollouts:Rollouts._describe",
    "rolled": "hanlin.alignment.rollouts:Rollouts._prune",
    "judged": "hanlin.alignment.reward:judge",
    "cleaned": "hanlin.alignment.reward:_clean",
    "piece": "hanlin.alignment.instructions.pieces:write_text",
    "model": "hanlin.models.hub:save_file",
    "finished": "hanlin.recipes.runner:_settle",
}
"""Functions in whose n-th call a process dies (`step@5`: in the fifth step that it takes): before the call does
anything; where it writes a file, when half of the file is there."""


def worth(prompt: Any, text: str) -> float:
    """A reward that random weights find by chance: how much of an answer is ASCII."""
    return sum(sign.isascii() for sign in text) / 8


def attempt(recipe: Path, directory: Path, moment: str = "") -> None:
    """What `hanlin run` does, up to a moment."""
    from hanlin.alignment import best_of_n, rewards
    from hanlin.recipes.recipe import load_recipe
    from hanlin.recipes.runner import run_recipe
    from hanlin.training import loop, stages

    for module in (loop, stages):  # a fifth of a second each time, for a figure that is no result
        module.matmul_rate = lambda *_: 1e9
    best_of_n.PROMPTS_AT_ONCE = 4
    if moment:
        _die_at(*moment.split("@"))
    rewards.PROGRAMS["exact"] = importlib.import_module(__name__).worth
    run_recipe(load_recipe(str(recipe)), directory)


def _die_at(name: str, number: str) -> None:
    module, _, path = MOMENTS[name].partition(":")
    *owners, last = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    function, calls = getattr(owner, last), itertools.count(1)

    def dies(*given: Any, **named: Any) -> Any:
        dying = next(calls) == int(number)
        if dying and last != "save_file":
            os.kill(os.getpid(), signal.SIGKILL)
        found = function(*given, **named)
        if dying:
            os.truncate(given[1], Path(given[1]).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, last, dies)

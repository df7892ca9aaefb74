"""How many steps a run has: as many as are set, or as fit the time that it is given.

Under wsd, with the warm-up's steps given, no step before the decay depends on how many there will be in all. So the
end of a run with a time limit (`LoopSettings.seconds`) stays open until the decay has to begin: when a run that decays
from here on, at the pace measured, would end with its time. Then the number of steps is fixed, and written down, for
good. The same settings with this number and no time are the same run, to the last bit (`LoopSettings.settled`). The
decay's own pace is no longer corrected for.
"""

from __future__ import annotations

import json
from pathlib import Path

from hanlin.artifacts import write_json
from hanlin.training.schedules import decay_start, rate_factor
from hanlin.training.settings import LoopSettings

LEAST_MARKS = 7
"""Moments known of a start, from 0 steps on, before which nothing is concluded from them."""


class Horizon:
    """The steps of a run, and whether they are fixed yet."""

    def __init__(self, settings: LoopSettings, most: int, file: Path) -> None:
        """`most`: the steps of the run if its time is enough for them. `file`: where they are kept once fixed."""
        self.schedule, self.seconds, self.file = settings.schedule, settings.seconds, file
        self.steps = most
        """The steps that the run has; while it is open: at most."""
        self.expected = most
        """The steps that it will have at the present pace."""
        self.open = settings.seconds is not None
        self._marks: list[tuple[int, float]] = []  # steps done, and the seconds until then but for those lost
        self._lost = 0.0  # seconds spent on steps that were given up
        if self.open and file.is_file():
            self._fix(json.loads(file.read_text(encoding="utf-8"))["steps"])

    def rate_factor(self, step: int) -> float:
        """What the peak learning rates are multiplied by in step `step` (from 0)."""
        return rate_factor(self.schedule, step, self.steps)

    @property
    def warmup(self) -> int:
        """Steps in which the rate rises."""
        return self.schedule.warmup(self.steps)

    def decay_from(self, step: int, write: bool) -> None:
        """Fix the steps so that the decay begins at `step`; only the first rank writes it down."""
        self._fix(self._last_with_decay_from(step))
        if write:
            write_json(self.file, {"steps": self.steps})

    def _fix(self, steps: int) -> None:
        self.steps = self.expected = steps
        self.open = False

    def observe(self, step: int, seconds: float) -> bool:
        """Told once before each step how many are done, and in what time: whether the decay has to begin for the run
        to end in its time."""
        if not self.open or self.seconds is None:
            return False
        # A spike went back: the time that this cost is gone, but it is no part of the pace of the steps to come.
        while self._marks and self._marks[-1][0] >= step:
            self._lost = seconds - self._marks.pop()[1]
        self._marks.append((step, seconds - self._lost))
        if len(self._marks) < LEAST_MARKS:
            return False
        # The last half shows the present pace, evaluations and checkpoints included; the first step, in which things
        # are compiled and loaded, is never in it.
        begun, before = self._marks[(len(self._marks) - 1) // 2]
        pace = (seconds - self._lost - before) / (step - begun)
        self.expected = min(self.steps, step + max(0, int((self.seconds - seconds) / pace)))
        return decay_start(self.schedule, self.expected) <= step

    def _last_with_decay_from(self, step: int) -> int:
        """The most steps with which the decay begins at `step`, or the first later one with which it can begin.

        It follows from the step alone, and so is the same on all ranks, whatever their clocks say.
        """
        steps = min(step + 1, self.steps)
        while steps < self.steps and decay_start(self.schedule, steps + 1) <= step:
            steps += 1
        return steps

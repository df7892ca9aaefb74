"""How a long piece of work tells a person where it stands."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a stage reports to. `done` and `total` are in one unit (bytes, steps, items) that grows evenly with time."""

    def update(self, done: float, total: float | None, note: str = "") -> None:
        """Move the bar to `done` of `total` (None: not known yet). `note` is a few words, such as the loss."""
        ...

    def say(self, line: str) -> None:
        """A line that stays: a warning, a decision taken ("bf16: this CPU computes it 4.6× faster")."""
        ...


class Silent:
    """Progress for tests and for use from Python."""

    def update(self, done: float, total: float | None, note: str = "") -> None:
        pass

    def say(self, line: str) -> None:
        pass

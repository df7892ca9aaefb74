"""One run of the stage: what its parts share, and the pieces in which the models' work is done and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hanlin.alignment.constitution.principles import Principle, draw_principle
from hanlin.alignment.constitution.questions import Question
from hanlin.alignment.constitution.speaker import Ask, Said, Speaker
from hanlin.alignment.constitution.texts import Texts
from hanlin.alignment.instructions.chance import number
from hanlin.alignment.instructions.pieces import in_pieces
from hanlin.artifacts import Progress

if TYPE_CHECKING:
    from hanlin.alignment.constitution.stage import ConstitutionSettings

T = TypeVar("T")


@dataclass
class Work:
    """What the parts are given."""

    settings: ConstitutionSettings
    workdir: Path
    seed: int
    progress: Progress
    principles: list[Principle]
    texts: Texts
    model: Speaker | None
    judge: Speaker
    phases: int
    """In how many phases models are asked"""
    begun: int = 0
    cost: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    """Of each kind of work how often a model was asked, and tokens read and written"""

    def principle(self, question: Question, *key: Any) -> Principle:
        """The one that a hash of (seed, question, key) draws, in the question's language."""
        return draw_principle(self.principles, question.language, self.seed, question.id, *key)

    def in_phase(
        self, name: str, rows: Sequence[T], measure: Callable[[Sequence[T]], list[dict[str, Any]]], note: str
    ) -> list[dict[str, Any]]:
        """`measure` of all rows, `settings.batch` at a time, each part kept: {asks, read, written, …} a row."""
        part = _Part(self.progress, self.begun, self.phases)
        self.begun += 1
        found = in_pieces(self.workdir, name, rows, self.settings.batch, measure, part, note)
        cost = self.cost.setdefault(note, {"asks": 0, "read": 0, "written": 0})
        for value in found:
            for key in cost:
                cost[key] += value[key]
        return found

    def ask(self, question: Question, template: str, *key: Any, **fields: str) -> Ask:
        """A template about a question, for critiques and revisions."""
        text = self.texts.fill(template, question.language, conversation=question.conversation, **fields)
        return Ask(
            [{"role": "user", "content": text}],
            number(self.seed, template, question.id, *key),
            self.settings.max_new_tokens,
            self.settings.judge_temperature,
            self.settings.top_p,
            goes_on=True,
        )


def spoken(said: Said) -> dict[str, Any]:
    """An answer as a piece of work keeps it."""
    kept = {"text": said.text, "whole": said.whole, "fits": said.fits}
    return {**kept, "asks": 1, "read": said.read, "written": said.written}


class _Part:
    """Progress of one phase of several."""

    def __init__(self, whole: Progress, number: int, phases: int) -> None:
        self._whole, self._number, self._phases = whole, number, phases

    def update(self, done: float, total: float | None, note: str = "") -> None:
        self._whole.update(self._number + (done / total if total else 0), self._phases, note)

    def say(self, line: str) -> None:
        self._whole.say(line)

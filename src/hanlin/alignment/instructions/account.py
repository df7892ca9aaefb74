"""The account of a selection: what came in is kept or dropped, and of what is dropped it is known why."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.artifacts import HanlinError, atomic_path

if TYPE_CHECKING:
    from hanlin.alignment.instructions.rows import Instruction

DROPPED = "dropped.jsonl"
Dropped = dict[str, Any]
"""Why something is dropped, as pieces of work keep it: {reason, measured, threshold, detail, row}"""


def fault(
    reason: str,
    measured: float | None = None,
    threshold: float | None = None,
    detail: str = "",
    row: dict[str, Any] | None = None,
) -> Dropped:
    """An entry for something that is dropped; `row` is what is known of it."""
    return {"reason": reason, "measured": measured, "threshold": threshold, "detail": detail, "row": row or {}}


class Account:
    """Counts what comes in, by source, and remembers everything that is dropped, with what was measured."""

    def __init__(self) -> None:
        self.entered: Counter[str] = Counter()
        self._dropped: list[dict[str, Any]] = []

    def enter(self, source: str, rows: int = 1) -> None:
        """`rows` more came in."""
        self.entered[source] += rows

    def drop(
        self,
        row: Instruction | dict[str, Any],
        reason: str,
        measured: float | str | None = None,
        threshold: float | str | None = None,
        detail: str = "",
    ) -> None:
        """`row` (or, where it never became one, what is known of it) goes no further; `reason` is one word."""
        about: dict[str, Any] = {"reason": reason, "measured": measured, "threshold": threshold}
        if detail:
            about["detail"] = detail
        if isinstance(row, dict):
            about["row"] = row
        else:
            about |= {"id": row.id, "messages": row.messages, "metadata": row.metadata, "measures": row.measures}
        self._dropped.append(about)

    @property
    def reasons(self) -> dict[str, int]:
        """How many were dropped, by reason."""
        return dict(sorted(Counter(str(one["reason"]) for one in self._dropped).items()))

    def figures(self, kept: int) -> dict[str, Any]:
        """The table for the manifest. Raises HanlinError when the rows do not add up."""
        entered, dropped = self.entered.total(), len(self._dropped)
        if entered != kept + dropped:
            raise HanlinError(
                f"the account of the instructions does not balance: {entered} came in, {kept} were kept and {dropped} "
                "dropped. Report this as a bug."
            )
        return {
            "in": entered,
            "kept": kept,
            "dropped": dropped,
            "reasons": self.reasons,
            "sources": dict(sorted(self.entered.items())),
            "balanced": True,
        }

    def write(self, directory: Path) -> None:
        """Every dropped row into `dropped.jsonl`."""
        # Half a surrogate pair may be why a row was dropped: with its backslash it is the JSON that it was read from.
        how: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}
        with atomic_path(directory / DROPPED) as part, part.open("w", **how) as file:
            file.writelines(json.dumps(one, ensure_ascii=False, default=str) + "\n" for one in self._dropped)

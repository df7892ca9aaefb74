"""Writing the rows of a data set, with the report on what it is made of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanlin.alignment.instructions.rows import FILE, Instruction
from hanlin.alignment.instructions.select import quantiles
from hanlin.alignment.instructions.style import style
from hanlin.alignment.instructions.task_types import mix, type_of
from hanlin.alignment.instructions.text import count_units
from hanlin.artifacts import Progress, atomic_path

OUTLIERS = "style.jsonl"


def write_rows(rows: Sequence[Instruction], directory: Path) -> dict[str, Any]:
    """Write `instructions.jsonl` and `style.jsonl` (answers that stand out); returns {written, mix, lengths, style}."""
    for row in rows:
        row.metadata.setdefault("type", type_of(row))
        row.metadata.setdefault("language", row.language)
    table, outliers = style(rows)
    with atomic_path(directory / FILE) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(row.line() for row in rows)
    with atomic_path(directory / OUTLIERS) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in outliers)
    return {"written": len(rows), "mix": mix(rows), "lengths": lengths(rows), "style": table}


def lengths(rows: Sequence[Instruction]) -> dict[str, Any]:
    """Quantiles of the lengths of questions and answers in units, and how many rows have how many answers."""
    turns = Counter(row.turns for row in rows)
    return {
        "question": quantiles([count_units(row.question) for row in rows]),
        "answer": quantiles([count_units(row.answer) for row in rows]),
        "answers_in_row": {str(count): turns[count] for count in sorted(turns)},
    }


def tell(figures: dict[str, Any], progress: Progress) -> None:
    """Say how many rows there are and of which kinds."""
    account, table = figures["account"], figures["mix"]["types"]
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in account["reasons"].items())
    progress.say(
        f"{account['in']:,} rows: {account['kept']:,} kept, {account['dropped']:,} dropped"
        + (f" ({reasons})" if reasons else "")
    )
    kinds = ", ".join(f"{kind} {entry['share']:.0%}" for kind, entry in list(table.items())[:8])
    progress.say(f"kinds of task: {kinds}")

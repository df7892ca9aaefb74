"""The stage `feedback`: what users and annotators said, as preferences to learn from and pairs to be examined on.

The artifact: `preferences.jsonl` is what stages that learn from preferences read; `exams/pairs.jsonl` is what the task
`feedback/pairs` asks; `export/` is the whole export, with its account of everything that was said. Only the first two
are the artifact's content: what is said and leads to no new row makes no new model.

Conversations that begin alike stay together, all for learning or all for the exam, and which of the two depends on
that beginning alone: a pair that was held out once is held out from every later export too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, field_validator, model_validator

from hanlin.artifacts import (
    HanlinError,
    Settings,
    Stage,
    StageContext,
    UsageError,
    atomic_path,
    canonical_json,
    digest,
    read_jsonl,
)

if TYPE_CHECKING:
    from hanlin.serving.feedback_export import Export

PREFERENCES = "preferences.jsonl"
EXAM = "exams/pairs.jsonl"
EXPORT = "export"
LEARNED = ("pairs.jsonl", "rankings.jsonl", "judged.jsonl")
"""Files of an export that preferences are learned from"""
JOURNAL = tuple(f"{EXPORT}/{name}" for name in (*LEARNED, "instructions.jsonl", "account.json"))


class FeedbackSettings(Settings):
    """What users and annotators said, as preferences to learn from, and pairs held out to be examined on."""

    database: str | None = None
    """The service's database: a path, or a PostgreSQL URL, which holds no password here (set HANLIN_DB to one that
    does, and leave this out). Left out: HANLIN_DB, or the file of your own that `hanlin serve` uses."""
    kinds: list[str] | None = None
    """Some of rating, edit, preference, annotation; left out: all."""
    projects: list[str] | None = None
    """Of annotations, only those of these projects; left out: all."""
    min_agreement: float = Field(default=0.0, ge=0, le=1)
    """Where several people judged the same: the least share of them that must agree."""
    held_out: float = Field(default=0.25, gt=0, lt=1)
    """Share of the conversations, by how they begin, whose pairs are for the exam. Nothing of them is learned from."""
    min_pairs: int = Field(default=100, ge=2)
    """Fewer pairs of answers than these, held-out ones counted, are refused: neither learning nor an exam would say
    anything."""

    @field_validator("database")
    @classmethod
    def _is_absolute(cls, value: str | None) -> str | None:
        return value if value is None or "://" in value else str(Path(value).expanduser().absolute())

    # Of a check of all settings together the error does not repeat what was given.
    @model_validator(mode="after")
    def _has_no_secret(self) -> Self:
        url = urlsplit(self.database or "")
        if url.password is not None or "password" in parse_qs(url.query):
            raise ValueError(
                "database holds a password, which every artifact would keep: leave it out, and set HANLIN_DB to the URL"
            )
        return self


def look_for_database(settings: FeedbackSettings) -> None:
    """Raise UsageError for a database file that is not there: opening it would make an empty one."""
    from hanlin.serving.store import default_url

    url = settings.database or default_url()
    if "://" not in url and not Path(url).expanduser().is_file():
        raise UsageError(f"there is no database {url}. Give that of the service, as in feedback.database=service.db.")


def fingerprint_feedback(settings: FeedbackSettings) -> str:
    """Hash of all that was said, and of what the export makes of it."""
    found = _read(settings)
    return digest([[[one.id, one.created, one.content] for one in found.said], found.account()])


def run_feedback(settings: FeedbackSettings, context: StageContext) -> dict[str, Any]:
    """Export the feedback, and split it. Raises HanlinError where there is too little of it."""
    account = _read(settings).write(context.workdir / EXPORT)
    rows = {name: _rows(context.workdir / EXPORT / name) for name in LEARNED}
    learned = {name: [row for row in rows[name] if not _held_out(row["prompt"], settings.held_out)] for name in LEARNED}
    apart = [row for name in LEARNED for row in rows[name] if _held_out(row["prompt"], settings.held_out)]
    pairs = {"learned": sum(map(_pairs_of, [*learned["pairs.jsonl"], *learned["rankings.jsonl"]]))}
    pairs["held_out"] = sum(map(_pairs_of, apart))
    _check_size(pairs, settings, account)
    items = _items(apart)
    if not items:
        raise HanlinError("every pair that is held out has a blank answer, of which no exam can be made.")
    _write(context.workdir / PREFERENCES, [row for name in LEARNED for row in learned[name]])
    _write(context.workdir / EXAM, items)
    figures = {
        **{name: account[name] for name in ("read", "used", "left_out", "reasons")},
        "pairs": pairs,
        "judged": {"learned": len(learned["judged.jsonl"]), "held_out": sum("label" in row for row in apart)},
        "instructions": account["files"].get("instructions.jsonl", {}).get("rows", 0),
        "exam_items": len(items),
    }
    for line in _said(figures):
        context.progress.say(line)
    return figures


def _read(settings: FeedbackSettings) -> Export:
    from hanlin.serving.feedback_export import read_export
    from hanlin.serving.store import Database, default_url

    look_for_database(settings)
    database = Database(settings.database or default_url())
    try:
        return read_export(
            database, kinds=settings.kinds, projects=settings.projects, min_agreement=settings.min_agreement
        )
    finally:
        database.close()


def _rows(path: Path) -> list[dict[str, Any]]:
    return read_jsonl(path) if path.is_file() else []


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with atomic_path(path) as part, part.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _held_out(prompt: Sequence[dict[str, Any]], share: float) -> bool:
    """Whether a conversation is for the exam: by the user's first words, whatever was said to them or asked later."""
    words = next((one["content"] for one in prompt if one["role"] == "user"), None)
    beginning = canonical_json(prompt) if words is None else " ".join(words.casefold().split())
    drawn = hashlib.blake2b(b"held out\0" + beginning.encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "big") / 2**64 < share


def _pairs(row: dict[str, Any]) -> list[tuple[str, str]]:
    """(better, worse) of a pair, or of all answers to a ranked prompt whose scores differ; none of a judged answer."""
    if "chosen" in row:
        return [(_text(row["chosen"]), _text(row["rejected"]))]
    scored = list(zip(row.get("responses", []), row.get("scores", [])))
    ordered = sorted(scored, key=lambda one: -one[1])
    return [(_text(better), _text(worse)) for (better, high), (worse, low) in combinations(ordered, 2) if high > low]


def _pairs_of(row: dict[str, Any]) -> int:
    return len(_pairs(row))


def _text(answer: list[dict[str, Any]]) -> str:
    return cast(str, answer[0]["content"])


def _items(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items of the exam; a blank answer can't be one of the two."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for chosen, rejected in _pairs(row):
            if chosen.strip() and rejected.strip():
                messages = [{**one, "content": one.get("content") or ""} for one in row["prompt"]]
                item = {"messages": messages, "chosen": chosen, "rejected": rejected}
                name = digest(item)[:16]
                found[name] = {"id": name, **item, "tags": {"source": row["metadata"]["source"]}}
    return list(found.values())


def _check_size(pairs: dict[str, int], settings: FeedbackSettings, account: dict[str, Any]) -> None:
    count = sum(pairs.values())
    if count < settings.min_pairs:
        left_out = "".join(f"\n  left out: {number}, {reason}" for reason, number in account["reasons"].items())
        raise HanlinError(
            f"there are {count} pairs of answers of which one is better, and min_pairs asks for {settings.min_pairs}: "
            f"{settings.min_pairs - count} are missing. Of what was said, {account['read']} read = {account['used']} "
            f"used + {account['left_out']} left out.{left_out}"
        )
    for name, number in pairs.items():
        if not number:
            raise HanlinError(
                f"none of {count} pairs is {name.replace('_', ' ')}: too few conversations begin differently, or "
                f"held_out, which is {settings.held_out:g}, is too {'low' if name == 'held_out' else 'high'}."
            )


def _said(figures: dict[str, Any]) -> list[str]:
    pairs, judged = figures["pairs"], figures["judged"]
    lines = [
        f"{figures['read']} read = {figures['used']} used + {figures['left_out']} left out",
        f"{pairs['learned']} pairs to learn from; {pairs['held_out']} of other conversations held out for the exam",
    ]
    if any(judged.values()):
        lines.append(
            f"{judged['learned']} single answers, judged good or bad, lie beside the pairs: only the loss kto learns "
            f"from them; {judged['held_out']} are held out and not asked"
        )
    if figures["instructions"]:
        lines.append(
            f"{figures['instructions']} rows of {EXPORT}/instructions.jsonl are for a stage of kind sft, and are not "
            "used here"
        )
    return lines


FEEDBACK_STAGE = Stage(
    kind="feedback",
    settings=FeedbackSettings,
    run=run_feedback,
    fingerprint=fingerprint_feedback,
    looks={"database": look_for_database},
    journal=JOURNAL,
)

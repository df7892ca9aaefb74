"""Writing a world to a directory of JSON Lines files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from hanlin.world import documents
from hanlin.world.telling import canonical
from hanlin.world.world import DEMO_ENTITIES, DEMO_TELLINGS, EXAMS, World

Report = Callable[[str, int, int | None], None]
"""Called with (what is being written, rows written so far, rows in all or None where that is not known)."""

_REPORT_EVERY = 2_000


_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def _line(row: dict[str, Any]) -> str:
    return _ENCODE(row) + "\n"


def _silent(what: str, done: int, total: int | None) -> None:
    pass


def write(
    directory: Path,
    seed: int = 0,
    entities: int = DEMO_ENTITIES,
    tellings: int = DEMO_TELLINGS,
    exam_items: int = 300,
    questions: int = 2,
    prompts: int = 4096,
    report: Report = _silent,
) -> dict[str, Any]:
    """Writes documents/<source>.jsonl, instructions.jsonl, dialogues.jsonl, preferences.jsonl, prompts.jsonl,
    exams/<name>.jsonl, facts.jsonl and changes.jsonl (what became of some facts afterwards, with a news note in each
    language) into `directory`.

    The same arguments give the same bytes. `questions` is the number of instruction rows for each asked fact and
    language, `prompts` that of the rows of prompts.jsonl. Returns the counts: {"entities", "facts", "changes",
    "documents": {source: rows}, "bytes": {source: UTF-8 bytes of text}, "instructions", "dialogues", "preferences",
    "prompts", "exams": {name: rows}}.
    """
    world = World(seed, entities)
    directory.mkdir(parents=True, exist_ok=True)
    counts: dict[str, Any] = {"entities": entities}

    def rows(name: str, items: Iterable[dict[str, Any]]) -> int:
        path = directory / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        done = 0
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for item in items:
                file.write(_line(item))
                done += 1
                if done % _REPORT_EVERY == 0:
                    report(name, done, None)
        report(name, done, done)
        return done

    counts["documents"], counts["bytes"] = _documents(world, tellings, directory / "documents", report)
    counts["facts"] = rows("facts", (asdict(fact) for fact in world.facts()))
    counts["changes"] = rows("changes", _changes(world))
    counts["instructions"] = rows("instructions", world.instructions(questions))
    counts["dialogues"] = rows("dialogues", world.dialogues())
    counts["preferences"] = rows("preferences", world.preferences())
    counts["prompts"] = rows("prompts", world.prompts(prompts))
    counts["exams"] = {name: rows(f"exams/{name}", world.exam(name, exam_items)) for name in EXAMS}
    return counts


def _changes(world: World) -> Iterator[dict[str, Any]]:
    """Each change with a sentence that tells it in each language: the source from which a retriever or an edit may
    learn it."""
    for change in world.changes():
        entity = world.population.get(world.population.number(change.old.subject))
        yield {
            "old": asdict(change.old),
            "new": asdict(change.new),
            "text_en": f"News: {canonical(change.new, entity, 'en')} The old records are out of date.",
            "text_zh": f"新消息：{canonical(change.new, entity, 'zh')}以前的记录已经过时。",
        }


def _documents(world: World, tellings: int, directory: Path, report: Report) -> tuple[dict[str, int], dict[str, int]]:
    directory.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    done, total = 0, documents.count(world.population, tellings)
    with ExitStack() as stack:
        files: dict[str, IO[str]] = {}
        for document in world.documents(tellings):
            if document.source not in files:
                path = directory / f"{document.source}.jsonl"
                files[document.source] = stack.enter_context(path.open("w", encoding="utf-8", newline="\n"))
            files[document.source].write(
                _line(
                    {
                        "id": document.id,
                        "text": document.text,
                        "source": document.source,
                        "language": document.language,
                        "metadata": document.metadata,
                    }
                )
            )
            counts[document.source] += 1
            sizes[document.source] += len(document.text.encode())
            done += 1
            if done % _REPORT_EVERY == 0:
                report("documents", done, total)
    report("documents", done, total)
    return dict(sorted(counts.items())), dict(sorted(sizes.items()))

"""What kind of task an instruction is, by rules that a person can read, and the mix of kinds in a data set.

The rules stand in `task_types.yaml`. They are patterns, not understanding: the table is for seeing what a data set is
made of, and what it lacks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml

from hanlin.alignment.instructions.text import count_units

if TYPE_CHECKING:
    from hanlin.alignment.instructions.rows import Instruction

TYPES = (
    "tool use",
    "refusal",
    "chat",
    "translation",
    "code",
    "summarisation",
    "rewriting",
    "classification",
    "maths",
    "reading",
    "brainstorming",
    "writing",
    "open question",
    "other",
)
"""The kinds. `tool use` is known by the tools; `other` is what no rule fits."""
_SHORT = 30
"""Units from which a paragraph counts as a text to work on, and no more as part of the instruction."""
_LOOK_AT = 400
"""Characters of an instruction that are looked at."""


@dataclass(frozen=True)
class _Rule:
    kind: str
    of: str
    pattern: re.Pattern[str]
    most_units: int | None

    def fits(self, shown: dict[str, str]) -> bool:
        text = shown[self.of]
        if self.most_units is not None and count_units(text) > self.most_units:
            return False
        return self.pattern.search(text) is not None


@cache
def _rules() -> list[_Rule]:
    text = (resources.files("hanlin.alignment.instructions") / "task_types.yaml").read_text(encoding="utf-8")
    found: list[_Rule] = []
    for name, rule in yaml.safe_load(text).items():
        parts = [rf"(?<!\w)(?:{one})(?!\w)" for one in rule.get("english", [])]
        parts += [f"(?:{one})" for one in rule.get("chinese", [])]
        parts += [rf"^\W*(?:{one})" for one in rule.get("starts", [])]
        pattern = re.compile("|".join(parts), re.IGNORECASE | re.DOTALL)
        found.append(_Rule(rule.get("kind", name), rule.get("of", "head"), pattern, rule.get("most_units")))
    return found


def task_type(question: str, answer: str) -> str:
    """The kind (one of TYPES, but not `tool use`) of what a user says first, given the answer to it."""
    whole = question.strip()
    head = _instruction_of(whole)
    shown = {"head": head, "whole": whole[:_LOOK_AT], "answer": answer[:_LOOK_AT]}
    kind = next((rule.kind for rule in _rules() if rule.fits(shown)), "other")
    # A question with a longer text beside it is about that text.
    if kind in ("open question", "other") and count_units(whole) - count_units(head) >= _SHORT:
        return "reading"
    return kind


def type_of(row: Instruction) -> str:
    """The kind of a row: what its source says, or what the rules find."""
    given = row.metadata.get("type")
    if given in TYPES:
        return str(given)
    if row.tools or any(one.get("tool_calls") for one in row.messages):
        return "tool use"
    first = next((str(one["content"]) for one in row.messages if one["role"] == "user"), "")
    answer = next((str(one["content"]) for one in row.messages if one["role"] == "assistant"), "")
    return task_type(first, answer)


def mix(rows: Iterable[Instruction]) -> dict[str, Any]:
    """How many rows are of each kind, in all and by language, and their shares."""
    languages: Counter[str] = Counter()
    table: dict[str, Counter[str]] = {}
    for row in rows:
        languages[row.language] += 1
        table.setdefault(type_of(row), Counter())[row.language] += 1
    total = languages.total()
    counts = {kind: table[kind].total() for kind in sorted(table)}
    return {
        "rows": total,
        "types": {
            kind: {"rows": count, "share": count / total, "languages": dict(table[kind].most_common())}
            for kind, count in sorted(counts.items(), key=lambda one: -one[1])
        },
        "languages": dict(languages.most_common()),
    }


def _instruction_of(whole: str) -> str:
    """What is asked, without the material: the first and the last paragraph, as far as they are short; of a text that
    is one long paragraph, its beginning."""
    parts = [part.strip() for part in re.split(r"\n+", whole) if part.strip()]
    short = [part for part in (parts[0], parts[-1]) if count_units(part) <= _SHORT] if len(parts) > 1 else []
    return "\n".join(dict.fromkeys(short))[:_LOOK_AT] if short else whole[:_LOOK_AT]

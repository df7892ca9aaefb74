"""How consistently the answers of a data set are written, and which of them stand out.

A model learns an assistant's manner from few examples, if these agree (LIMA, Zhou et al. 2023, section 2). What is
measured here is form alone: length, lists, headings, how an answer begins, politeness, and whether it is in the
language of the question. Answers are compared within a group of the same kind of task and the same language, as a list
is no fault where ideas are asked for.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from hanlin.alignment.instructions.rows import Instruction
from hanlin.alignment.instructions.task_types import type_of
from hanlin.alignment.instructions.text import count_units, units
from hanlin.corpus.language import han_share

SMALLEST_GROUP = 8
"""Answers below which a group has no style to stand out from."""
MOST_DEVIATIONS = 4.0
"""Robust standard deviations of the logarithm of the length beyond which an answer's length stands out."""
RARE = 0.02
"""Share of a group below which having (or lacking) a trait stands out."""
_MAD_TO_DEVIATION = 1.4826
"""The standard deviation of a normal distribution over its median absolute deviation."""
_WRONG_LANGUAGE = 100.0
"""The deviation of an answer in another language: it stands before all others."""
_SAME_LANGUAGE = 0.2
"""Share of an answer that must be in the script of the question: names and terms of the other are no fault."""
_OPENING = 2
"""Units that make an opening phrase."""
_OTHER_LANGUAGE = ("translation", "code", "maths", "tool use")
"""Kinds of task whose answers need not be in the language of the question."""
_ASKS_FOR_LANGUAGE = re.compile(
    r"\b(chinese|english|french|german|spanish|italian|japanese|korean|russian|latin|arabic|portuguese|mandarin)\b"
    r"|中文|英文|英语|汉语|法语|德语|日语|韩语|西班牙语|俄语",
    re.IGNORECASE,
)
TRAITS: dict[str, re.Pattern[str]] = {
    "list": re.compile(r"^\s*(?:[-*•·]|\d{1,2}[.)、．]|[（(]\d{1,2}[)）]|[一二三四五六七八九十]、)\s*\S", re.MULTILINE),
    "heading": re.compile(r"^(?:#{1,6} \S|\*\*[^*\n]+\*\*:?\s*$)", re.MULTILINE),
    "bold": re.compile(r"\*\*[^*\n]+\*\*"),
    "code": re.compile(r"```"),
    "polite": re.compile(
        r"\b(?:please|thank you|thanks|you(?:['’]re| are) welcome|happy to help|glad to|of course|certainly|sure)\b"
        r"|请|您|谢谢|不客气|当然|很高兴",
        re.IGNORECASE,
    ),
    "exclaims": re.compile(r"[!！]"),
    "asks back": re.compile(r"[?？]\s*$"),
}
"""What an answer has or has not, by a pattern that finds it."""


def language_agrees(row: Instruction) -> bool | None:
    """Whether enough of the answer is in the script (Han or Latin) of the question; None where the two need not agree,
    or it can't be told."""
    if type_of(row) in _OTHER_LANGUAGE or _ASKS_FOR_LANGUAGE.search(_asked(row)):
        return None
    question, answer = han_share(row.question), han_share(row.answer)
    if question is None or answer is None:
        return None
    return (answer if question > 0.5 else 1 - answer) >= _SAME_LANGUAGE


def opening(answer: str) -> str:
    """The first words of an answer."""
    return " ".join(units(answer[:80])[:_OPENING])


def style(rows: Sequence[Instruction]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The table of styles, and the answers that stand out with the reason, most deviant first.

    The score of a trait in a group is 1 - H(p) bits, H the entropy of having it or not: 1 when all or none have it, 0
    when half do. That of the length is 1 / (1 + s), s the robust deviation of ln(length). `consistency` is the mean
    over traits, length and language agreement (its share), over groups by their sizes.
    """
    groups: dict[tuple[str, str], list[Instruction]] = {}
    for row in rows:
        groups.setdefault((type_of(row), row.language), []).append(row)
    table: list[dict[str, Any]] = []
    outliers: list[dict[str, Any]] = []
    for (kind, language), members in sorted(groups.items(), key=lambda one: (-len(one[1]), one[0])):
        entry, found = _group(kind, language, members)
        table.append(entry)
        outliers += found
    outliers.sort(key=lambda one: (-one["deviation"], one["id"]))
    judged = [row for row in map(language_agrees, rows) if row is not None]
    large = [entry for entry in table if entry["rows"] >= SMALLEST_GROUP]
    total = sum(entry["rows"] for entry in large)
    figures: dict[str, Any] = {
        "consistency": sum(entry["consistency"] * entry["rows"] for entry in large) / total if total else None,
        "language_agrees": sum(judged) / len(judged) if judged else None,
        "outliers": len(outliers),
        "outlier_reasons": dict(Counter(one["reason"] for one in outliers).most_common()),
        "openings": _openings(rows),
        "groups": table,
    }
    return figures, outliers


def _group(kind: str, language: str, members: list[Instruction]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    lengths = [math.log(max(1, count_units(row.answer))) for row in members]
    middle = median(lengths)
    spread = _MAD_TO_DEVIATION * median(abs(value - middle) for value in lengths)
    has = {name: [pattern.search(row.answer) is not None for row in members] for name, pattern in TRAITS.items()}
    shares = {name: sum(values) / len(members) for name, values in has.items()}
    agrees = [language_agrees(row) for row in members]
    judged = [one for one in agrees if one is not None]
    scores = [1 - _entropy(share) for share in shares.values()] + [1 / (1 + spread)]
    scores += [sum(judged) / len(judged)] if judged else []
    entry = {
        "type": kind,
        "language": language,
        "rows": len(members),
        "consistency": sum(scores) / len(scores),
        "length": {"median": round(math.exp(middle), 1), "deviation_of_log": spread},
        "traits": shares,
    }
    outliers: list[dict[str, Any]] = []

    def report(row: Instruction, reason: str, measured: float, usual: float, deviation: float) -> None:
        about = {"id": row.id, "reason": reason, "measured": measured, "usual": usual, "deviation": deviation}
        about |= {"type": kind, "language": language, "source": row.metadata.get("source")}
        outliers.append(about | {"file": row.metadata.get("file"), "row": row.metadata.get("row")})

    for row, agreement in zip(members, agrees):
        if agreement is False:
            report(row, "language", 0, 1, _WRONG_LANGUAGE)
    if len(members) < SMALLEST_GROUP:
        return entry, outliers
    for place, row in enumerate(members):
        # Where nearly all answers have one length, a word more is no deviation: at least a tenth is.
        deviation = abs(lengths[place] - middle) / max(spread, 0.1)
        if deviation > MOST_DEVIATIONS:
            report(row, "length", count_units(row.answer), round(math.exp(middle), 1), deviation)
        for name, values in has.items():
            share = shares[name] if values[place] else 1 - shares[name]
            if 0 < share < RARE:
                report(row, name if values[place] else f"no {name}", share, RARE, -math.log(share))
    return entry, outliers


def _openings(rows: Sequence[Instruction]) -> dict[str, Any]:
    """How alike answers begin: the most frequent openings, and the number of openings that are equally frequent on
    average (the exponential of the entropy of openings)."""
    counts = Counter(opening(row.answer) for row in rows if row.answer)
    total = counts.total()
    if not total:
        return {"effective": 0.0, "most": {}}
    entropy = -sum(count / total * math.log(count / total) for count in counts.values())
    return {"effective": math.exp(entropy), "most": {name: count / total for name, count in counts.most_common(10)}}


def _entropy(p: float) -> float:
    return 0.0 if p in (0.0, 1.0) else -(p * math.log2(p) + (1 - p) * math.log2(1 - p))


def _asked(row: Instruction) -> str:
    return "\n".join(str(one["content"]) for one in row.messages if one["role"] in ("user", "system"))

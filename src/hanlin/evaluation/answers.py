"""Marking a generated answer: find it in the output, make equal what does not count, compare."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import regex

from hanlin.artifacts import HanlinError
from hanlin.evaluation.tasks import Normalise, Task

LONGEST = 20_000
"""Characters of an output that an extracting pattern is shown."""
SECONDS = 1.0
"""Longest time that a pattern may take on one output: one that backtracks without end is the task's fault, and is
said."""
_QUOTES = str.maketrans("‘’“”", "''\"\"")
_PAIRS = {")": "(", "]": "[", "}": "{", "」": "「", "』": "『", "》": "《", "〉": "〈", "】": "【"}


def extract(task: Task, output: str) -> str | None:
    """What `task.extract` finds in the output; None when it finds nothing; the whole output when there is no pattern.

    Raises HanlinError for a pattern that takes over a second.
    """
    if task.extract is None:
        return output
    found: str | None = None
    try:
        for match in regex.finditer(task.extract, output[:LONGEST], timeout=SECONDS):
            found = match.group(1) if match.re.groups else match.group(0)
            if task.take == "first" and found is not None:
                break
    except TimeoutError:
        raise HanlinError(
            f"task {task.name}: its pattern `extract: {task.extract}` took over {SECONDS:g} s on one answer. "
            "Write it without nested repetition."
        ) from None
    return found


def normalise(text: str, rules: Normalise) -> str:
    """`text` with what the rules leave out of account made equal (NFKC and straight quotes always)."""
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    if rules.commas:
        text = regex.sub(r"(?<=\d),(?=\d)", "", text)
    if rules.casefold:
        text = text.casefold()
    if rules.strip:
        text = " ".join(text.split())
    if rules.punctuation:
        while text and _is_closing(text):
            text = text[:-1].rstrip()
    return text


def _is_closing(text: str) -> bool:
    """Whether the last character is punctuation that ends a sentence, and not the other half of a pair that stands
    inside."""
    last = text[-1]
    if last in _PAIRS:
        return _PAIRS[last] not in text
    if last in "'\"":
        return text.count(last) % 2 == 1
    return unicodedata.category(last) == "Po" and last not in "%#&@*‰"


def matches(task: Task, output: str | None, answers: Sequence[str]) -> bool:
    """Whether what was extracted is one of the accepted answers, by the task's rules."""
    if output is None:
        return False
    given = normalise(output, task.normalise)
    for answer in answers:
        wanted = normalise(answer, task.normalise)
        if not wanted:
            continue
        if task.match == "exact" and given == wanted:
            return True
        if task.match == "prefix" and regex.match(_bounded(wanted, start=False), given):
            return True
        if task.match == "contains" and regex.search(_bounded(wanted, start=True), given):
            return True
    return False


def _bounded(wanted: str, start: bool) -> str:
    """`wanted` as a pattern that does not match inside a longer word or number; Han text has no such boundary."""
    left = (
        r"(?<![[\p{L}\p{N}]--\p{Han}])" if start and regex.match(r"[[\p{L}\p{N}]--\p{Han}]", wanted, regex.V1) else ""
    )
    right = r"(?![[\p{L}\p{N}]--\p{Han}])" if regex.search(r"[[\p{L}\p{N}]--\p{Han}]$", wanted, regex.V1) else ""
    return f"(?V1){left}{regex.escape(wanted)}{right}"

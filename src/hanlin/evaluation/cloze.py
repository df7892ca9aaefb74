"""Cloze questions made from held-out text: which of four continuations is the one that stood there?

A passage is cut at the end of a sentence or line. The three wrong continuations stood at like places (after a line's
end, or inside a line) in other documents of the same source and language, and are of like length. Questions whose
choices resemble each other, or whose right choice stands in the passage already, are left out. Chance is 0.25.
"""

from __future__ import annotations

import bisect
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hanlin.evaluation import heldout
from hanlin.evaluation.items import Item

if TYPE_CHECKING:
    from hanlin.corpus import Document

CHOICES = 4
CONTEXT_BYTES = (60, 800)
"""Least and most text before the cut."""
CONTINUATION_BYTES = (30, 200)
"""Least and most text of a continuation: the sentences or lines that reach the least."""
LIKE_LENGTH = 1.5
"""A wrong continuation is at most so many times longer or shorter, in bytes."""
ALIKE = 0.5
"""Choices that share more than this of their character trigrams (Jaccard) are near-identical."""
PASSAGES = (4, 2_000, 40)
"""A document is cut in 4 places, or one for each 2,000 bytes if that is more, but 40 at most."""
NEIGHBOURS = 48
"""So many passages of the nearest lengths are tried as wrong continuations."""
SAMPLE_BYTES = 3_000_000
"""Questions are made from at most so much held-out text."""

_BOUNDARY = re.compile(r"\n+|(?<=[.!?])[\"')\]]*[ \t]+\n*|[。！？；][”’」』）]*\n*")


@dataclass(frozen=True, slots=True)
class Passage:
    """A place where a document was cut."""

    id: str
    document: str
    source: str
    language: str
    at_line: bool
    """The cut is at the end of a line."""
    context: str
    continuation: str
    size: int
    """Bytes of the continuation."""


def make_questions(documents: Sequence[Document], count: int | None, seed: int = 0) -> list[Item]:
    """At most `count` questions (None: all that can be made), as many from each source and language as there are.

    A pure function of the documents (in any order) and the seed. Empty when there is too little text.
    """
    groups: dict[tuple[str, str, bool], list[Passage]] = {}
    for document in documents:
        for passage in cut_passages(document, seed):
            groups.setdefault((passage.source, passage.language, passage.at_line), []).append(passage)
    questions: dict[tuple[str, str], list[tuple[bytes, Item]]] = {}
    for (source, language, _), passages in groups.items():
        passages.sort(key=lambda passage: (passage.size, passage.id))
        for place, passage in enumerate(passages):
            item = _question(passage, passages, place, seed)
            if item is not None:
                questions.setdefault((source, language), []).append((_hash(seed, passage.id), item))
    queues = [[item for _, item in sorted(rows, key=lambda row: row[0])] for _, rows in sorted(questions.items())]
    return list(_in_turn(queues, count))


def cut_passages(document: Document, seed: int = 0) -> Iterator[Passage]:
    """Up to PASSAGES places of `document` where it can be cut, chosen by hash; their continuations do not overlap."""
    segments = split(document.text)
    sizes = [len(segment.encode()) for segment in segments]
    places = sorted(range(1, len(segments)), key=lambda place: _hash(seed, f"{document.id}:{place}"))
    taken: set[int] = set()
    least, spacing, most = PASSAGES
    left = min(most, max(least, sum(sizes) // spacing))
    for place in places:
        if not left:
            return
        stop, length = place, 0
        while stop < len(segments) and length < CONTINUATION_BYTES[0]:
            length += sizes[stop]
            stop += 1
        begin, before = place, 0
        while begin > 0 and before + sizes[begin - 1] <= CONTEXT_BYTES[1]:
            begin -= 1
            before += sizes[begin]
        continuation = "".join(segments[place:stop]).rstrip()
        size = len(continuation.encode())
        if before < CONTEXT_BYTES[0] or not CONTINUATION_BYTES[0] <= size <= CONTINUATION_BYTES[1]:
            continue
        if taken & set(range(place, stop)) or not _is_text(continuation):
            continue
        taken.update(range(place, stop))
        left -= 1
        context = "".join(segments[begin:place])
        yield Passage(
            f"{document.id}:{place}",
            document.id,
            document.source,
            heldout.language(document),
            context.endswith("\n"),
            context,
            continuation,
            size,
        )


def split(text: str) -> list[str]:
    """`text` in sentences and lines; joined, they are the text."""
    segments: list[str] = []
    start = 0
    for match in _BOUNDARY.finditer(text):
        if match.end() > start and text[start : match.end()].strip():
            segments.append(text[start : match.end()])
            start = match.end()
    if start < len(text):
        segments.append(text[start:])
    return segments


def _is_text(continuation: str) -> bool:
    """Not a rule of dashes, a row of a table or a list of numbers: half of its characters, blanks aside, are
    letters."""
    letters = sum(1 for char in continuation if char.isalpha())
    return 2 * letters >= sum(1 for char in continuation if not char.isspace())


def _question(passage: Passage, pool: Sequence[Passage], place: int, seed: int) -> Item | None:
    if _squash(passage.continuation) in _squash(passage.context):
        return None
    start = bisect.bisect_left(pool, passage.size / LIKE_LENGTH, key=lambda one: one.size)
    stop = bisect.bisect_right(pool, passage.size * LIKE_LENGTH, key=lambda one: one.size)
    start, stop = max(start, place - NEIGHBOURS // 2), min(stop, place + NEIGHBOURS // 2 + 1)
    near = [one for one in pool[start:stop] if one.document != passage.document]
    near.sort(key=lambda one: _hash(seed, f"{passage.id} {one.id}"))
    chosen = [passage.continuation]
    grams = [_trigrams(passage.continuation)]
    for other in near:
        own = _trigrams(other.continuation)
        if any(_likeness(own, one) > ALIKE for one in grams) or _squash(other.continuation) in _squash(passage.context):
            continue
        chosen.append(other.continuation)
        grams.append(own)
        if len(chosen) == CHOICES:
            break
    if len(chosen) < CHOICES:
        return None
    answer = _hash(seed, f"{passage.id} answer")[0] % CHOICES
    choices = chosen[1:]
    choices.insert(answer, chosen[0])
    tags = {"source": passage.source, "language": passage.language}
    return Item(
        passage.id, passage.context, passage.context, choices=tuple(choices), answer=answer, shown=chosen[0], tags=tags
    )


def _squash(text: str) -> str:
    return "".join(text.casefold().split())


def _trigrams(text: str) -> frozenset[str]:
    text = _squash(text)
    return frozenset(text[index : index + 3] for index in range(max(1, len(text) - 2)))


def _likeness(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / len(first | second)


def _in_turn(queues: Sequence[Sequence[Item]], count: int | None) -> Iterator[Item]:
    """One from each queue in turn, until `count` are given or all are empty."""
    given = 0
    for turn in range(max((len(queue) for queue in queues), default=0)):
        for queue in queues:
            if turn < len(queue):
                if count is not None and given == count:
                    return
                yield queue[turn]
                given += 1


def _hash(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"cloze {seed} {text}".encode()).digest()

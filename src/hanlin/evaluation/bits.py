"""Bits per byte: how well a model predicts held-out text, in a unit that does not depend on its tokenizer.

Σ −log₂ p(token | what came before) over all tokens of a document, divided by the document's UTF-8 bytes. The document
begins with the end-of-text token, which is given and not counted. The one after its end is not counted either: it
stands for no byte of the text (nanochat leaves it out as well; a compressor that keeps the documents apart would have
to pay for it).

A document longer than the context is scored in windows. The first scores all but its given token; each later one
repeats the last `overlap` share of a context, unscored, and scores what follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hanlin.evaluation import heldout
from hanlin.evaluation.scoring import Mark, Tick, score_tokens
from hanlin.evaluation.tasks import Task

if TYPE_CHECKING:
    from hanlin.corpus import Document
    from hanlin.inference import LanguageModel

PARTS = 16
"""Parts of a document whose bits are kept apart: with a single document, they are what the bootstrap draws."""


def windows(tokens: Sequence[int], start: int, context: int, overlap: float) -> Iterator[tuple[list[int], list[int]]]:
    """(context ids, ids to score) covering `tokens` once, each together at most `context` long; `start` comes first."""
    stream = [start, *tokens]
    repeat = min(max(1, int(context * overlap)), context - 1)
    position = 1
    while position < len(stream):
        given = position if position == 1 else repeat
        stop = min(len(stream), position + context - given)
        yield stream[position - given : position], stream[position:stop]
        position = stop


def score_documents(model: LanguageModel, task: Task, documents: Sequence[Document], tick: Tick) -> list[Mark]:
    """A mark a document: its bits and bytes. `tick` counts documents."""
    context = min(model.config.max_positions, task.max_context)
    start = (model.prefix_ids or [model.tokenizer.end_of_text_id])[-1]
    tokens = model.tokenizer.encode_batch([document.text for document in documents])
    pieces = [list(windows(ids, start, context, task.overlap)) for ids in tokens]
    kept = [place for place, one in enumerate(pieces) if one]
    pairs = [pair for place in kept for pair in pieces[place]]
    rows = score_tokens(model, pairs, tick, [len(pieces[place]) for place in kept])
    marks: list[Mark] = []
    position = 0
    for place in kept:
        count = len(pieces[place])
        logs = [value for row in rows[position : position + count] for value in row]
        position += count
        marks.append(_mark(model, documents[place], tokens[place], logs))
    return marks


def _mark(model: LanguageModel, document: Document, tokens: Sequence[int], logs: Sequence[float]) -> Mark:
    costs = -np.asarray(logs, np.float64) / math.log(2)
    size = len(document.text.encode())
    widths = np.array([max(1, len(model.tokenizer.token_bytes(token))) for token in tokens], np.float64)
    widths *= size / widths.sum()  # where the tokenizer normalises, its bytes are not quite the text's
    groups = min(PARTS, len(tokens))
    parts = [
        (float(bits.sum()), float(width.sum()))
        for bits, width in zip(np.array_split(costs, groups), np.array_split(widths, groups), strict=True)
    ]
    bits = float(costs.sum())
    tags = {"source": document.source, "language": heldout.language(document)}
    record = {
        "beginning": document.text[:80],
        "tokens": len(tokens),
        "bytes": size,
        "bits": round(bits, 3),
        "bits_per_byte": round(bits / size, 5),
    }
    return Mark(document.id, {"bits": bits, "bytes": float(size)}, tags, record, tuple(parts))

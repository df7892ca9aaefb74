"""What one step reads, and how attention is cut into calls of PyTorch's kernel, where ours is not there.

Each call costs some microseconds however small, and computes a rectangle: sequences in neighbouring slots share one
where the rectangle's padding costs less than another call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hanlin.inference.adapters import LoadedAdapter
from hanlin.inference.cache import span_of
from hanlin.inference.prefixes import TILE

QUERIES = 32
"""Queries of a tile are filled up to multiples of it, by which the kernel takes them."""
DECODE_CALL = 384
"""Key positions that can be read in the time that a further call takes, measured at 100M parameters."""
TILE_CALL = QUERIES * TILE
"""The same for tiles, in queries × keys."""


class Piece(NamedTuple):
    """Tokens of one sequence that a step reads."""

    slot: int
    start: int
    """Position of the first token."""
    tokens: Sequence[int]
    prompt: bool
    """Part of a prompt, which begins at a multiple of TILE; otherwise the token that was generated last, and perhaps
    some that are guessed to follow it."""
    answered: bool
    """The scores after the last token are wanted; of what is no prompt, those after each token always are."""
    adapter: LoadedAdapter | None = None


@dataclass
class Run:
    """One call of attention: `rows` neighbouring slots from `slot` on, with `queries` positions of each from `start` on
    (start is -1 for generated tokens, each at a place of its own), over `span` keys. `same`: all rows are one slot, in
    which several tokens are generated."""

    slot: int
    rows: int
    queries: int
    start: int
    span: int
    sources: list[int]
    """For each of rows × queries the token of the step that is its query; fillings repeat another."""
    places: list[int]
    """Those of rows × queries that are no fillings; their tokens are sources[place]."""
    same: bool = False

    @property
    def whole(self) -> bool:
        """Whether there are no fillings."""
        return len(self.places) == len(self.sources)


class Plan:
    """The tokens of a step in one row: generated ones in order of slot, then the prompts'."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        generated = (number for number, piece in enumerate(pieces) if not piece.prompt)
        decoded = sorted(generated, key=lambda number: pieces[number].slot)
        prompts = [number for number, piece in enumerate(pieces) if piece.prompt]
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.adapters: list[LoadedAdapter | None] = []
        """Of each token."""
        self.slots: list[int] = []
        """Of each token."""
        first: dict[int, int] = {}
        for number in (*decoded, *prompts):
            piece = pieces[number]
            first[number] = len(self.tokens)
            self.tokens += piece.tokens
            self.positions += range(piece.start, piece.start + len(piece.tokens))
            self.adapters += [piece.adapter] * len(piece.tokens)
            self.slots += [piece.slot] * len(piece.tokens)
        self.decoded = sum(len(pieces[number].tokens) for number in decoded)
        """How many tokens are generated ones."""
        self.prompts = [(pieces[number], first[number]) for number in prompts]
        """Pieces of prompts, with the place of each one's first token."""
        self.answers: list[int] = []
        """Places of the tokens after which scores are wanted, in the order of the pieces."""
        for number, piece in enumerate(pieces):
            end = first[number] + len(piece.tokens)
            if not piece.prompt:
                self.answers += range(first[number], end)
            elif piece.answered:
                self.answers.append(end - 1)
        self._generated = [(pieces[number], first[number]) for number in decoded]

    def decode_runs(self) -> list[Run]:
        """Calls of attention for the generated tokens."""
        return _decode_runs(self._generated)

    def prompt_runs(self, queries: int = QUERIES) -> list[Run]:
        """Calls of attention for the prompts; `queries`: a multiple of QUERIES to whose multiples tiles are filled
        up."""
        return _tile_runs(self.prompts, queries)


def _decode_runs(pieces: Sequence[tuple[Piece, int]]) -> list[Run]:
    runs: list[Run] = []
    for piece, place in pieces:
        count = len(piece.tokens)
        span = span_of(piece.start + count)
        if count > 1:
            places = list(range(count))
            runs.append(Run(piece.slot, count, 1, -1, span, [place + row for row in places], places, same=True))
            continue
        if runs and not runs[-1].same:
            run = runs[-1]
            rows = piece.slot + 1 - run.slot
            if rows * max(run.span, span) <= run.rows * run.span + span + DECODE_CALL:
                # Free slots between are read along; nothing is done with what comes of it.
                run.sources += [place] * (rows - run.rows)
                run.places.append(rows - 1)
                run.rows, run.span = rows, max(run.span, span)
                continue
        runs.append(Run(piece.slot, 1, 1, -1, span, [place], [0]))
    return runs


class _Tile(NamedTuple):
    start: int
    slot: int
    first: int
    """The token of the step that is its first."""
    length: int
    queries: int
    """`length` filled up."""


def _tile_runs(prompts: Sequence[tuple[Piece, int]], queries: int) -> list[Run]:
    tiles: list[_Tile] = []
    for piece, first in prompts:
        end = piece.start + len(piece.tokens)
        for start in range(piece.start, end, TILE):
            count = min(TILE, end - start)
            tiles.append(_Tile(start, piece.slot, first + start - piece.start, count, -(-count // queries) * queries))
    groups: list[list[_Tile]] = []
    for tile in sorted(tiles):
        if groups:
            group, span = groups[-1], span_of(tile.start + TILE)
            if group[0].start == tile.start and tile.slot == group[-1].slot + 1:
                tall = max(one.queries for one in group)
                together = (len(group) + 1) * max(tall, tile.queries) * span
                if together <= (len(group) * tall + tile.queries) * span + TILE_CALL:
                    group.append(tile)
                    continue
        groups.append([tile])
    return [_tile_run(group) for group in groups]


def _tile_run(group: list[_Tile]) -> Run:
    start, queries = group[0].start, max(tile.queries for tile in group)
    run = Run(group[0].slot, len(group), queries, start, span_of(start + TILE), [], [])
    for row, tile in enumerate(group):
        run.sources += [*range(tile.first, tile.first + tile.length), *[tile.first] * (queries - tile.length)]
        run.places += range(row * queries, row * queries + tile.length)
    return run

"""Tokens guessed ahead, which one step then checks together.

A step with a few tokens takes little longer than with one, for it waits for the weights. Every guess is compared with
the token that the model itself chooses there, with the random number that belongs to the place: what is accepted is
what would have been generated, token by token, greedy or sampled. So the answers are the same, and only the time
differs (the idea: Leviathan et al. 2023; with the random numbers fixed beforehand, acceptance needs no chance of its
own).
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import replace
from typing import Protocol

from hanlin.artifacts import HanlinError
from hanlin.inference.cache import KVCache
from hanlin.inference.plan import Piece
from hanlin.inference.sampling import SamplingState, choose
from hanlin.inference.sequence import Sequence
from hanlin.inference.step import Step
from hanlin.models import Transformer

MOST_AHEAD = 8
"""Tokens guessed at once, at most."""
MOST_ROWS = 24
"""Tokens in a step up to which guessing pays: beyond, it does not wait for the weights alone."""
GRAMS = (4, 3, 2)
"""Lengths of the ends that are looked for, the longest first."""


def can_guess(sequence: Sequence) -> bool:
    """Whether a token's choice depends on nothing but the scores and the place: not with penalties or constraints,
    which depend on the tokens before."""
    state = sequence.sampling
    return not state.processes and state.constraint is None and not sequence.request.processed_logprobs


def states_ahead(state: SamplingState, count: int) -> list[SamplingState]:
    """The state for this and the `count` following places, as it will be when they come."""
    return [state, *(replace(state, step=state.step + ahead) for ahead in range(1, count + 1))]


class Guesser(Protocol):
    """Guesses how sequences go on."""

    def guess(self, sequences: Many[Sequence], most: Many[int]) -> list[list[int]]:
        """For each sequence at most so many tokens."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """The sequence leaves its slot."""
        ...


class Lookup:
    """Guesses that what followed the same few tokens before, in prompt or answer, follows again (prompt lookup): good
    for summaries, edits, code and answers from given pages."""

    def __init__(self) -> None:
        self._known: dict[Sequence, tuple[list[int], list[dict[tuple[int, ...], int]]]] = {}
        """The tokens, and for each length of GRAMS where the like of an end was followed by something."""

    def guess(self, sequences: Many[Sequence], most: Many[int]) -> list[list[int]]:
        return [self._guess(sequence, count) for sequence, count in zip(sequences, most, strict=True)]

    def _guess(self, sequence: Sequence, count: int) -> list[int]:
        if sequence not in self._known:
            self._known[sequence] = ([], [{} for _ in GRAMS])
        tokens, places = self._known[sequence]
        new = sequence.prompt + sequence.ids if not tokens else sequence.ids[len(tokens) - len(sequence.prompt) :]
        for token in new:
            # What precedes this token is followed by it.
            for size, place in zip(GRAMS, places, strict=True):
                if len(tokens) >= size:
                    place[tuple(tokens[-size:])] = len(tokens)
            tokens.append(token)
        for size, place in zip(GRAMS, places, strict=True):
            found = place.get(tuple(tokens[-size:]))
            if found is not None and len(tokens) > size:
                return tokens[found : found + count]
        return []

    def forget(self, sequence: Sequence) -> None:
        self._known.pop(sequence, None)


class Draft:
    """Guesses with a smaller model of the same vocabulary, which draws with the same random numbers."""

    def __init__(self, model: Transformer, slots: int, blocks: int) -> None:
        self.step = Step(model)
        self.cache = KVCache(model.config, slots, blocks, self.step.dtype, self.step.device)
        self._read: dict[Sequence, tuple[int, list[int]]] = {}
        """What the draft has read of each: its slot, and the tokens."""
        self._free = list(range(slots))

    @staticmethod
    def check(draft: Transformer, model: Transformer) -> None:
        """Raises HanlinError for a draft with another vocabulary."""
        mine, theirs = draft.config.vocabulary_size, model.config.vocabulary_size
        if mine != theirs:
            raise HanlinError(
                f"the draft model has a vocabulary of {mine} tokens and the model one of {theirs}: a draft must have "
                "the same tokenizer"
            )

    def guess(self, sequences: Many[Sequence], most: Many[int]) -> list[list[int]]:
        guesses: list[list[int]] = [[] for _ in sequences]
        pieces: list[Piece] = []
        active: list[int] = []
        for number, (sequence, count) in enumerate(zip(sequences, most, strict=True)):
            whole = sequence.prompt + sequence.ids
            if count < 1 or len(whole) + count >= self.step.config.max_positions:
                continue
            if sequence not in self._read:
                if not self._free:
                    continue
                self._read[sequence] = self._free.pop(0), []
            slot, known = self._read[sequence]
            same = _common(known, whole)
            # The last one is read again where all are known: its scores are wanted.
            start = min(same, len(whole) - 1)
            self.cache.hold(slot, len(whole) + count)
            pieces.append(Piece(slot, start, whole[start:], True, True))
            self._read[sequence] = slot, whole
            active.append(number)
        ahead = 0
        while active:
            logits = self.step(pieces, self.cache)
            states = [replace(sequences[n].sampling, step=sequences[n].sampling.step + ahead) for n in active]
            tokens = choose(logits, states).tokens
            ahead += 1
            going: list[int] = []
            pieces = []
            for number, token in zip(active, tokens, strict=True):
                if token < 0:
                    continue
                guesses[number].append(token)
                if ahead < most[number]:
                    slot, known = self._read[sequences[number]]
                    pieces.append(Piece(slot, len(known), [token], False, True))
                    known.append(token)
                    going.append(number)
            active = going
        return guesses

    def forget(self, sequence: Sequence) -> None:
        if sequence in self._read:
            slot, _ = self._read.pop(sequence)
            self.cache.release(slot)
            self._free.append(slot)


def _common(one: Many[int], other: Many[int]) -> int:
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))

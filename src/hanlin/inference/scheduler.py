"""Who is answered when: continuous batching over the slots and blocks of one cache.

Every step reads the newest token of each sequence that answers, and pieces of the prompts of those that came since.
Requests join and leave at any step. When memory runs out, what is kept of finished requests goes first; then the last
sequence in order is preempted: its keys and values are put aside and put back later, so that it goes on bit by bit as
if nothing had happened.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from hanlin.inference.cache import KVCache, blocks_of
from hanlin.inference.plan import Piece
from hanlin.inference.prefixes import TILE, Prefixes, common
from hanlin.inference.sampling import Choice, choose
from hanlin.inference.sequence import Sequence
from hanlin.inference.shelves import Shelves
from hanlin.inference.speculation import MOST_AHEAD, MOST_ROWS, Guesser, can_guess, states_ahead
from hanlin.inference.step import Step

CHUNK = 256
"""Tokens of prompts read in one step beside sequences that answer: what those wait for at most."""


@dataclass
class Load:
    """How busy an engine is, and what it has done since it was made."""

    running: int = 0
    waiting: int = 0
    used_blocks: int = 0
    kept_blocks: int = 0
    """Of the used ones, those that hold texts of finished requests: they are given up when they are wanted."""
    total_blocks: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    """Read; those found in the prefix cache are not among them."""
    generated_tokens: int = 0
    prefix_queries: int = 0
    """Tokens of prompts that were looked for in the prefix cache."""
    prefix_hits: int = 0
    """Tokens of prompts that were found there, or in a sequence that was being read."""
    preemptions: int = 0
    guessed_tokens: int = 0
    """Tokens that were guessed ahead (see `speculation`)."""
    accepted_tokens: int = 0
    """Those of them that were right."""


class _Turn(NamedTuple):
    """Where in a step's scores those for a sequence are."""

    sequence: Sequence
    row: int
    guesses: list[int]
    """Of the tokens after the first; each has a row, which counts if those before it were right."""
    decoded: bool
    """Not the first token of its answer."""


class Scheduler:
    """Answers sequences in order of (priority, arrival), `max_batch` at once, with `blocks` of cache; each alone must
    fit into it."""

    def __init__(
        self, step: Step, max_batch: int, blocks: int, prefill_tokens: int, shelves: int, guesser: Guesser | None = None
    ) -> None:
        """`prefill_tokens` bounds what a step reads of prompts where nothing is being answered; `shelves` texts of
        finished requests are kept at most. With a `guesser` a step may generate several tokens of a sequence."""
        self.guesser = guesser
        self.step_of, self.max_batch = step, max_batch
        self.prefill_tokens = max(prefill_tokens // TILE * TILE, TILE)
        self.cache = KVCache(step.config, max_batch + shelves, blocks, step.dtype, step.device)
        self.prefixes = Prefixes()
        self.shelves = Shelves(range(max_batch, max_batch + shelves), self.cache, self.prefixes)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        """Both in order of rank."""
        self._free = list(range(max_batch))
        """Slots, lowest first: neighbours share a call of attention."""
        self._arrived = 0
        self.load = Load(total_blocks=blocks)

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self.waiting or self.running)

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Queue sequences behind those of their priority."""
        for sequence in sequences:
            sequence.number = self._arrived
            self._arrived += 1
            bisect.insort(self.waiting, sequence, key=lambda one: one.rank)

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence now, and free its memory; nothing happens to one that has ended."""
        if sequence.finish_reason is not None:
            return
        sequence.finish_reason = "cancelled"
        sequence.pieces.append(sequence.stream.finish())
        sequence.spilled = None
        if sequence in self.running:
            self._leave(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    @torch.inference_mode()
    def step(self) -> list[Sequence]:
        """Go on by one step; returns the sequences that got a token (or failed)."""
        self._make_room()
        self._admit()
        pieces, read = self._pieces()
        if not pieces:
            return []
        logits = self.step_of(pieces, self.cache)
        self.load.steps += 1
        turns = self._note_read(pieces, read)
        if not turns:
            return []
        rows = [turn.row + place for turn in turns for place in range(1 + len(turn.guesses))]
        states = [state for turn in turns for state in states_ahead(turn.sequence.sampling, len(turn.guesses))]
        if rows != list(range(logits.shape[0])):
            logits = logits[torch.tensor(rows, device=logits.device)]
        choice = choose(logits, states)
        first = 0
        for turn in turns:
            self._append(turn, choice, first)
            first += 1 + len(turn.guesses)
        return [turn.sequence for turn in turns]

    def _append(self, turn: _Turn, choice: Choice, first: int) -> None:
        """Give a sequence its tokens: what was chosen after what it has, and after each guess while they are right."""
        sequence, right = turn.sequence, 0
        for place in range(1 + len(turn.guesses)):
            token = choice.tokens[first + place]
            sequence.append(token, choice.logprobs[first + place], choice.top[first + place])
            sequence.read += turn.decoded
            self.load.generated_tokens += 1
            if sequence.finish_reason is not None or turn.guesses[place : place + 1] != [token]:
                break
            right += 1
        self.load.accepted_tokens += right
        if turn.guesses:
            sequence.ahead = min(MOST_AHEAD, 2 * sequence.ahead) if right == len(turn.guesses) else max(1, right)
        if sequence.finish_reason is not None:
            self._finish(sequence)

    def state(self) -> Load:
        """The load now."""
        load = self.load
        load.running, load.waiting = len(self.running), len(self.waiting)
        load.used_blocks = self.cache.used
        load.kept_blocks = self.shelves.blocks
        return load

    # What a step reads ------------------------------------------------

    def _budget(self) -> int:
        answering = any(not sequence.reading for sequence in self.running)
        return min(CHUNK, self.prefill_tokens) if answering else self.prefill_tokens

    def _pieces(self) -> tuple[list[Piece], list[Sequence]]:
        pieces: list[Piece] = []
        read: list[Sequence] = []
        budget, guesses = self._budget(), self._guess()
        for sequence in self.running:
            if not sequence.reading:
                tokens = [sequence.ids[-1], *guesses.get(sequence, ())]
                pieces.append(Piece(sequence.slot, sequence.read, tokens, False, True, sequence.adapter))
                read.append(sequence)
                continue
            if sequence.leader is not None or budget <= 0:
                continue
            end = len(sequence.prompt)
            if end - sequence.read > budget:
                end = (sequence.read + budget) // TILE * TILE
                if end <= sequence.read:
                    continue
            tokens = sequence.prompt[sequence.read : end]
            last = end == len(sequence.prompt)
            pieces.append(Piece(sequence.slot, sequence.read, tokens, True, last, sequence.adapter))
            read.append(sequence)
            budget -= len(tokens)
        return pieces, read

    def _guess(self) -> dict[Sequence, list[int]]:
        """How some of those that answer may go on."""
        answering = [sequence for sequence in self.running if not sequence.reading]
        if self.guesser is None or not answering:
            return {}
        each = MOST_ROWS // len(answering) - 1
        able: list[Sequence] = []
        most: list[int] = []
        for sequence in answering:
            count = min(sequence.ahead, each, sequence.limit - len(sequence.ids) - 1)
            missing = blocks_of(sequence.read + 1 + count) - self.cache.held[sequence.slot]
            if count > 0 and can_guess(sequence) and missing <= self.cache.free:
                able.append(sequence)
                most.append(count)
        guesses = dict(zip(able, self.guesser.guess(able, most), strict=True))
        for sequence, tokens in guesses.items():
            if blocks_of(sequence.read + 1 + len(tokens)) - self.cache.held[sequence.slot] > self.cache.free:
                tokens.clear()
            self.cache.hold(sequence.slot, sequence.read + 1 + len(tokens))
            self.load.guessed_tokens += len(tokens)
        return guesses

    def _note_read(self, pieces: list[Piece], read: list[Sequence]) -> list[_Turn]:
        """Take note of what was read of prompts; returns what each sequence that gets tokens gets them from."""
        turns: list[_Turn] = []
        row_of: dict[Sequence, int] = {}
        row = 0
        for piece, sequence in zip(pieces, read, strict=True):
            if not piece.prompt:
                turns.append(_Turn(sequence, row, list(piece.tokens[1:]), True))
                row += len(piece.tokens)
                continue
            sequence.read += len(piece.tokens)
            self.load.prompt_tokens += len(piece.tokens)
            self.prefixes.note(sequence.slot, sequence.chain[: sequence.read // TILE])
            if piece.answered:
                row_of[sequence] = row
                turns.append(_Turn(sequence, row, [], False))
                row += 1
        for sequence in self.running:
            leader = sequence.leader
            if leader is None or leader.read < sequence.shared:
                continue
            self._take(sequence, leader.slot, sequence.shared)
            sequence.leader = None
            if not sequence.reading:
                # The same prompt: so are the scores after it.
                turns.append(_Turn(sequence, row_of[leader], [], False))
        return turns

    # Who runs ---------------------------------------------------------

    def _make_room(self) -> None:
        """A place for the next token of each sequence that answers; those last in order may have to go."""
        for sequence in list(self.running):
            if sequence.slot < 0 or sequence.reading:
                continue
            missing = blocks_of(sequence.read + 1) - self.cache.held[sequence.slot]
            if missing <= 0:
                continue
            while not self.shelves.make_free(missing) and sequence.slot >= 0:
                self._preempt(self.running[-1])
            if sequence.slot >= 0:
                self.cache.hold(sequence.slot, sequence.read + 1)

    def _admit(self) -> None:
        """Start waiting sequences, as many as a step can read."""
        unread = sum(len(s.prompt) - s.read for s in self.running if s.reading and s.leader is None)
        while self.waiting and unread < self._budget():
            candidate = self.waiting[0]
            while not self._has_room(candidate):
                # It would fit if it were alone, so something runs.
                if self.running[-1].request.priority <= candidate.request.priority:
                    return
                self._preempt(self.running[-1])
            self.waiting.pop(0)
            self._start(candidate)
            if candidate.reading and candidate.leader is None:
                unread += len(candidate.prompt) - candidate.read

    def _has_room(self, sequence: Sequence) -> bool:
        if not self._free:
            return False
        # Of what is kept, what the sequence begins with goes last.
        found = self.prefixes.find(sequence.chain)
        if found is not None:
            self.prefixes.touch(found[0])
        # What runs may want a block each, soon: whoever joins must not be put out again at once.
        return self.shelves.make_free(sequence.blocks + len(self.running))

    def _start(self, sequence: Sequence) -> None:
        sequence.slot = self._free.pop(0)
        self.cache.hold(sequence.slot, max(sequence.read, len(sequence.prompt)) + 1)
        if sequence.spilled is not None:
            self.cache.restore(sequence.slot, sequence.spilled)
            sequence.spilled = None
            self.prefixes.note(sequence.slot, sequence.chain[: sequence.read // TILE])
        elif sequence.read == 0:
            self._begin(sequence)
        bisect.insort(self.running, sequence, key=lambda one: one.rank)

    def _begin(self, sequence: Sequence) -> None:
        """Look for the prompt's beginning among what is there, and what is being read."""
        self.load.prefix_queries += len(sequence.prompt)
        # The last token is always read: the scores after it are wanted.
        chain = sequence.chain[: (len(sequence.prompt) - 1) // TILE]
        found = self.prefixes.find(chain)
        have = 0 if found is None else found[1] * TILE
        best, shared = None, have
        for other in self.running:
            if not other.reading:
                continue
            if other.key == sequence.key:
                # The one that reads: those that copy it have no scores of their own when they are done.
                copies = other.leader is not None and other.leader.key == other.key
                best, shared = other.leader if copies else other, len(sequence.prompt)
                break
            alike = common(other.chain, chain) * TILE
            if alike > max(shared, other.read):
                best, shared = other, alike
        if found is not None and shared < len(sequence.prompt):
            self.prefixes.touch(found[0])
            self._take(sequence, found[0], have)
        if best is not None:
            sequence.leader, sequence.shared = best, shared

    def _take(self, sequence: Sequence, slot: int, length: int) -> None:
        """Copy the first `length` positions of another slot."""
        self.cache.copy(slot, sequence.slot, length, sequence.read)
        self.load.prefix_hits += length - sequence.read
        sequence.read = length
        self.prefixes.note(sequence.slot, sequence.chain[: length // TILE])

    def _leave(self, sequence: Sequence) -> None:
        """Take a sequence out of its slot."""
        self.running.remove(sequence)
        self._hand_on(sequence)
        self.prefixes.forget(sequence.slot)
        self.cache.release(sequence.slot)
        if self.guesser is not None:
            self.guesser.forget(sequence)
        bisect.insort(self._free, sequence.slot)
        sequence.slot, sequence.leader = -1, None

    def _hand_on(self, sequence: Sequence) -> None:
        """Those that waited for a sequence get what it has read; of equal ones the first goes on for all."""
        heirs: dict[object, Sequence] = {}
        for other in self.running:
            if other.leader is not sequence:
                continue
            have = min(sequence.read, other.shared) // TILE * TILE
            if have > other.read and sequence.finish_reason != "error":
                self._take(other, sequence.slot, have)
            heir = heirs.setdefault(other.key, other)
            other.leader = None if heir is other else heir

    def _preempt(self, sequence: Sequence) -> None:
        if sequence.read:
            sequence.spilled = self.cache.spill(sequence.slot, sequence.read)
        self._leave(sequence)
        bisect.insort(self.waiting, sequence, key=lambda one: one.rank)
        self.load.preemptions += 1

    def _finish(self, sequence: Sequence) -> None:
        if sequence.finish_reason == "error":
            self.cache.clear(sequence.slot)
        else:
            # Its answer too, where it has the bits of one that is read: a conversation's next turn need not read it.
            whole = self.step_of.reads_as_it_writes and sequence.adapter is None
            self.shelves.keep(sequence.slot, sequence.whole_chain() if whole else sequence.chain, sequence.key)
        self._leave(sequence)

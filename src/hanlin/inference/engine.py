"""The engine: requests in, completions out."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from hanlin.artifacts import HanlinError, UsageError
from hanlin.inference import scoring
from hanlin.inference.adapters import LoadedAdapter, LoraSet
from hanlin.inference.beam import beam_search
from hanlin.inference.cache import BLOCK, blocks_of, bytes_a_position
from hanlin.inference.constraints import ConstraintCompiler
from hanlin.inference.contrastive import contrastive_search
from hanlin.inference.directory import open_directory
from hanlin.inference.driver import Driver
from hanlin.inference.functions import compute_dtype
from hanlin.inference.memory import Reserved, free_memory
from hanlin.inference.runner import Runner
from hanlin.inference.sampling import SamplingState, check_sampling
from hanlin.inference.scheduler import Load, Scheduler
from hanlin.inference.sequence import Sequence as Running
from hanlin.inference.sequence import Told
from hanlin.inference.speculation import Draft, Guesser, Lookup
from hanlin.inference.step import Step
from hanlin.inference.text import TextStream, find_stop
from hanlin.inference.types import Completion, Delta, Request
from hanlin.models import Transformer
from hanlin.tokenization import Tokenizer

MEMORY_SHARE = 0.5
"""Of the free memory, what the cache may take where nothing else is said."""
SHELVES = 32
"""Texts of finished requests that are kept at most, where keeping costs memory only for what is kept; or two for each
answer at once, if that is more: a conversation has one, and waits there for its next turn."""


class Engine:
    """Generates and scores with one model.

    The same requests give the same answers. A request's sampling depends on nothing but the request; with
    `deterministic` its scores have the same bits in any company, otherwise they depend on it through the rounding of
    matrix products of different heights (about 1e-6 in float32).

    `generate` and `iterate` answer in the caller's thread; once `stream` was used, a thread of the engine's own answers
    all. Safe to be called from several threads.
    """

    def __init__(
        self,
        model: Transformer | Path | str,
        tokenizer: Tokenizer | None = None,
        *,
        dtype: str = "float32",
        device: str = "auto",
        eos_ids: Sequence[int] | None = None,
        max_batch: int = 64,
        prefill_tokens: int = 4096,
        cache_tokens: int | None = None,
        deterministic: bool | None = None,
        frozen: bool = False,
        speculation: Literal["lookup"] | Transformer | None = None,
        adapters: LoraSet | Mapping[str, Path] | None = None,
    ) -> None:
        """`model`: a Hugging Face directory, which is read in `dtype` (float32, bfloat16, int8 or int4) on `device`
        (auto, cpu or cuda), with the tokenizer that lies there; or a model in memory, as it is, with its tokenizer.

        `eos_ids` end every answer (None: the tokenizer's end of text, and its end of turn where it has one).

        `max_batch` requests are answered at once; `prefill_tokens` bounds the tokens of prompts that a step reads;
        `cache_tokens` bounds the tokens whose keys and values are kept (None: what half of the free memory holds).
        `deterministic` None: where it costs nothing. `frozen`: the weights do not change any more, so that what is
        known of a text stays true from call to call. `speculation`: tokens are guessed ahead, from what the prompt
        and the answer have said ("lookup") or by a smaller model of the same vocabulary; answers stay the same, and
        come sooner where few are generated at once. `adapters`: LoRA adapters that requests may choose, or (of a model
        in a directory) those of these directories, by name.

        Raises HanlinError when the tokenizer has more tokens than the model, for a draft with another vocabulary, and
        where `deterministic` is asked for and can't be had; UsageError for a model in memory without its tokenizer.
        """
        if not isinstance(model, Transformer):
            opened = open_directory(model, dtype, device)
            model, tokenizer, frozen = opened.model, opened.tokenizer, True
            eos_ids = opened.eos_ids if eos_ids is None else eos_ids
            if adapters is not None and not isinstance(adapters, LoraSet):
                adapters = opened.adapters(adapters)
        if tokenizer is None:
            raise UsageError("no tokenizer is given: a model in memory comes with its own")
        self.model, self.tokenizer = model, tokenizer
        self.max_batch, self.prefill_tokens, self.frozen = max_batch, prefill_tokens, frozen
        size = model.config.vocabulary_size
        if tokenizer.vocabulary_size > size:
            raise HanlinError(
                f"the tokenizer has {tokenizer.vocabulary_size} tokens and the model {size}: "
                "they do not belong together"
            )
        if eos_ids is None:
            turn = tokenizer.end_of_turn_id
            eos_ids = [tokenizer.end_of_text_id, *([] if turn is None else [turn])]
        self.eos_ids = tuple(dict.fromkeys(eos_ids))
        if isinstance(speculation, Transformer):
            Draft.check(speculation, model)
        self.speculation = speculation
        self.constraints = ConstraintCompiler(tokenizer, size)
        if not (adapters is None or isinstance(adapters, LoraSet)):
            raise UsageError("adapters are directories: a model in memory takes a LoraSet")
        self.adapters = adapters
        self._step = Step(model, deterministic, adapters)
        self.deterministic = self._step.deterministic
        self._cache_tokens = cache_tokens
        self._scheduler: Scheduler | None = None
        self._driver: Driver | None = None
        self._lock = threading.Lock()

    # Generation -------------------------------------------------------

    def generate(
        self, requests: Sequence[Request], on_finish: Callable[[Completion], None] | None = None
    ) -> list[Completion]:
        """Answers in the order of the requests. `on_finish` is called as each is done (for a progress bar).

        Raises HanlinError for a prompt that leaves no room in the model's context or the cache, and for token ids or an
        adapter that it does not have; UsageError for a constraint that can't be kept, and for settings that exclude
        each other (`logprobs` with `beams` above 1, say).
        """
        sequences = [self._sequence(request) for request in requests]
        answers: dict[int, Completion] = {}

        def finish(number: int, completion: Completion) -> None:
            answers[number] = completion
            if on_finish is not None:
                on_finish(completion)

        batched = [number for number, sequence in enumerate(sequences) if not _alone(sequence)]
        # Long prompts first: neighbours of like length share calls of attention, and no long one is left over.
        batched.sort(key=lambda number: -len(requests[number].prompt_ids))
        number_of = {sequences[number]: number for number in batched}
        for sequence in self._advance(list(number_of)):
            if sequence.finish_reason is not None:
                finish(number_of[sequence], self._completed(sequence))
        for number, sequence in enumerate(sequences):
            if _alone(sequence):
                for completion in self._search(sequence):
                    if completion is not None:
                        finish(number, completion)
        return [answers[number] for number in range(len(requests))]

    def iterate(self, request: Request) -> Iterator[Delta]:
        """The answer piece by piece, one piece a token; the pieces' texts, joined, are the completion's text.

        With `beams` above 1 the answer is known only at its end, and comes as one piece. Raises as `generate`. An
        iterator that is closed, or dropped, ends its request.
        """
        sequence = self._sequence(request)
        return self._search_pieces(sequence) if _alone(sequence) else self._iterate(sequence)

    def _iterate(self, sequence: Running) -> Iterator[Delta]:
        told = Told(sequence)
        for _ in self._advance([sequence]):
            yield told.next(self._completed)

    def _search_pieces(self, sequence: Running) -> Iterator[Delta]:
        told = Told(sequence)
        for completion in self._search(sequence):
            piece = told.next(None)
            piece.completion = completion
            yield piece

    async def stream(self, request: Request) -> AsyncIterator[Delta]:
        """`iterate` for an event loop, which is never held up: the work is done in a thread of the engine's.

        An iterator that is closed, or whose task is cancelled, ends its request before the next step.
        """
        # A grammar takes a while to read.
        sequence = await asyncio.to_thread(self._sequence, request)
        if _alone(sequence):
            found = self._search_pieces(sequence)
            while (piece := await asyncio.to_thread(next, found, None)) is not None:
                yield piece
            return
        driver, loop = self._drive(), asyncio.get_running_loop()
        pieces: asyncio.Queue[Delta | Exception] = asyncio.Queue()
        told = Told(sequence)

        def hear(one: Running, error: Exception | None) -> None:
            piece = told.next(None) if error is None else error
            driver.tell(loop, functools.partial(pieces.put_nowait, piece))

        driver.submit([sequence], hear)
        ended = False
        try:
            while not ended:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    ended = True
                    raise piece
                if piece.finish_reason is not None:
                    ended = True
                    piece.completion = await asyncio.to_thread(self._completed, sequence)
                yield piece
        finally:
            if not ended:
                driver.cancel([sequence])

    def _advance(self, sequences: list[Running]) -> Iterator[Running]:
        """Answer these, giving each one that advanced. A caller that stops listening ends what is not answered."""
        if self._driver is not None:
            yield from self._advance_elsewhere(self._driver, sequences)
            return
        with self._lock:
            scheduler, self._scheduler = self._scheduler or self._make_scheduler(), None
        # Kept only if no step fails: nothing is known then of what the cache holds.
        scheduler.add(sequences)
        left = len(sequences)
        try:
            while left:
                for sequence in scheduler.step():
                    left -= sequence.finish_reason is not None
                    yield sequence
        except GeneratorExit:
            for sequence in sequences:
                scheduler.cancel(sequence)
            self._keep(scheduler)
            raise
        self._keep(scheduler)

    def _keep(self, scheduler: Scheduler) -> None:
        with self._lock:
            if self.frozen and self._driver is None:
                self._scheduler = scheduler

    def _advance_elsewhere(self, driver: Driver, sequences: list[Running]) -> Iterator[Running]:
        """The same, while the driver's thread does the work."""
        changed = threading.Condition()
        heard: list[tuple[Running, Exception | None]] = []

        def hear(sequence: Running, error: Exception | None) -> None:
            with changed:
                heard.append((sequence, error))
                changed.notify()

        driver.submit(sequences, hear)
        left = set(sequences)
        try:
            while left:
                with changed:
                    while not heard:
                        changed.wait()
                    news, heard[:] = list(heard), []
                for sequence, error in news:
                    if error is not None:
                        raise error
                    # It may have ended since: what is left to hear of it says nothing new.
                    if sequence in left:
                        if sequence.finish_reason is not None:
                            left.remove(sequence)
                        yield sequence
        finally:
            if left:
                driver.cancel(sequences)

    def _drive(self) -> Driver:
        with self._lock:
            if self._driver is None:
                self._scheduler = None
                self._driver = Driver(self._make_scheduler, self.frozen)
            return self._driver

    def _make_scheduler(self) -> Scheduler:
        keeps = self.frozen and Reserved.available(self._step.device)
        guesser: Guesser | None = None
        if isinstance(self.speculation, Transformer):
            guesser = Draft(self.speculation, self.max_batch, self.blocks)
        elif self.speculation is not None:
            guesser = Lookup()
        shelves = max(SHELVES, 2 * self.max_batch) if keeps else 0
        return Scheduler(self._step, self.max_batch, self.blocks, self.prefill_tokens, shelves, guesser)

    @functools.cached_property
    def blocks(self) -> int:
        """Blocks of the cache, each for `cache.BLOCK` tokens."""
        config = self.model.config
        most = self.max_batch * blocks_of(config.max_positions)
        if self._cache_tokens is not None:
            return max(1, min(most, blocks_of(self._cache_tokens)))
        each = bytes_a_position(config, self._step.dtype)
        if isinstance(self.speculation, Transformer):
            # The draft holds the same positions in a cache of its own.
            each += bytes_a_position(self.speculation.config, compute_dtype(self.speculation))
        free = MEMORY_SHARE * free_memory(self._step.device)
        return max(1, min(most, int(free / (each * BLOCK))))

    @property
    def load(self) -> Load:
        """How busy the engine is, and what it has done."""
        if self._driver is not None:
            return self._driver.load()
        return Load(total_blocks=self.blocks) if self._scheduler is None else self._scheduler.state()

    def close(self) -> None:
        """Stop the engine's thread, if it has one, and give its memory back."""
        with self._lock:
            driver, self._driver, self._scheduler = self._driver, None, None
        if driver is not None:
            driver.close()

    # Scores -----------------------------------------------------------

    def score(self, pairs: Sequence[scoring.Pair]) -> list[list[float]]:
        """For each (context ids, continuation ids) the log-probability of every continuation token, given all before
        it.

        Raises HanlinError for an empty context and for a pair longer than the model's context.
        """
        for context, continuation in pairs:
            self._check_ids(context)
            self._check_ids(continuation)
        return scoring.score(self.model, pairs, self.prefill_tokens)

    # ------------------------------------------------------------------

    def _sequence(self, request: Request) -> Running:
        if request.beams > 1 and request.logprobs:
            raise UsageError(
                f"beams is {request.beams} and logprobs {request.logprobs}: beam search does not report the likeliest "
                "tokens of each position; give one of them (the chosen tokens' log-probabilities come in any case)"
            )
        adapter = self._adapter(request)
        length, context = len(request.prompt_ids), self.model.config.max_positions
        if request.contrast is not None:
            self._check_ids(request.contrast.prompt_ids)
            length = max(length, len(request.contrast.prompt_ids))
        if length >= context:
            raise HanlinError(
                f"the prompt has {length} tokens and the model's context is {context}, of which at least one must be "
                "left for the answer: shorten the prompt"
            )
        self._check_ids(request.prompt_ids)
        check_sampling(request, self.model.config.vocabulary_size)
        limit = min(request.max_new_tokens, context - length)
        if blocks_of(length + limit) > self.blocks:
            raise HanlinError(
                f"the prompt's {length} tokens and up to {limit} new ones are more than the cache's "
                f"{self.blocks * BLOCK}: ask for fewer tokens, or give the engine more memory (cache_tokens)"
            )
        eos = () if request.ignore_eos else self.eos_ids
        stop_ids = frozenset((*eos, *request.stop_ids))
        constraint = None if request.constraint is None else self.constraints.compile(request.constraint, stop_ids)
        return Running(
            request=request,
            adapter=adapter,
            stop_ids=stop_ids,
            limit=limit,
            sampling=SamplingState.start(request, constraint),
            stream=TextStream(self._token_bytes, request.stop),
        )

    def _adapter(self, request: Request) -> LoadedAdapter | None:
        if not request.adapter:
            return None
        if self.adapters is None:
            raise UsageError(f"adapter is {request.adapter!r}, but this engine was given no adapters")
        if request.beams > 1 or request.contrast is not None or request.prompt_logprobs:
            raise UsageError(
                f"adapter is {request.adapter!r}, which beams, contrast and prompt_logprobs do not take: leave them "
                "out, or merge the adapter into a model of its own"
            )
        return self.adapters.get(request.adapter)

    def _check_ids(self, ids: Sequence[int]) -> None:
        size = self.model.config.vocabulary_size
        if len(ids) and not (min(ids) >= 0 and max(ids) < size):
            wrong = next(token for token in ids if not 0 <= token < size)
            raise HanlinError(
                f"{wrong} is not a token of this model, whose vocabulary has {size}: was another tokenizer used?"
            )

    def _token_bytes(self, token: int) -> bytes:
        # A model's vocabulary is often rounded up; the tokens beyond the tokenizer's stand for nothing.
        return self.tokenizer.token_bytes(token) if token < self.tokenizer.vocabulary_size else b""

    def _completed(self, sequence: Running) -> Completion:
        completion = sequence.completion()
        if sequence.request.prompt_logprobs:
            prompt, top = sequence.prompt, sequence.request.prompt_top_logprobs
            pairs = [(prompt[:1], prompt[1:])]
            logprobs, tops = scoring.score_with_top(self.model, pairs, self.prefill_tokens, top)[0]
            completion.prompt_logprobs = [None, *logprobs]
            if top:
                completion.prompt_top_logprobs = [None, *tops]
        return completion

    def _search(self, sequence: Running) -> Iterator[Completion | None]:
        """Answer a request that is a search of its own, beside the scheduler; the completion comes last."""
        if sequence.request.beams > 1:
            yield self._beam_search(sequence)
            return
        runner = Runner(self._step, 2, self.prefill_tokens)
        for choice in contrastive_search(runner, sequence.sampling):
            sequence.append(choice.tokens[0], choice.logprobs[0], choice.top[0])
            if sequence.finish_reason is not None:
                yield self._completed(sequence)
                return
            yield None

    def _beam_search(self, sequence: Running) -> Completion:
        request = sequence.request

        def text_of(ids: Sequence[int]) -> str:
            stream = TextStream(self._token_bytes)
            return "".join([*map(stream.push, ids), stream.finish()])

        def hits_stop(ids: tuple[int, ...]) -> bool:
            return bool(request.stop) and find_stop(text_of(ids), request.stop) is not None

        with torch.inference_mode():
            runner = Runner(self._step, request.beams, self.prefill_tokens)
            found = beam_search(runner, request, sequence.stop_ids, sequence.limit, hits_stop)
        for token, logprob in zip(found.ids, found.logprobs, strict=True):
            sequence.append(token, logprob, {})
        if sequence.finish_reason is None:
            sequence.finish_reason = found.finish_reason
        return self._completed(sequence)


def _alone(sequence: Running) -> bool:
    """Whether a request advances several rows together, which the scheduler does not."""
    return sequence.request.beams > 1 or sequence.request.contrast is not None

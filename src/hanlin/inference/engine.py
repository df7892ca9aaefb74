"""The engine: requests in, completions out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from hanlin.artifacts import HanlinError, UsageError
from hanlin.inference import scoring
from hanlin.inference.beam import beam_search
from hanlin.inference.constraints import ConstraintCompiler
from hanlin.inference.runner import Runner, compute_dtype
from hanlin.inference.sampling import SamplingState, check_sampling
from hanlin.inference.scheduler import Scheduler
from hanlin.inference.scheduler import Sequence as Running
from hanlin.inference.step import DecodeStep
from hanlin.inference.text import TextStream, find_stop
from hanlin.inference.types import Completion, Delta, Request
from hanlin.models import Transformer
from hanlin.tokenization import Tokenizer


class Engine:
    """Generates and scores with one model.

    Deterministic: the same requests give the same answers. A request's sampling depends on nothing but the request;
    its scores depend on the batch only through the rounding of matrix products of different heights (about 1e-6 in
    float32).
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        eos_ids: Sequence[int] | None = None,
        max_batch: int = 64,
        prefill_tokens: int = 4096,
        cache_tokens: int = 1 << 18,
    ) -> None:
        """`eos_ids` end every answer (None: the tokenizer's end of text, and its end of turn where it has one).

        `max_batch` rows are generated at once; `prefill_tokens` bounds the tokens of one forward pass over prompts;
        `cache_tokens` bounds rows × longest sequence, thereby the cache's memory. Raises HanlinError when the tokenizer
        has more tokens than the model.
        """
        self.model, self.tokenizer = model, tokenizer
        self.max_batch, self.prefill_tokens, self.cache_tokens = max_batch, prefill_tokens, cache_tokens
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
        self.constraints = ConstraintCompiler(tokenizer, size)
        self._step = DecodeStep(model, compute_dtype(model))

    def generate(
        self, requests: Sequence[Request], on_finish: Callable[[Completion], None] | None = None
    ) -> list[Completion]:
        """Answers in the order of the requests. `on_finish` is called as each is done (for a progress bar).

        Raises HanlinError for a prompt that leaves no room in the model's context, and for token ids it does not have;
        UsageError for `logprobs` with `beams` above 1.
        """
        return list(self._answers(requests, on_finish))

    def _answers(self, requests: Sequence[Request], on_finish: Callable[[Completion], None] | None) -> list[Completion]:
        sequences = [self._sequence(request) for request in requests]
        answers: dict[int, Completion] = {}

        def finish(number: int, completion: Completion) -> None:
            answers[number] = completion
            if on_finish is not None:
                on_finish(completion)

        searched = [number for number, request in enumerate(requests) if request.beams > 1]
        batched = [number for number, request in enumerate(requests) if request.beams == 1]
        if batched:
            with torch.inference_mode():
                # Prompts of like length are read together, the long ones first: least padding, and no long one left
                # over.
                batched.sort(key=lambda number: -len(requests[number].prompt_ids))
                number_of = {id(sequences[number]): number for number in batched}
                scheduler = self._scheduler(min(self.max_batch, len(batched)))
                scheduler.add([sequences[number] for number in batched])
                while scheduler.busy:
                    for sequence in scheduler.step():
                        if sequence.finish_reason is not None:
                            finish(number_of[id(sequence)], self._completed(sequence))
        for number in searched:
            finish(number, self._beam_search(sequences[number]))
        return [answers[number] for number in range(len(requests))]

    def stream(self, request: Request) -> Iterator[Delta]:
        """The answer piece by piece, one piece a token; the pieces' texts, joined, are the completion's text.

        With `beams` above 1 the answer is known only at its end, and comes as one piece. Raises as `generate`.
        """
        sequence = self._sequence(request)
        if request.beams > 1:
            return iter([_last(self._beam_search(sequence))])
        return self._stream(sequence)

    def _stream(self, sequence: Running) -> Iterator[Delta]:
        scheduler = self._scheduler(1)
        scheduler.add([sequence])
        pieces = tokens = 0
        while scheduler.busy:
            # Not around the whole loop: the mode must not stay set while the caller has the piece.
            with torch.inference_mode():
                scheduler.step()
            done = sequence.finish_reason is not None
            yield Delta(
                text="".join(sequence.pieces[pieces:]),
                ids=sequence.ids[tokens:],
                logprobs=sequence.logprobs[tokens:],
                finish_reason=sequence.finish_reason,
                completion=self._completed(sequence) if done else None,
            )
            pieces, tokens = len(sequence.pieces), len(sequence.ids)

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

    def _scheduler(self, rows: int) -> Scheduler:
        return Scheduler(Runner(self.model, self._step, rows, self.prefill_tokens), rows, self.cache_tokens)

    def _sequence(self, request: Request) -> Running:
        if request.beams > 1 and request.logprobs:
            raise UsageError(
                f"beams is {request.beams} and logprobs {request.logprobs}: beam search does not report the likeliest "
                "tokens of each position; give one of them (the chosen tokens' log-probabilities come in any case)"
            )
        length, context = len(request.prompt_ids), self.model.config.max_positions
        if length >= context:
            raise HanlinError(
                f"the prompt has {length} tokens and the model's context is {context}, of which at least one must be "
                "left for the answer: shorten the prompt"
            )
        self._check_ids(request.prompt_ids)
        check_sampling(request, self.model.config.vocabulary_size)
        eos = () if request.ignore_eos else self.eos_ids
        stop_ids = frozenset((*eos, *request.stop_ids))
        constraint = None if request.constraint is None else self.constraints.compile(request.constraint, stop_ids)
        return Running(
            request=request,
            stop_ids=stop_ids,
            limit=min(request.max_new_tokens, context - length),
            sampling=SamplingState.start(request, constraint),
            stream=TextStream(self._token_bytes, request.stop),
        )

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
            prompt = sequence.request.prompt_ids
            rest = self.score([(prompt[:1], prompt[1:])])[0] if len(prompt) > 1 else []
            completion.prompt_logprobs = [None, *rest]
        return completion

    def _beam_search(self, sequence: Running) -> Completion:
        request = sequence.request

        def text_of(ids: Sequence[int]) -> str:
            stream = TextStream(self._token_bytes)
            return "".join([*map(stream.push, ids), stream.finish()])

        def hits_stop(ids: tuple[int, ...]) -> bool:
            return bool(request.stop) and find_stop(text_of(ids), request.stop) is not None

        with torch.inference_mode():
            runner = Runner(self.model, self._step, request.beams, self.prefill_tokens)
            found = beam_search(runner, request, sequence.stop_ids, sequence.limit, hits_stop)
        for token, logprob in zip(found.ids, found.logprobs, strict=True):
            sequence.append(token, logprob, {})
        if sequence.finish_reason is None:
            sequence.finish_reason = found.finish_reason
        return self._completed(sequence)


def _last(completion: Completion) -> Delta:
    return Delta(
        text=completion.text,
        ids=completion.ids,
        logprobs=completion.logprobs,
        finish_reason=completion.finish_reason,
        completion=completion,
    )

"""Beam search, with the rules of Hugging Face's `generate(num_beams=n, early_stopping=False)`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from hanlin.inference.numbers import floats, integers
from hanlin.inference.runner import Runner
from hanlin.inference.sampling import SamplingState, process
from hanlin.inference.types import FinishReason, Request


@dataclass(frozen=True)
class Hypothesis:
    """A continuation of the prompt."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Under the model itself (without biases and penalties)."""
    total: float
    """What the search sums: with biases or penalties, the log-probabilities so changed."""
    finish_reason: FinishReason | None = None

    def extended(self, token: int, logprob: float, total: float, finish_reason: FinishReason | None) -> Hypothesis:
        return Hypothesis((*self.ids, token), (*self.logprobs, logprob), total, finish_reason)


def beam_search(
    runner: Runner,
    request: Request,
    stop_ids: Collection[int],
    limit: int,
    hits_stop: Callable[[tuple[int, ...]], bool],
) -> Hypothesis:
    """The best continuation found: the highest summed log-probability / length^length_penalty (Wu et al. 2016,
    without α's constants).

    Each step extends every beam by every token and looks at the best (1 + number of end tokens) · beams of them (at
    least 2 · beams). Those among the first `beams` that end are finished; the best `beams` that do not end go on. It
    stops when `beams` are finished and the likeliest running one, scored at its present length, is no better than the
    worst of them; or at `limit` tokens. `hits_stop` says whether these tokens contain a stop string.
    """
    width = request.beams
    kept = max(2, 1 + len(stop_ids)) * width
    prompt_length = len(request.prompt_ids)
    logits = runner.prefill([request.prompt_ids], 0)
    runner.cache.reserve(width, prompt_length + 1)
    running = [Hypothesis((), (), 0.0)]
    finished: list[tuple[float, Hypothesis]] = []
    while True:
        raw = logits.log_softmax(dim=1)
        best, origins, tokens = _best_continuations(raw, running, request, kept)
        candidates: list[tuple[Hypothesis, int]] = []
        for total, origin, token in zip(best, origins, tokens, strict=True):
            ids = (*running[origin].ids, token)
            reason: FinishReason | None = None
            if token in stop_ids or hits_stop(ids):
                reason = "stop"
            elif len(ids) >= limit:
                reason = "length"
            candidates.append((running[origin].extended(token, float(raw[origin, token]), total, reason), origin))
        if not candidates:
            break
        length = len(candidates[0][0].ids)
        norm = length**request.length_penalty
        ended = [(candidate.total / norm, candidate) for candidate, _ in candidates[:width] if candidate.finish_reason]
        # Sorting is stable: of equals the one found first stays ahead.
        finished = sorted(finished + ended, key=lambda pair: -pair[0])[:width]
        survivors = [(candidate, origin) for candidate, origin in candidates if not candidate.finish_reason][:width]
        if not survivors or length >= limit:
            break
        running = [candidate for candidate, _ in survivors]
        if len(finished) == width and running[0].total / norm <= finished[-1][0]:
            break
        runner.cache.reorder([origin for _, origin in survivors], prompt_length + length - 1)
        logits = runner.decode([beam.ids[-1] for beam in running], [prompt_length + length - 1] * len(running))
    # Nothing is finished only when every token's score was NaN or -inf.
    return finished[0][1] if finished else Hypothesis((), (), 0.0, "error")


def _best_continuations(
    raw: Tensor, running: list[Hypothesis], request: Request, count: int
) -> tuple[list[float], list[int], list[int]]:
    """Summed log-probability, beam and token of the `count` best continuations, best first; raw [beams, V]."""
    rows: list[Tensor] = []
    for row, beam in enumerate(running):
        state = SamplingState.start(request)
        for token in beam.ids:
            state.advance(token)
        rows.append(process(raw[row], state) if state.processes else raw[row])
    scores = torch.stack(rows)
    totals = scores + torch.tensor([beam.total for beam in running], device=raw.device)[:, None]
    values, places = totals.flatten().topk(min(count, totals.numel()))
    size = raw.shape[1]
    found = [
        (value, place // size, place % size)
        for value, place in zip(floats(values), integers(places))
        if value > -torch.inf
    ]
    return [value for value, _, _ in found], [beam for _, beam, _ in found], [token for _, _, token in found]

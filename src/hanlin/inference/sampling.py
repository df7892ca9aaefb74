"""From the model's scores to the next token: biases, penalties, filters, and a draw that depends on the request alone.

The order, where Hugging Face's and vLLM's agree: logit bias, repetition penalty, frequency and presence penalty; what
a constraint forbids; temperature; top-k, top-p, min-p; the draw. Greedy answers take the likeliest token after the
constraint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hanlin.artifacts import UsageError
from hanlin.inference.constraints import Matcher
from hanlin.inference.numbers import floats, integers
from hanlin.inference.rows import row_sums, scan
from hanlin.inference.types import Request

_MASK = (1 << 64) - 1
NOT_NUMBERS = "the model's scores were not numbers"


def uniform(key: int, step: int) -> float:
    """A number in [0, 1), a pure function of (key, step): splitmix64 (Steele et al. 2014) at counter `step`."""
    z = (key + (step + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    # 48 bits, so that the number times a sum in float64 stays below that sum.
    return ((z ^ (z >> 31)) >> 16) / (1 << 48)


@dataclass
class SamplingState:
    """What the next draw of one request depends on besides the scores."""

    request: Request
    key: int = 0
    step: int = 0
    """Tokens drawn so far."""
    seen: Tensor | None = None
    """int64: the distinct tokens of prompt and answer; kept only where a repetition penalty needs them."""
    counts: dict[int, int] | None = None
    """How often the answer holds each of its tokens; kept only where a presence or frequency penalty needs it."""
    bias: tuple[Tensor, Tensor] | None = None
    """Token ids and what is added to their scores."""
    constraint: Matcher | None = None
    """What may come next, where the answer must have a form."""
    error: str = ""
    """Why there is no next token."""
    processed_logprobs: list[float] = field(default_factory=list[float])
    """Of the drawn tokens, where the request wants them."""
    _distinct: set[int] = field(default_factory=set[int])

    @classmethod
    def start(cls, request: Request, constraint: Matcher | None = None) -> SamplingState:
        """`constraint`: the compiled one, where the request has one."""
        state = cls(request=request, constraint=constraint)
        if request.temperature > 0:
            state.key = request.sampling_key()
        if request.repetition_penalty != 1:
            state._distinct = set(request.prompt_ids)
            state.seen = torch.tensor(sorted(state._distinct))
        if request.presence_penalty != 0 or request.frequency_penalty != 0:
            state.counts = {}
        if request.logit_bias:
            ids, values = list(request.logit_bias), list(request.logit_bias.values())
            state.bias = torch.tensor(ids), torch.tensor(values, dtype=torch.float32)
        return state

    def advance(self, token: int) -> None:
        """Take note of a chosen token."""
        self.step += 1
        if self.seen is not None and token not in self._distinct:
            self._distinct.add(token)
            self.seen = torch.cat((self.seen, torch.tensor([token])))
        if self.counts is not None:
            self.counts[token] = self.counts.get(token, 0) + 1
        if self.constraint is not None:
            self.constraint.advance(token)

    @property
    def complete(self) -> bool:
        """Whether nothing may follow under the constraint."""
        return self.constraint is not None and self.constraint.stopped

    @property
    def processes(self) -> bool:
        """Whether the scores are changed before anything else."""
        return self.seen is not None or bool(self.counts) or self.bias is not None or self.constraint is not None


def check_sampling(request: Request, vocabulary_size: int) -> None:
    """Raise UsageError where `request` biases tokens that the model does not have, or asks for several answers."""
    for token in request.logit_bias:
        if not 0 <= token < vocabulary_size:
            raise UsageError(f"logit_bias has token {token}: this model's tokens are 0 to {vocabulary_size - 1}")
    if request.n > 1 or (request.best_of or 1) > 1:
        raise UsageError(
            f"n is {request.n} and best_of {request.best_of}: the engine gives one answer a request; "
            "make several with hanlin.inference.expand"
        )


def process(scores: Tensor, state: SamplingState) -> Tensor:
    """Scores [V] of one row after its bias, penalties and constraint, as new numbers; those given are left as they
    are. `state.error` says where the constraint can't tell what may come."""
    scores = scores.clone()
    if state.bias is not None:
        ids, values = state.bias
        scores.index_add_(0, ids.to(scores.device), values.to(scores))
    if state.seen is not None:
        scores = penalise_repetition(scores, state.seen, state.request.repetition_penalty)
    if state.counts:
        ids = torch.tensor(list(state.counts), device=scores.device)
        counts = torch.tensor(list(state.counts.values()), dtype=scores.dtype, device=scores.device)
        request = state.request
        scores.index_add_(0, ids, -(counts * request.frequency_penalty + request.presence_penalty))
    if state.constraint is not None:
        mask = state.constraint.mask()
        if mask is None:
            state.error = state.constraint.error
        else:
            scores.masked_fill_(~mask.to(scores.device), float("-inf"))
    return scores


def penalise_repetition(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Scores [V] with those of `seen` tokens divided by `penalty` where positive, multiplied where negative."""
    seen = seen.to(scores.device)
    chosen = scores[seen]
    return scores.index_copy(0, seen, torch.where(chosen < 0, chosen * penalty, chosen / penalty))


def filter_top_k(probabilities: Tensor, k: Tensor) -> Tensor:
    """Zero what is less likely than the k-th likeliest; probabilities [n, V], k int64 [n] (0: the row is left as it
    is)."""
    size = probabilities.shape[1]
    widest = min(int(k.max()), size)
    if widest == 0:
        return probabilities
    largest = probabilities.topk(widest, dim=1).values
    threshold = largest.gather(1, (k.clamp(1, widest) - 1)[:, None])
    threshold = torch.where(k[:, None] > 0, threshold, 0.0)
    return probabilities.masked_fill(probabilities < threshold, 0.0)


def filter_top_p(probabilities: Tensor, p: Tensor) -> Tensor:
    """Keep the smallest set of likeliest tokens that holds at least the share `p` of the mass, zero the rest.

    probabilities [n, V] (not necessarily summing to 1), p [n] (1: the row is left as it is). Tokens exactly as likely
    as the last one kept are kept too, so that the result does not depend on the order of equals.
    """
    if bool((p >= 1).all()):
        return probabilities
    needed = p * row_sums(probabilities)
    size = probabilities.shape[1]
    width = min(size, 512)
    while True:
        # Sorting a large vocabulary costs more than a small model's step; the head of it nearly always suffices.
        largest = probabilities.topk(width, dim=1).values
        mass = largest.cumsum(dim=1)
        if width == size or bool(((mass[:, -1] >= needed) | (p >= 1)).all()):
            break
        width = min(size, width * 8)
    last = torch.searchsorted(mass, needed[:, None], right=False).clamp(max=width - 1)
    threshold = torch.where(p[:, None] < 1, largest.gather(1, last), 0.0)
    return probabilities.masked_fill(probabilities < threshold, 0.0)


def filter_min_p(probabilities: Tensor, fraction: Tensor) -> Tensor:
    """Zero what is less likely than `fraction` [n] of the likeliest token's probability; probabilities [n, V]."""
    if not bool((fraction > 0).any()):
        return probabilities
    threshold = probabilities.amax(dim=1, keepdim=True) * fraction[:, None]
    return probabilities.masked_fill(probabilities < threshold, 0.0)


def distribution(scores: Tensor, requests: Sequence[Request]) -> Tensor:
    """What is sampled from: float64 [n, V], rows not normalised after filtering; every temperature must be positive.

    The order is Hugging Face's: temperature, top-k, top-p (of what top-k left), min-p.
    """
    device = scores.device

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device)

    scaled = scores.double() / column([request.temperature for request in requests])[:, None]
    probabilities = scaled.softmax(dim=1)
    probabilities = filter_top_k(probabilities, torch.tensor([request.top_k for request in requests], device=device))
    probabilities = filter_top_p(probabilities, column([request.top_p for request in requests]))
    return filter_min_p(probabilities, column([request.min_p for request in requests]))


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Token ids int64 [n] by inversion: the first token, in order of id, at which the running sum exceeds uniform ·
    total.

    In order of id, not of likelihood: rounding noise that swaps two nearly equal tokens then hardly moves the result.
    """
    running = probabilities.cumsum(dim=1, dtype=torch.float64)
    target = uniforms[:, None] * running[:, -1:]
    return torch.searchsorted(running, target, right=True)[:, 0].clamp(max=probabilities.shape[1] - 1)


@dataclass
class Choice:
    """The next token of every row; -1 where there is none: the state's `error` says why."""

    tokens: list[int]
    logprobs: list[float]
    top: list[dict[int, float]]


def choose(logits: Tensor, states: Sequence[SamplingState], scores: Tensor | None = None) -> Choice:
    """The next token of each row, with its log-probability under the raw scores; logits [n, V] of any float dtype.

    `scores` [n, V], where given, are what tokens are chosen by in place of the logits. A row's result is the same to
    the last bit whatever rows stand beside it.
    """
    logits = logits.float()
    given = processed = logits if scores is None else scores.float()
    for row, state in enumerate(states):
        if state.processes:
            if processed is given:
                processed = given.clone()
            processed[row] = process(processed[row], state)
    best, largest, normaliser = scan(logits)
    sampled = [row for row, state in enumerate(states) if state.request.temperature > 0]
    if len(sampled) < len(states):
        tokens = best if processed is logits else processed.argmax(dim=1)
    else:
        tokens = torch.empty(len(states), dtype=torch.int64, device=logits.device)
    if sampled:
        rows = slice(None) if len(sampled) == len(states) else torch.tensor(sampled, device=logits.device)
        plain = [place for place, row in enumerate(sampled) if scores is None and _is_plain(states[row])]
        # Probabilities as they are need no further pass over the vocabulary. A row is drawn in the same way whatever
        # its neighbours ask for.
        weights = (logits[rows] - largest[rows, None]).exp_() if plain else logits
        if len(plain) == len(sampled):
            chances = weights
        else:
            chances = distribution(processed[rows], [states[row].request for row in sampled])
            chances[plain] = weights[plain].double()
        uniforms = [uniform(states[row].key, states[row].step) for row in sampled]
        tokens[rows] = draw(chances, torch.tensor(uniforms, dtype=torch.float64, device=logits.device))
    logprobs = logits.gather(1, tokens[:, None])[:, 0] - normaliser
    chosen, chances_of_chosen = integers(tokens), floats(logprobs)
    # A NaN or +inf among the scores makes the normaliser so; the row has no distribution then.
    for row, finite in enumerate(integers(normaliser.isfinite())):
        if not finite:
            states[row].error = NOT_NUMBERS
    for row, state in enumerate(states):
        if state.constraint is not None and not state.error and not bool(processed[row, chosen[row]] > -torch.inf):
            state.error = "the model can't give any token that the constraint allows"
        if state.error:
            chosen[row] = -1
        if state.request.processed_logprobs and chosen[row] >= 0:
            state.processed_logprobs.append(_processed_logprob(processed[row], state.request, chosen[row]))
    top = _top_logprobs(logits, normaliser, states, chosen, chances_of_chosen)
    return Choice(chosen, chances_of_chosen, top)


def _is_plain(state: SamplingState) -> bool:
    request = state.request
    return (
        not state.processes
        and request.temperature == 1
        and request.top_k == 0
        and request.top_p >= 1
        and request.min_p <= 0
    )


def _processed_logprob(scores: Tensor, request: Request, token: int) -> float:
    """Log-probability of the token under what it was drawn from; scores [V] after bias and penalties."""
    if request.temperature == 0:
        return float(scores.double().log_softmax(0)[token])
    chances = distribution(scores[None], [request])[0]
    return float((chances[token] / chances.sum()).log())


def _top_logprobs(
    logits: Tensor, normaliser: Tensor, states: Sequence[SamplingState], tokens: list[int], logprobs: list[float]
) -> list[dict[int, float]]:
    wanted = max((state.request.logprobs for state in states), default=0)
    if wanted == 0:
        return [{} for _ in states]
    values, ids = (logits - normaliser[:, None]).topk(min(wanted, logits.shape[1]), dim=1)
    result: list[dict[int, float]] = []
    for row, state in enumerate(states):
        n = state.request.logprobs
        listed = dict(zip(integers(ids[row, :n]), floats(values[row, :n]), strict=True)) if n else {}
        if n and tokens[row] >= 0:
            listed.setdefault(tokens[row], logprobs[row])
        result.append(listed)
    return result

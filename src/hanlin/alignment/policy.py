"""How likely a policy finds answers: what all objectives of this room, and their checks, go through."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hanlin.data.sequences import Rows, Sequences
from hanlin.models.logprobs import token_logprobs
from hanlin.models.lora import without_lora


@dataclass(frozen=True)
class AnswerScores:
    """Of every token of the answers, in their order."""

    logprobs: Tensor
    """[M] log p(token | all before it), in nats, with gradient"""
    entropy: Tensor
    """[M] of the distribution that the token was drawn from, in nats, without gradient; NaN where not asked for"""


def answer_scores(model: Any, sequences: Sequences, rows: Rows | None = None, entropy: bool = True) -> AnswerScores:
    """Log-probabilities of the answers' tokens under `model`, which has `hidden` and `head_weight` as a Transformer.

    Temperature 1 and no filters: the probabilities that the engine reports for what it samples at temperature 1.
    """
    rows = rows or sequences.in_rows()
    hidden = rows.hidden(model, rows.before_answers)
    return AnswerScores(*token_logprobs(hidden, model.head_weight, sequences.labels(), entropy=entropy))


def sum_by_sequence(values: Tensor, sequences: Sequences) -> Tensor:
    """[M] values of the answers' tokens to their sums [S], those that do not count left out."""
    if sequences.marks is not None:
        values = values * sequences.marks
    return values.new_zeros(len(sequences.lengths)).index_add(0, sequences.sequence_of_token(), values)


def counted_lengths(sequences: Sequences, like: Tensor) -> Tensor:
    """[S] how many tokens of each answer count, in the dtype and on the device of `like`."""
    return sum_by_sequence(
        torch.ones(int(sequences.answer_lengths.sum()), dtype=like.dtype, device=like.device), sequences
    )


@torch.no_grad()
def score_all(model: Any, sequences: Sequences, tokens: int) -> Tensor:
    """[M] log-probabilities on the CPU without gradient, `tokens` at a time."""
    device = next(model.parameters()).device
    parts = [part.to(device) for part in sequences.parts(tokens)]
    return torch.cat([answer_scores(model, part, entropy=False).logprobs.cpu() for part in parts])


def as_reference(policy: Any, reference: Any) -> contextlib.AbstractContextManager[None]:
    """Within it, what `reference or policy` computes is the reference: None stands for the policy without adapters."""
    return without_lora(policy) if reference is None else contextlib.nullcontext()


@torch.no_grad()
def divergences(policy: Any, reference: Any, sequences: Sequences, chunk: int = 128) -> Tensor:
    """[M] KL(π ‖ π_ref) of the distributions that the answers' tokens were drawn from, in nats, on the CPU: exactly,
    Σ_v π(v) (log π(v) - log π_ref(v)) over the whole vocabulary. `reference` as for `as_reference`."""
    device = next(policy.parameters()).device
    rows = sequences.to(device).in_rows()

    def logs(model: Any, hidden: Tensor) -> Tensor:
        logits = hidden @ model.head_weight.to(hidden.dtype).T
        return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)

    ours = rows.hidden(policy, rows.before_answers)
    with as_reference(policy, reference):
        theirs = rows.hidden(reference or policy, rows.before_answers)
    found: list[Tensor] = []
    for own, other in zip(ours.split(chunk), theirs.split(chunk)):
        logp = logs(policy, own)
        found.append((logp.exp() * (logp - logs(reference or policy, other))).sum(-1).cpu())
    return torch.cat(found)

"""How likely a policy finds answers: what all objectives of this room, and their checks, go through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hanlin.data.sequences import Rows, Sequences
from hanlin.models.logprobs import token_logprobs


@dataclass(frozen=True)
class AnswerScores:
    """Of every token of the answers, in their order."""

    logprobs: Tensor
    """[M] log p(token | all before it), in nats, with gradient"""
    entropy: Tensor
    """[M] of the distribution that the token was drawn from, in nats, without gradient"""


def answer_scores(model: Any, sequences: Sequences, rows: Rows | None = None) -> AnswerScores:
    """Log-probabilities of the answers' tokens under `model`, which has `hidden` and `head_weight` as a Transformer.

    Temperature 1 and no filters: the probabilities that the engine reports for what it samples at temperature 1.
    """
    rows = rows or sequences.in_rows()
    batch = rows.batch
    hidden = model.hidden(batch.input_ids, batch.position_ids, batch.document_ids)
    hidden = hidden.reshape(-1, hidden.shape[-1]).index_select(0, rows.before_answers)
    return AnswerScores(*token_logprobs(hidden, model.head_weight, sequences.labels()))


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
def score_all(model: Any, sequences: Sequences, rows: int) -> Tensor:
    """[M] log-probabilities on the CPU without gradient, `rows` groups at a time."""
    device = next(model.parameters()).device
    found = [
        answer_scores(model, sequences.slice(start, min(start + rows, sequences.rows)).to(device)).logprobs.cpu()
        for start in range(0, sequences.rows, rows)
    ]
    return torch.cat(found)

"""What PPO, GRPO and RLOO minimise: one file, for they differ in little once advantages are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hanlin.alignment.kl import estimate
from hanlin.alignment.policy import AnswerScores, answer_scores
from hanlin.alignment.policy_settings import ClipSettings, KlSettings, Normalise
from hanlin.data.sequences import Rows, Sequences
from hanlin.models.losses import cross_entropy
from hanlin.training.objectives import LossParts, Objective

if TYPE_CHECKING:
    from hanlin.data.batch import Batch


def clipped(logprobs: Tensor, old: Tensor, advantages: Tensor, clip: ClipSettings) -> tuple[Tensor, Tensor]:
    """(loss, whether it was clipped) of each token: -min(ρ A, clip(ρ, 1 - low, 1 + high) A), ρ = π/π_old (Schulman et
    al. 2017, eq. 7)."""
    ratio = (logprobs - old).exp()
    free, bounded = ratio * advantages, ratio.clamp(1 - clip.low, 1 + clip.high) * advantages
    return -torch.minimum(free, bounded), bounded < free


def value_loss(values: Tensor, old: Tensor, returns: Tensor, limit: float | None) -> Tensor:
    """Half the squared error of each value, by the worse of the value and the value within `limit` of the old one (as
    PPO's first implementation had it)."""
    free = (values - returns).square()
    if limit is None:
        return free / 2
    bounded = (old + (values - old).clamp(-limit, limit) - returns).square()
    return torch.maximum(free, bounded) / 2


def weights_of_tokens(batch: Sequences, normalise: Normalise, like: Tensor) -> tuple[Tensor, Tensor]:
    """(weight of each token [M], what the whole is divided by).

    token: every token counts alike. sequence: every answer counts alike, whatever its length (GRPO's paper). sum: an
    answer counts by its sum, which alone is the gradient of the expected reward.
    """
    marks = torch.ones(int(batch.answer_lengths.sum()), dtype=like.dtype, device=like.device)
    if batch.marks is not None:
        marks = batch.marks.to(like)
    if normalise == "token":
        return marks, marks.sum()
    count = like.new_tensor(len(batch.lengths))
    if normalise == "sum":
        return marks, count
    owner = batch.sequence_of_token()
    lengths = marks.new_zeros(len(batch.lengths)).index_add(0, owner, marks)
    return marks / lengths[owner], count


def policy_objective(
    clip: ClipSettings,
    kl: KlSettings,
    normalise: Normalise,
    value_weight: float = 0.0,
    text_weight: float = 0.0,
) -> Objective:
    """The objective over rollouts. The batch's tokens carry `old` (log π_old), `reference` (log π_ref), `advantages`,
    and with a critic `values` (old ones) and `returns`; its sequences carry `coefficient` (β), and with text beside it
    `share` (how many counted things stand for one token of text), and `per_token` (how many stand for one token).

    `text_weight` is PPO-ptx's γ (Ouyang et al. 2022, eq. 2). Metrics: policy_loss, value_loss and text_loss as they
    are in the loss; of tokens alike entropy, clipped, kl_old (k3 of π_old from π), kl (k1 of π from the reference).
    """

    def objective(model: Any, batch: Sequences) -> LossParts:
        rows = batch.in_rows()
        critic: Callable[[Sequences, Rows], Tensor] | None = getattr(model, "values", None)
        scores: AnswerScores = answer_scores(getattr(model, "policy", model), batch, rows)
        logprobs, values = scores.logprobs, batch.of_token
        weight, count = weights_of_tokens(batch, normalise, logprobs)
        # Of a step's tokens the diagnostics are means, whatever the loss is divided by.
        even = batch.of_sequence["per_token"].to(logprobs)[batch.sequence_of_token()]
        old, reference = values["old"].to(logprobs), values["reference"].to(logprobs)
        advantages = values["advantages"].to(logprobs)
        losses, was_clipped = clipped(logprobs, old, advantages, clip)
        total = (weight * losses).sum()
        with torch.no_grad():
            metrics = {
                "policy_loss": total.detach(),
                "entropy": (even * scores.entropy).sum(),
                "clipped": (even * was_clipped).sum(),
                "kl_old": (even * estimate(old, logprobs, "k3")).sum(),
                "kl": (even * estimate(logprobs, reference, "k1")).sum(),
            }
        if kl.within == "loss":
            coefficient = batch.of_sequence["coefficient"].to(logprobs)[batch.sequence_of_token()]
            total = total + (weight * coefficient * estimate(logprobs, reference, kl.estimator)).sum()
        if critic is not None and value_weight:
            found = critic(batch, rows)
            error = value_loss(found, values["values"].to(found), values["returns"].to(found), clip.value)
            total = total + value_weight * (weight * error).sum()
            metrics["value_loss"] = (weight * error).sum().detach()
        if "share" in batch.of_sequence and text_weight:
            metrics["text_loss"] = torch.zeros_like(count)
            if batch.beside is not None:
                text = _text_loss(getattr(model, "policy", model), batch.beside)
                share = batch.of_sequence["share"][0].to(text)
                total = total + text_weight * share * text
                metrics["text_loss"] = (share * text).detach()
        return LossParts(total, count, {"loss": total.detach(), **metrics})

    return objective


def _text_loss(model: Any, batch: Batch) -> Tensor:
    """Summed cross-entropy of text."""
    hidden = model.hidden(batch.input_ids, batch.position_ids, batch.document_ids)
    return cross_entropy(hidden, model.head_weight, batch.labels).loss

"""NEFTune: noise on the token embeddings while a model is fine-tuned (Jain et al. 2023, algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hanlin.training.objectives import LossParts, Objective


def with_noise(objective: Objective, alpha: float) -> Objective:
    """`objective`, with noise on the output of `model.embedding`: uniform in ±alpha / sqrt(L · d) in each of the d
    dimensions of each of the L positions of a document (here: of the document in a packed row, without the padding).

    Only what goes through the objective has noise: evaluations, samples and a head tied to the embedding have none. The
    noise is drawn from torch's generator, whose state the loop's checkpoints hold, so a resumed run draws the same.
    alpha 0: the objective itself.
    """
    if not alpha:
        return objective

    def noisy(model: Any, batch: Any) -> LossParts:
        lengths = document_lengths(batch.position_ids, batch.labels)

        def add(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            if output.shape[:2] != lengths.shape:  # another text than the batch's
                return output
            scale = alpha * (lengths * output.shape[-1]).clamp(min=1).rsqrt() * (lengths > 0)
            noise = torch.rand(output.shape, dtype=torch.float32, device=output.device) * 2 - 1
            return output + (noise * scale[..., None]).to(output.dtype)

        hook = model.embedding.register_forward_hook(add)
        try:
            return objective(model, batch)
        finally:
            hook.remove()

    return noisy


def document_lengths(position_ids: Tensor, labels: Tensor) -> Tensor:
    """float32 [B, T]: how many positions the document has that each position is in; 0 in padding.

    A document begins where `position_ids` is 0, and at a row's start. One of which no position has a label is padding.
    """
    rows, length = position_ids.shape
    starts = position_ids == 0
    starts[:, 0] = True
    # Numbered through all rows, so that one sum counts each.
    document = starts.flatten().cumsum(0) - 1
    ones = torch.ones(rows * length, dtype=torch.float32, device=labels.device)
    sizes = torch.zeros(rows * length, dtype=torch.float32, device=labels.device).index_add_(0, document, ones)
    trained = torch.zeros_like(sizes).index_add_(0, document, (labels.flatten() >= 0).float())
    return (sizes * (trained > 0))[document].reshape(rows, length)

"""What every stage with `lora` does: begin with adapters, tell what is trained, and end with an ordinary model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from hanlin.artifacts import HanlinError
from hanlin.models import Transformer
from hanlin.models.adapter_files import save_adapter
from hanlin.models.lora import add_lora, merge_lora
from hanlin.models.lora_layers import Adapter
from hanlin.models.lora_settings import LoraSettings
from hanlin.models.quantised import quantised_layers
from hanlin.models.reward import SCORE, RewardModel
from hanlin.training.parallel import World

ADAPTER = "adapter"
"""Folder of a stage that holds its adapter, in `peft`'s format"""


def begin_adapters(
    model: Transformer | RewardModel, lora: LoraSettings | None, seed: int, dropout: bool = True
) -> None:
    """Freeze the model (of a reward model all but its head) and give it adapters; None: leave it as it is.

    Without `dropout`, for objectives that compare probabilities, settings that ask for it are refused (HanlinError).
    """
    if lora is None:
        return
    if lora.dropout and not dropout:
        raise HanlinError(
            f"lora.dropout is {lora.dropout}, but this stage compares probabilities, and dropout would change them at "
            "random: leave it at 0"
        )
    add_lora(_trunk(model), lora, seed)


def finish_adapters(model: Transformer | RewardModel, lora: LoraSettings | None, directory: Path) -> None:
    """Write the adapter (of a reward model with its head) to `directory`/adapter, then merge it: the model is an
    ordinary one again, in float32. None: leave it as it is.

    Only the first rank writes. The files do not name the base, which the stage's manifest does: an artifact must not
    depend on where another lies.
    """
    if lora is None:
        return
    if World.current().first:
        task, whole = "CAUSAL_LM", dict[str, Tensor]()
        if isinstance(model, RewardModel):
            task, whole = "SEQ_CLS", {SCORE.name: model.score_head.weight}
        save_adapter(directory / ADAPTER, _trunk(model), task_type=task, saved_modules=whole)
    merge_lora(_trunk(model))


def parameter_figures(model: nn.Module, precision: str) -> dict[str, float]:
    """Of a model as it was trained, adapters not merged yet: `total` parameters (without the adapters'),
    `non_embedding`, `trained`, `trained_share` (of the total), and `frozen_bytes`, the memory that the frozen weights
    take, with the copy of them that a run in bf16 computes with."""
    adapters = [module for module in model.modules() if isinstance(module, Adapter)]
    total = sum(one.numel() for one in model.parameters())
    total -= sum(one.numel() for adapter in adapters for one in adapter.parameters())
    total += sum(layer.in_features * layer.out_features for layer in quantised_layers(model))
    embedding = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Embedding))
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    frozen = [one for one in model.parameters() if not one.requires_grad]
    size = sum(one.nbytes for one in (*frozen, *model.buffers()))
    if precision == "bf16":
        size += sum(2 * one.numel() for one in frozen if one.ndim >= 2 and one.dtype != torch.bfloat16)
    return {
        "total": total,
        "non_embedding": total - embedding,
        "trained": trained,
        "trained_share": trained / total,
        "frozen_bytes": size,
    }


def _trunk(model: Transformer | RewardModel) -> Transformer:
    return model if isinstance(model, Transformer) else model.trunk

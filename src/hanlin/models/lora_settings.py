"""Settings of low-rank adapters, shared by every stage that trains. Nothing here imports torch."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from hanlin.artifacts import Settings

Target = Literal[
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "c_attn", "c_proj", "c_fc"
]
"""A projection by its Hugging Face name; the last three are GPT-2's."""
Base = Literal["full", "int8", "int4"]


class LoraSettings(Settings):
    """Trains small matrices beside the model's own, which stay as they are (LoRA, Hu et al. 2021).

    A projection W becomes W + scale · B A with A [rank, inputs] and B [outputs, rank]. B begins at zero, so training
    begins with the model as it was. The rate is the optimiser's `adapter_learning_rate`. When the stage is done the
    adapters are merged into the model; they are also kept apart, in `adapter/`, in `peft`'s format.
    """

    rank: int = Field(default=16, ge=1)
    """Rows of A and columns of B."""
    alpha: float = Field(default=32.0, gt=0)
    """The adapter's product is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is left out at random while training. Refused by the objectives that compare
    probabilities (preference, ppo, grpo, rloo), which would compare noise."""
    target_modules: Literal["all-linear"] | list[Target] = "all-linear"
    """The projections that get adapters, by their Hugging Face names; all-linear: every one but the output head."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead, so that large ranks learn as fast as small ones (Kalajdzievski 2023)."""
    dora: bool = False
    """Train each output's magnitude apart from its direction (DoRA, Liu et al. 2024)."""
    base: Base = "full"
    """How the frozen projections are kept: full: as they are; int8: a byte a weight, with a scale an output; int4: half
    a byte, with a scale a group. They are turned back for each product; what is trained and saved is the model with
    the rounded weights."""
    group: Literal[32, 64] = 64
    """int4: weights that share a scale."""

    @property
    def scale(self) -> float:
        """What B A is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @model_validator(mode="after")
    def _some_target(self) -> Self:
        if not self.target_modules:
            raise ValueError("target_modules names no projection: name some, or leave it out for all of them")
        return self

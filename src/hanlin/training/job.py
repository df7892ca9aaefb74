"""What the loop is given: a model, data, an objective, and ways to look at them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from hanlin.training.objectives import Objective, OnPolicy, Source


@dataclass
class Job:
    """What is to be trained, on what, towards what."""

    model: nn.Module
    """Holds the final weights when `train` returns. Its weights are the fp32 (in tests fp64) master copy."""
    objective: Objective
    source: Source
    steps: int
    """Optimiser steps; with a time limit (`LoopSettings.seconds`) the most that are done."""
    flops_per_token: float = 0.0
    """Forward and backward, for each position computed; 0: not known."""
    on_policy: OnPolicy | None = None
    """What of the source depends on the model; None: nothing."""
    evaluate: Callable[[Any], dict[str, float]] | None = None
    """Measures a model on validation data: at least `loss` (lower is better), usually `bits_per_byte`."""
    token_losses: Callable[[Any, Any], Tensor] | None = None
    """(model, batch) -> loss of each label [B, T], for the records of spikes; None: spikes are recorded without."""
    token_counts: Tensor | None = None
    """int64 [vocabulary]: how often the training data has each token."""
    spell: Callable[[int], str] | None = None
    """A token as text."""
    facts: dict[str, Any] = field(default_factory=dict)
    """About the model, for the diagnosis: `norms` ("pre"), `qk_norm`."""

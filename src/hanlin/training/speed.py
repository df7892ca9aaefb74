"""How long a training step of a given shape takes on this machine: measured by doing a few."""

from __future__ import annotations

import statistics
import time
from typing import Any

from hanlin.models import ModelConfig, Transformer
from hanlin.models.device import choose_device
from hanlin.training.loop import accumulate, gradient_norm, scale_gradients
from hanlin.training.objectives import next_token
from hanlin.training.optimizers import Optimizer
from hanlin.training.parallel import World
from hanlin.training.precision import Precision, WorkingCopy
from hanlin.training.settings import LoopSettings


def seconds_per_step(config: ModelConfig, loop: LoopSettings, precision: Precision, source: Any, spend: float) -> float:
    """Median seconds of a whole step (forward, backward, optimiser) on the source's first batches.

    One step to warm up, then steps for about `spend` seconds, at least three. Weights are random and thrown away.
    """
    device = choose_device(loop.device)
    model = Transformer(config)
    model.init_weights(0)
    working = WorkingCopy(model.to(device).train(), precision)
    optimizer = Optimizer(model, loop.optimizer)
    objective = next_token(loop.z_loss)
    took: list[float] = []
    while len(took) < 4 or sum(took[1:]) < spend:
        begun = time.perf_counter()
        batch = source.step(len(took))
        parts = batch.parts(loop.tokens_at_once(device.type), loop.micro_rows)
        sums = accumulate(working, objective, parts, device, World.current())
        norm = gradient_norm(working) / sums.tokens
        scale_gradients(working, min(1.0, 1.0 / (norm + 1e-6)) / sums.tokens)
        optimizer.step(0.01)
        working.clear()
        working.refresh()
        took.append(time.perf_counter() - begun)
    return statistics.median(took[1:])

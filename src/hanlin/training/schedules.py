"""The learning rate's course, as pure functions of the step: there is no schedule state to save."""

from __future__ import annotations

import math

from hanlin.training.settings import ScheduleSettings


def rate_factor(settings: ScheduleSettings, step: int, steps: int) -> float:
    """What the peak learning rates are multiplied by in step `step` (from 0) of `steps`.

    Warm-up: (step + 1) / w, so that no step is wasted on a rate of 0. wsd: 1 until the decay, then 1 - √x or 1 - x of
    the decay's share x done (Hägele et al. 2024, eq. 1). cosine: (1 + cos πx) / 2 after the warm-up. The decays end at
    `final_fraction`, which the step after the last one would have.
    """
    warmup = settings.warmup(steps)
    if step < warmup:
        return (step + 1) / warmup
    final = settings.final_fraction
    if settings.name == "cosine":
        done = (step - warmup) / max(1, steps - warmup)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    start = decay_start(settings, steps)
    if step < start or start == steps:
        return 1.0
    done = min(1.0, (step - start) / (steps - start))
    left = 1 - (math.sqrt(done) if settings.decay_shape == "1-sqrt" else done)
    return final + (1 - final) * left


def decay_start(settings: ScheduleSettings, steps: int) -> int:
    """wsd: the step (from 0) from which the rate falls in a run of `steps`; `steps` itself for one that never does.

    One step more in the run moves it by one or not at all.
    """
    return max(steps - round(settings.decay_fraction * steps), min(settings.warmup(steps), steps))

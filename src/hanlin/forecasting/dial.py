"""One dial: from `minutes` to the model's shape, the batch, the steps and the learning rates.

The machine is measured for a few seconds by training steps of the shapes in question on the run's own data. Among the
shapes, the one with the least expected loss in the time is taken (`loss.py`). A machine that others share, or that
grows hot, does not keep the speed of those seconds: the number of steps stays open until the decay
(`training.horizon`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from typing import TYPE_CHECKING, Any

from hanlin.artifacts import HanlinError, StageContext
from hanlin.training.pretrain import (
    PRETRAIN_STAGE,
    ModelShape,
    PretrainSettings,
    model_config,
    resolve_pretrain,
    with_shape,
)
from hanlin.training.settings import LoopSettings
from hanlin.training.sft import SFT_STAGE, SftSettings, resolve_sft

if TYPE_CHECKING:
    from pathlib import Path

HEAD = 64
SHAPES = (
    (64, 2), (64, 4), (128, 4), (192, 4), (256, 4), (256, 6), (320, 6), (384, 6), (384, 8), (448, 8),
    (512, 8), (512, 10), (640, 10), (640, 12), (768, 12), (896, 14), (1024, 16), (1280, 20), (1536, 24), (2048, 24),
    (2560, 32),
)  # fmt: skip
"""Width and depth of the shapes to choose among, by size."""
FIRST_GUESS = 2_000_000
"""Weights of the shape that is measured first."""
LEARNING_RATE, EMBEDDING_LEARNING_RATE = 0.006, 0.08
"""Peak rates up to 1e14 FLOP (docs/benchmarks.md, "One dial"). The embedding, tied to the head, has thousands of rows
of which a step touches few: it bears, and in a short run needs, far more than the matrices do."""
MEASURE_SHARE, MEASURE_SECONDS = 0.006, 1.5
"""Part of the time, and least seconds, spent on each shape that is measured."""
MEASUREMENTS = 5
"""At most so many are made."""
LEAST_LEFT = 0.25
"""Share of the time that is reckoned with at least, however long measuring took."""
MARGIN = 0.98
"""Share of the time that is planned for: loading and saving take the rest."""
TOKENS_OF_CHAT, LATER_SECONDS = 2.0, 10.0
"""Time kept for fine-tuning, in tokens for each that its text has (turns' marks, padding, evaluations, a machine that
is slower by then), and seconds for reading it."""
MOST_STEPS = 2.0
"""Steps that may be done if the machine turns out faster, times those planned."""


def resolve_with_dial(settings: PretrainSettings, context: StageContext) -> PretrainSettings:
    """Fill in what is `auto`: with `minutes`, everything the time allows; then steps, precision, compile as always."""
    if settings.model != "auto" and (context.seconds_left is None or settings.loop.steps is not None):
        return resolve_pretrain(settings, context)
    if context.seconds_left is None:
        raise HanlinError("`model: auto` needs a time to plan for: give minutes=N, or a shape of your own.")
    if settings.loop.seconds is not None:
        raise HanlinError(
            "`loop.seconds` is given, but here it is `minutes` that decides how long to train: leave it out."
        )
    fixed = [name for name in ("steps", "epochs") if name in settings.loop.model_fields_set]
    if settings.model == "auto" and fixed:
        raise HanlinError(
            f"`loop.{fixed[0]}` is given, but with `model: auto` it is `minutes` that decides how long to train: leave "
            f"it out, or give a shape too (model={{hidden_size: 192, layers: 4, heads: 3}})."
        )
    return resolve_pretrain(_plan(with_shape(settings, context), context, context.seconds_left), context)


def _plan(settings: PretrainSettings, context: StageContext, seconds: float) -> PretrainSettings:
    from hanlin.data import PackedTokens, TokenShards
    from hanlin.forecasting.loss import expected_loss, step_tokens
    from hanlin.models.device import choose_device
    from hanlin.models.flops import flops_per_token, matrix_parameters
    from hanlin.training.compiling import repays, without_compiling
    from hanlin.training.precision import choose_precision
    from hanlin.training.speed import seconds_per_step
    from hanlin.training.stages import count_steps

    if seconds < 5:
        raise HanlinError(
            f"of the time given, {seconds:.0f} seconds are left for training: give more minutes, or less text."
        )
    directory = context.inputs["data"].path
    shards = TokenShards.open(directory)
    length = settings.loop.sequence_length
    begun = time.perf_counter()
    device = choose_device(settings.loop.device)
    precision = choose_precision(settings.loop.precision, device, context.progress)
    unique = int(shards.offsets[-1])
    given = settings.model
    shapes = [given] if given != "auto" else [shape_of(width, layers, length) for width, layers in SHAPES]
    configs = [model_config(settings.model_copy(update={"model": shape}), directory) for shape in shapes]
    speeds: dict[int, float] = {}  # index of a measured shape → FLOP/s
    measured: dict[int, int] = {}  # index of a measured shape → rows of its steps
    loop = settings.loop.model_copy(update={"precision": precision})
    compiled = repays(seconds, device) if loop.compile == "auto" else loop.compile

    tokens_to_come = None if context.later_bytes is None else context.later_bytes * TOKENS_OF_CHAT / density(directory)

    def seconds_left(index: int) -> float:
        """This stage's part of the time, and what the stages after it will leave of theirs to a shape as fast."""
        # On a slow machine measuring alone may take longer than a short time allows.
        left = max(LEAST_LEFT * seconds, seconds - (time.perf_counter() - begun))
        if tokens_to_come is None:
            return left
        needed = LATER_SECONDS + tokens_to_come * flops_per_token(configs[index], length) / _speed(
            speeds, index, configs, length
        )
        return left + max(0.0, context.later_seconds - needed)

    def usable(index: int) -> float:
        """Seconds of uncompiled steps, which is how they are measured, in the time that measuring has left."""
        left = seconds_left(index) * MARGIN
        return without_compiling(left, device) if compiled else left

    def forecast(index: int) -> tuple[float, float]:
        """Expected loss and tokens of a shape in the time left."""
        config = configs[index]
        tokens = usable(index) * _speed(speeds, index, configs, length) / flops_per_token(config, length)
        return expected_loss(matrix_parameters(config), tokens, unique), tokens

    def rows_of(index: int) -> int:
        if "rows" in settings.loop.model_fields_set:
            return settings.loop.rows
        return _rows(step_tokens(forecast(index)[1]), length)

    def measure(index: int) -> None:
        rows = rows_of(index)
        trial = loop.model_copy(update={"rows": rows})
        source = PackedTokens(shards, length, rows, 0)
        spend = max(MEASURE_SECONDS, MEASURE_SHARE * seconds)
        took = seconds_per_step(configs[index], trial, precision, source, spend)
        speeds[index] = rows * length * flops_per_token(configs[index], length) / took
        measured[index] = rows

    best = min(range(len(configs)), key=lambda index: abs(matrix_parameters(configs[index]) - FIRST_GUESS))
    spent = 0
    while spent < MEASUREMENTS and (best not in speeds or measured[best] != rows_of(best)):
        shape = shapes[best]
        context.progress.update(spent, MEASUREMENTS, f"measuring {shape.layers} layers × {shape.hidden_size}")
        measure(best)
        spent += 1
        best = min(range(len(configs)), key=lambda index: forecast(index)[0])
    best = min(speeds, key=lambda index: forecast(index)[0])
    config, shape = configs[best], shapes[best]
    tokens = forecast(best)[1]
    compute = tokens * flops_per_token(config, length)
    rows = measured[best]
    most = math.inf
    steps = max(10, round(tokens / (rows * length)))
    if "epochs" in settings.loop.model_fields_set:
        most = count_steps(settings.loop, PackedTokens(shards, length, rows, 0))
        steps = min(steps, most)
    until, schedule = seconds_left(best), settings.loop.schedule
    schedule = schedule.model_copy(update={"warmup_steps": schedule.warmup(steps)})
    is_open = schedule.can_stay_open()
    loop = settings.loop.model_copy(
        update={
            "rows": rows,
            "steps": min(most, round(MOST_STEPS * steps)) if is_open else steps,
            "seconds": round(until * MARGIN, 1) if is_open else None,
            "schedule": schedule,
            "evaluate_every": settings.loop.evaluation_interval(steps),
            "checkpoint_every": settings.loop.checkpoint_interval(steps),
            "precision": precision,
            "compile": compiled,
            "evaluation_tokens": _evaluation_tokens(settings.loop, tokens),
            "optimizer": settings.loop.optimizer.model_copy(
                update=_rates(settings.loop, compute) if settings.start is None else {}
            ),
        }
    )
    context.progress.say(
        f"{until / 60:.1f} minutes for training: {shape.layers} layers × {shape.hidden_size}, "
        f"{matrix_parameters(config) / 1e6:.1f}M weights, about {steps:,} steps of {rows} × {length} tokens = "
        f"{steps * rows * length / 1e6:.1f}M ({steps * rows * length / unique:.2f} of the data) at "
        f"{speeds[best] / flops_per_token(config, length):,.0f} tokens/s measured"
        f"{', compiled' if compiled else ''}"
    )
    return settings.model_copy(update={"model": shape, "loop": loop})


def resolve_sft_with_dial(settings: SftSettings, context: StageContext) -> SftSettings:
    """As always, but with no more steps than the recipe's `minutes` leave time for."""
    begun = time.perf_counter()
    resolved = resolve_sft(settings, context)
    planned = resolved.loop.steps
    if context.seconds_left is None or settings.loop.steps is not None or planned is None:
        return resolved
    from hanlin.models.hub import load_config
    from hanlin.training.sft import Prepared
    from hanlin.training.speed import seconds_per_step

    config, loop = load_config(context.inputs["model"].path), resolved.loop
    assert loop.precision != "auto"
    took = seconds_per_step(config, loop, loop.precision, Prepared(resolved, context).source, MEASURE_SECONDS)
    left = context.seconds_left - (time.perf_counter() - begun)
    most = max(10, int(left * MARGIN / took))
    if most < planned:
        context.progress.say(f"{left / 60:.1f} minutes are left: {most} of {planned} steps fit")
        given = settings.loop
        intervals = {
            "evaluate_every": given.evaluation_interval(most),
            "checkpoint_every": given.checkpoint_interval(most),
        }
        loop = loop.model_copy(update={"steps": most, **intervals})
    tokens = min(most, planned) * loop.rows * loop.sequence_length
    loop = loop.model_copy(update={"evaluation_tokens": _evaluation_tokens(settings.loop, tokens)})
    return resolved.model_copy(update={"loop": loop})


def density(tokens: Path) -> float:
    """Bytes that a token of a tokens stage's training text has on average."""
    import numpy as np

    from hanlin.tokenization import Tokenizer

    tokenizer = Tokenizer.load(tokens / "tokenizer")
    counts = np.load(tokens / "token_counts.npy")
    lengths = np.array([len(tokenizer.token_bytes(token)) for token in range(len(counts))])
    return float((counts * lengths).sum() / counts.sum())


def _evaluation_tokens(given: LoopSettings, tokens: float) -> int:
    """As given; else so few that all evaluations together cost little beside a run of `tokens`."""
    if "evaluation_tokens" in given.model_fields_set:
        return given.evaluation_tokens
    return min(given.evaluation_tokens, max(4_096, round(tokens / 200)))


def shape_of(width: int, layers: int, length: int) -> ModelShape:
    """The Qwen3 shape of a width and a depth, for texts as long as the rows that it is trained on."""
    heads = max(1, width // HEAD)
    return ModelShape(
        family="qwen3", hidden_size=width, layers=layers, heads=heads, head_dim=HEAD, max_positions=length
    )


def _speed(speeds: dict[int, float], index: int, configs: list[Any], length: int) -> float:
    """FLOP/s of a shape: as measured, or between (and beyond) the measured ones by the logarithm of its size."""
    from hanlin.models.flops import flops_per_token

    if index in speeds:
        return speeds[index]
    if not speeds:
        return 5e10
    size = math.log(flops_per_token(configs[index], length))
    points = sorted((math.log(flops_per_token(configs[i], length)), math.log(speed)) for i, speed in speeds.items())
    if len(points) == 1 or size <= points[0][0]:
        return math.exp(points[0][1])
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if size <= x1:
            return math.exp(y0 + (y1 - y0) * (size - x0) / (x1 - x0))
    return math.exp(points[-1][1])


def _rows(tokens: float, length: int) -> int:
    """Rows whose tokens are nearest to `tokens` in the power of two."""
    return max(1, 2 ** round(math.log2(tokens / length)))


def _rates(loop: LoopSettings, compute: float) -> dict[str, float]:
    """Peak rates, where the recipe gives none: as measured on small runs (docs/benchmarks.md), and falling slowly as
    compute grows (DeepSeek LLM, Bi et al. 2024, eq. 1: proportional to C^-0.125)."""
    factor = min(1.0, (compute / 1e14) ** -0.125)
    given = loop.optimizer.model_fields_set
    if "learning_rate" in given:
        return {}
    found = {"learning_rate": round(LEARNING_RATE * factor, 6)}
    if "embedding_learning_rate" not in given:
        found["embedding_learning_rate"] = round(EMBEDDING_LEARNING_RATE * factor, 6)
    return found


DIAL_STAGE = dataclasses.replace(PRETRAIN_STAGE, resolve=resolve_with_dial)
"""The stage `pretrain` as recipes know it."""
SFT_DIAL_STAGE = dataclasses.replace(SFT_STAGE, resolve=resolve_sft_with_dial)
"""The stage `sft` as recipes know it."""

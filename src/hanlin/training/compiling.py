"""torch.compile: of one block at a time, and only where a run is long enough to repay it."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Generator
from typing import Any, cast

import torch
from torch import nn

from hanlin.artifacts import Progress

COST = {"cpu": 20.0, "cuda": 30.0}
"""Seconds that compiling a block takes, forward and backward. 17 on two cores; of a GPU a guess."""
SAVED = {"cpu": 0.07, "cuda": 0.35}
"""Share of a step's time that compiled blocks save. On two cores, fp32: 0.13 of 128 × 4 layers, 0.07 of 320 × 6, 0.02
to 0.05 of 384 × 6 (docs/benchmarks.md); of a GPU a guess."""
SHARE = {"cpu": 0.5, "cuda": 0.3}
"""Share of the matrix-product rate that training reaches without compiling, to estimate the run's length."""


def choose_compile(
    wanted: bool | str,
    device: torch.device,
    flops: float,
    rate: float,
    progress: Progress,
    limit: float | None = None,
) -> bool:
    """`wanted` if it is a decision; for `auto`, whether compiling shortens a run of `flops` at `rate` FLOP/s, or gains
    something in one that is to end after `limit` seconds.

    It does when the time saved is more than twice what compiling costs; and never where there is no C++ compiler,
    which a CPU needs for it.
    """
    if isinstance(wanted, bool):
        return wanted
    kind = device.type
    seconds = min(flops / (SHARE[kind] * rate), math.inf if limit is None else limit)
    chosen = repays(seconds, device)
    progress.say(
        f"torch.compile {'used' if chosen else 'not used'}: this run takes about {seconds:,.0f} s without it; it would "
        f"save about {SAVED[kind] * seconds:,.0f} s and cost about {COST[kind]:,.0f} s"
        + ("" if _can_compile(kind) else ", but there is no C++ compiler here")
    )
    return chosen


def repays(seconds: float, device: torch.device) -> bool:
    """Whether compiling shortens a run that takes `seconds` without it."""
    return _can_compile(device.type) and SAVED[device.type] * seconds > 2 * COST[device.type]


def without_compiling(seconds: float, device: torch.device) -> float:
    """How long the steps that a compiled run does in `seconds` would take uncompiled."""
    return max(0.0, seconds - COST[device.type]) / (1 - SAVED[device.type])


def _can_compile(kind: str) -> bool:
    return kind != "cpu" or any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def compile_blocks(model: nn.Module) -> None:
    """Compile each block's forward in place. The blocks have the same code, so it is compiled once and used for all."""
    for block in _blocks(model):
        block.compile(dynamic=False)


@contextlib.contextmanager
def uncompiled(model: nn.Module) -> Generator[None, None, None]:
    """Within it the blocks run as they are written: other shapes, and passes without gradients, would each be compiled
    anew for a use or two."""
    blocks = [cast(Any, block) for block in _blocks(model)]
    compiled = [block._compiled_call_impl for block in blocks]
    try:
        for block in blocks:
            block._compiled_call_impl = None
        yield
    finally:
        for block, forward in zip(blocks, compiled):
            block._compiled_call_impl = forward


def undo_compile(model: nn.Module) -> None:
    """Let the blocks run as they are written again."""
    for block in _blocks(model):
        cast(Any, block)._compiled_call_impl = None


def _blocks(model: nn.Module) -> list[nn.Module]:
    blocks = getattr(model, "blocks", None)
    return list(blocks) if isinstance(blocks, nn.ModuleList) else []

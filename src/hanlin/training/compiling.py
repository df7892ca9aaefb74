"""torch.compile: of one block at a time, and only where a run is long enough to repay it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Generator
from typing import Any, cast

import torch
from torch import nn

from hanlin.artifacts import Progress

COST = {"cpu": 40.0, "cuda": 30.0}
"""Seconds that compiling a block takes, forward and backward."""
SAVED = {"cpu": 0.15, "cuda": 0.35}
"""Share of a step's time that compiled blocks save."""
SHARE = {"cpu": 0.5, "cuda": 0.3}
"""Share of the matrix-product rate that training reaches without compiling, to estimate the run's length."""


def choose_compile(wanted: bool | str, device: torch.device, flops: float, rate: float, progress: Progress) -> bool:
    """`wanted` if it is a decision; for `auto`, whether compiling shortens a run of `flops` at `rate` FLOP/s.

    It does when the time saved is more than twice what compiling costs; and never where there is no C++ compiler,
    which a CPU needs for it.
    """
    if isinstance(wanted, bool):
        return wanted
    kind = device.type
    seconds = flops / (SHARE[kind] * rate)
    saved = SAVED[kind] * seconds
    if kind == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        progress.say("torch.compile not used: there is no C++ compiler here")
        return False
    chosen = saved > 2 * COST[kind]
    progress.say(
        f"torch.compile {'used' if chosen else 'not used'}: this run takes about {seconds:,.0f} s without it; "
        f"it would save about {saved:,.0f} s and cost about {COST[kind]:,.0f} s"
    )
    return chosen


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

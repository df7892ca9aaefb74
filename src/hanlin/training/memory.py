"""The memory that training takes: what is held all the time, exactly; and the peak, where the device keeps count."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hanlin.training.optimizers import Optimizer
from hanlin.training.precision import WorkingCopy


def watch_peak(device: torch.device) -> None:
    """The device's peak is counted from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory_figures(working: WorkingCopy, optimizer: Optimizer, device: torch.device) -> dict[str, Any]:
    """Bytes, of one process: `weights` (all that the loop was given, frozen or not), `working_copy` (the second copy of
    a bf16 run), `gradients` and `optimizer` (of what is trained), `held` (their sum), and `peak`: the most that tensors
    took on a CUDA device at a time, since `watch_peak`; None on a CPU, where nobody keeps count.

    `held` follows from shapes and is the same on every machine. It leaves out what comes and goes (activations,
    batches), and models that only compute beside the loop (a reference, a reward model). `peak` has all of it.
    """
    weights = _by_storage([*working.master.parameters(), *working.master.buffers()])
    copy = _by_storage([*working.module.parameters(), *working.module.buffers()])
    trained = [*working.masters, *(working.workers if working.module is not working.master else [])]
    found = {
        "weights": sum(weights.values()),
        "working_copy": sum(size for place, size in copy.items() if place not in weights),
        "gradients": sum(one.nbytes for one in trained),
        "optimizer": sum(one.nbytes for one in optimizer.state().values()),
    }
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {**found, "held": sum(found.values()), "peak": peak}


def _by_storage(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes by the place in memory: what is shared counts once."""
    return {one.data_ptr(): one.nbytes for one in tensors if one.numel()}

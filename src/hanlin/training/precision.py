"""fp32 or bf16: which of them this machine computes faster, and a bf16 working copy of fp32 weights."""

from __future__ import annotations

import copy
import time
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hanlin.artifacts import Progress
from hanlin.models.lora import lora_layers

Precision = Literal["fp32", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
FASTER = 1.3
"""bf16 is chosen when its products are at least this much faster: casting the copies eats what is less."""


def matmul_rate(dtype: torch.dtype, device: torch.device, seconds: float = 0.2, size: int | None = None) -> float:
    """FLOP/s of a square matrix product in `dtype`: the best of several spells that together take about `seconds`."""
    size = size or (1024 if device.type == "cpu" else 8192)
    left = torch.ones(size, size, dtype=dtype, device=device)
    right = torch.ones(size, size, dtype=dtype, device=device)

    def spell() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begun = time.perf_counter()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begun

    spell()
    best, spent = float("inf"), 0.0
    while spent < seconds:
        took = spell()
        best, spent = min(best, took), spent + took
    return 2 * size**3 / best


def choose_precision(wanted: str, device: torch.device, progress: Progress) -> Precision:
    """`wanted` if it is a precision; for `auto` the faster one, by a measurement of about half a second, and said."""
    if wanted == "fp32" or wanted == "bf16":
        return wanted
    single = matmul_rate(torch.float32, device)
    half = matmul_rate(torch.bfloat16, device)
    chosen: Precision = "bf16" if half >= FASTER * single else "fp32"
    progress.say(
        f"precision {chosen}: this {'GPU' if device.type == 'cuda' else 'CPU'} multiplies matrices at "
        f"{single / 1e9:,.0f} GFLOP/s in fp32 and {half / 1e9:,.0f} in bf16"
    )
    return chosen


class WorkingCopy:
    """The module that computes, beside the fp32 master weights that the optimiser changes.

    fp32: they are one and the same. bf16: a copy of the model whose matrices, embeddings among them, are bfloat16,
    refreshed after each step; what is frozen is copied once, or not at all where no copy is needed. The products and
    the residual stream are then bfloat16; norm weights stay float32; softmax, norms and cross-entropy compute in
    float32 inside their kernels; each micro-batch's gradient is added to a float32 sum. Against autocast, or
    `Transformer.compute_dtype`, every weight is cast once a step and not once a micro-batch: a CPU, whose micro-batches
    are small, would spend about a twentieth of its time on that.
    """

    def __init__(self, master: nn.Module, precision: Precision) -> None:
        self.master = master
        self.precision: Precision = precision
        self.masters = [p for p in master.parameters() if p.requires_grad]
        self.module = master
        if precision == "bf16":
            self.module = copy.deepcopy(master, _in_bfloat16(master))
        self.workers = [p for p in self.module.parameters() if p.requires_grad]

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the master weights, after they were changed."""
        if self.module is not self.master:
            for worker, master in zip(self.workers, self.masters):
                worker.copy_(master)

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of one backward pass to the master's, in its dtype."""
        if self.module is self.master:
            return
        for worker, master in zip(self.workers, self.masters):
            if worker.grad is None:
                continue
            if master.grad is None:
                master.grad = worker.grad.to(master.dtype)
            else:
                master.grad.add_(worker.grad)
            worker.grad = None

    def gradients(self) -> list[Tensor]:
        """The master's gradients, zeros where a parameter had none: every rank must send the same tensors."""
        for master in self.masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        return [master.grad for master in self.masters if master.grad is not None]

    def clear(self) -> None:
        """Forget all gradients."""
        for parameter in (*self.masters, *self.workers):
            parameter.grad = None


@torch.no_grad()
def _in_bfloat16(master: nn.Module) -> dict[int, Any]:
    """What a deep copy is to use in place of the master's tensors, by their ids: matrices in bfloat16.

    Frozen vectors and the codes of quantised weights are shared. Under adapters, so is a frozen matrix that bfloat16
    holds exactly (open weights are often published in it): the master keeps it in bfloat16 too, until `merge_lora`.
    """
    adapted = bool(lora_layers(master))
    found: dict[int, Any] = {id(buffer): buffer for buffer in master.buffers()}
    for parameter in master.parameters():
        frozen = not parameter.requires_grad
        if parameter.ndim < 2:
            if frozen:
                found[id(parameter)] = parameter
            continue
        half = nn.Parameter(parameter.to(torch.bfloat16), parameter.requires_grad)
        if frozen and adapted and torch.equal(half.to(parameter.dtype), parameter):
            parameter.data = half.data
        found[id(parameter)] = half
    return found

"""Data parallelism in its plainest form: every rank computes its rows, and gradients are summed over all ranks.

Sums, not means: the loop divides by the trained tokens of the whole step, which only it knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET = 16 << 20
"""Elements that travel in one all-reduce: enough to hide the latency, little enough to hold beside the gradients."""


@dataclass(frozen=True)
class World:
    """The processes that train together; a single one when torch.distributed is not initialised."""

    rank: int = 0
    ranks: int = 1

    @staticmethod
    def current() -> World:
        if dist.is_available() and dist.is_initialized():
            return World(dist.get_rank(), dist.get_world_size())
        return World()

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, in place; tensors of one dtype travel together."""
        if self.ranks == 1:
            return
        by_type: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for group in by_type.values():
            bucket: list[Tensor] = []
            size = 0
            for tensor in group:
                if bucket and size + tensor.numel() > BUCKET:
                    _sum_bucket(bucket)
                    bucket, size = [], 0
                bucket.append(tensor)
                size += tensor.numel()
            _sum_bucket(bucket)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on any rank: what depends on a clock or a signal must be agreed upon."""
        if self.ranks == 1:
            return flag
        tensor = torch.tensor(int(flag), device=_device())
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return bool(tensor.item())

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """`tensor` of every rank, in their order, on the CPU. Shapes may differ in the first dimension."""
        if self.ranks == 1:
            return [tensor]
        sizes = [torch.zeros((), dtype=torch.int64, device=_device()) for _ in range(self.ranks)]
        dist.all_gather(sizes, torch.tensor(tensor.shape[0], device=_device()))
        counts = [int(size) for size in sizes]
        padded = torch.zeros((max(counts), *tensor.shape[1:]), dtype=tensor.dtype, device=_device())
        padded[: tensor.shape[0]] = tensor
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded)
        return [one[:count].cpu() for one, count in zip(found, counts)]

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """`data` of every rank, in their order."""
        parts = self.gather(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        return [part.numpy().tobytes() for part in parts]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.ranks > 1:
            dist.barrier()


def _sum_bucket(bucket: list[Tensor]) -> None:
    if len(bucket) == 1 and bucket[0].is_contiguous():
        dist.all_reduce(bucket[0])
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
    dist.all_reduce(flat)
    for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket])):
        tensor.copy_(part.view_as(tensor))


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"

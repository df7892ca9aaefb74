"""Memory for keys and values: address space that costs nothing until it is written, and how much there may be."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from pathlib import Path

import torch
from torch import Tensor

_NO_RESERVE = 0x4000
"""Linux's MAP_NORESERVE, which Python's mmap names from 3.13 on."""


class Reserved:
    """A zero tensor of any size whose pages come from the system when they are first written, and go back on request.

    So sequences of all lengths lie each in one piece, as attention wants them, and use the memory of what they hold:
    paging is the system's (as in vAttention, Prabhu et al. 2024, on a GPU). Linux only (`available`).
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Raises OSError where not even the addresses can be had."""
        size = torch.Size(shape).numel() * dtype.itemsize
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
        # Pages of 2 MiB would take a hundred times the memory of a short sequence, spread over layers and heads.
        with contextlib.suppress(OSError):
            self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self.tensor: Tensor = torch.frombuffer(self._map, dtype=dtype).view(shape)

    @staticmethod
    def available(device: torch.device) -> bool:
        return device.type == "cpu" and sys.platform.startswith("linux")

    def give_back(self, part: Tensor) -> None:
        """Return the pages of a contiguous part of `tensor` to the system; it is zero then."""
        page = mmap.PAGESIZE
        start = part.data_ptr() - self.tensor.data_ptr()
        end = start + part.numel() * part.element_size()
        first, last = -(-start // page) * page, end // page * page
        if last > first:
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)
        # The ends share their pages with others.
        base = self.tensor.data_ptr()
        for begin, stop in ((start, min(first, end)), (max(last, first, start), end)):
            if stop > begin:
                ctypes.memset(base + begin, 0, stop - begin)


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on `device`; the limits of a container count."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = _meminfo() or 4 << 30
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            free = min(free, int(Path(limit).read_text()) - int(Path(usage).read_text()))
    return max(0, free)


def _meminfo() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return None

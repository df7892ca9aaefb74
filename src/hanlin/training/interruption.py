"""Ctrl-C and SIGTERM are obeyed between steps, where the state is whole."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Generator
from types import FrameType
from typing import Any

import torch


class Interruption:
    """Within it a first SIGINT or SIGTERM sets `asked`; a second one ends the program at once."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        # Only the main thread may handle signals; elsewhere they work as they did.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deterministic(wanted: bool) -> Generator[None, None, None]:
    """Only kernels that give the same bits each time, within the block; kernels that have no such form warn."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling: Any = torch.utils.deterministic
    fill = filling.fill_uninitialized_memory
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling fresh memory finds bugs; it is not needed for equal bits, and costs a pass over each tensor.
        filling.fill_uninitialized_memory = False
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("once", message=".*does not have a deterministic implementation.*")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        filling.fill_uninitialized_memory = fill

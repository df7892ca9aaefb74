"""Where a model computes."""

from __future__ import annotations

import torch

from hanlin.artifacts import UsageError

DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> torch.device:
    """The device that `auto` (the GPU where there is one), `cpu` or `cuda` (also `cuda:1`) means here.

    Raises UsageError for another name, and for a GPU where PyTorch sees none.
    """
    kind = name.partition(":")[0]
    if kind not in DEVICES or (kind == "auto" and name != kind):
        raise UsageError(f"device is {name!r}: it must be one of {', '.join(DEVICES)}")
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device is {name!r}, but PyTorch {torch.__version__} sees no GPU here: use auto or cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device is {name!r}: {error}") from None

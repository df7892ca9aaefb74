"""Floor 2: tokens and conversations to batches: shards, packing, order, provenance, and instruction formats."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hanlin.data.batch import Batch
    from hanlin.data.order import Order
    from hanlin.data.packing import PackedTokens, validation_batches
    from hanlin.data.shards import TokenShards

_HOMES = {
    "Batch": "batch",
    "Order": "order",
    "PackedTokens": "packing",
    "TokenShards": "shards",
    "validation_batches": "packing",
}
__all__ = ["Batch", "Order", "PackedTokens", "TokenShards", "validation_batches"]


def __getattr__(name: str) -> Any:
    # torch, numpy and pyarrow are imported by those who use them, not by those who read a stage's settings.
    if name in _HOMES:
        return getattr(importlib.import_module(f"hanlin.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hanlin.data' has no attribute {name!r}")

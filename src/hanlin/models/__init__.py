"""Floor 1: the Transformers, plain PyTorch for one device; `hub` reads and writes Hugging Face directories.

Names are imported when they are asked for: a recipe is checked with `ModelConfig` alone, without waiting for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hanlin.models.attention import Cache
    from hanlin.models.config import ModelConfig
    from hanlin.models.transformer import Transformer

_HOMES = {"Cache": "attention", "ModelConfig": "config", "Transformer": "transformer"}
__all__ = ["Cache", "ModelConfig", "Transformer"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"hanlin.models.{_HOMES[name]}"), name)

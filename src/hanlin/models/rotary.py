"""Rotary position embedding: frequencies, their scalings, and the tables of cosines and sines."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hanlin.artifacts import HanlinError
from hanlin.models.config import ModelConfig


def frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """Angular frequencies in radians a position, float32 [head_dim / 2], and the factor on cosines and sines.

    default: theta^(-2i/d) (Su et al. 2021, section 3.2.2). linear: divided by `factor` (Chen et al. 2023). llama3: low
    frequencies divided, high ones kept, the middle blended (Llama 3.1). yarn: Peng et al. 2023, eq. 17-22, with the
    attention factor 0.1 ln(s) + 1. dynamic: as default up to `max_positions`, beyond which tables are refused.
    """
    scaling: dict[str, Any] = config.rope_scaling or {}
    dim, theta = config.head_dim, config.rope_theta
    exponent = torch.arange(0, dim, 2, dtype=torch.int64).float() / dim
    plain = 1.0 / theta**exponent
    match config.rope_type:
        case "default" | "dynamic":
            return plain, 1.0
        case "linear":
            return plain / float(_needed(scaling, "factor")), 1.0
        case "llama3":
            return _llama3(plain, scaling, config), 1.0
        case "yarn":
            return _yarn(plain, scaling, config)
        case unknown:
            raise HanlinError(f"rope_scaling has the unknown type {unknown!r}, in the model's settings")


def _needed(scaling: dict[str, Any], key: str) -> Any:
    if scaling.get(key) is None:
        raise HanlinError(
            f"rope_scaling has no {key!r}, in the model's settings: rope_type {scaling.get('rope_type')!r} needs it"
        )
    return scaling[key]


def _llama3(plain: Tensor, scaling: dict[str, Any], config: ModelConfig) -> Tensor:
    factor = float(_needed(scaling, "factor"))
    low, high = float(_needed(scaling, "low_freq_factor")), float(_needed(scaling, "high_freq_factor"))
    original = int(scaling.get("original_max_position_embeddings") or config.max_positions)
    # Turns that a frequency makes within the original context decide how much of it is scaled.
    turns = original * plain / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return plain * kept + plain / factor * (1 - kept)


def _yarn(plain: Tensor, scaling: dict[str, Any], config: ModelConfig) -> tuple[Tensor, float]:
    original = int(scaling.get("original_max_position_embeddings") or config.max_positions)
    factor = float(scaling.get("factor") or config.max_positions / original)

    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    attention = scaling.get("attention_factor")
    if attention is None:
        numerator, denominator = scaling.get("mscale"), scaling.get("mscale_all_dim")
        attention = magnitude(numerator) / magnitude(denominator) if numerator and denominator else magnitude(1.0)

    def dimension(turns: float) -> float:
        """The (fractional) index whose wavelength makes `turns` turns within the original context."""
        return config.head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low, high = dimension(float(scaling.get("beta_fast") or 32)), dimension(float(scaling.get("beta_slow") or 1))
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_dim - 1)
    if low == high:
        high += 0.001
    scaled = ((torch.arange(config.head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return plain / factor * scaled + plain * (1 - scaled), float(attention)


class RotaryTable:
    """Cosines and sines for positions 0…n, made once a device, grown by doubling.

    Not a module and not a buffer: `model.to(torch.bfloat16)` must not round it (at position 300 bfloat16 resolves 2
    positions). Float32, or float64 for a float64 model.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def at(self, length: int, position_ids: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each [1 or B, T, 1, head_dim / 2], for `x`'s device and precision."""
        reach = length
        if position_ids is not None:
            # A GPU would have to wait to learn the largest position; there it must lie below max_positions.
            reach = int(position_ids.max()) + 1 if x.device.type == "cpu" else self.config.max_positions
        cos, sin = self._table(reach, x)
        if position_ids is None:
            return cos[None, :length, None], sin[None, :length, None]
        return cos[position_ids].unsqueeze(2), sin[position_ids].unsqueeze(2)

    def _table(self, reach: int, x: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        found = self.tables.get((x.device, dtype))
        if found is not None and found[0].shape[0] >= reach:
            return found
        size = max(1 << (reach - 1).bit_length(), min(self.config.max_positions, 4096))
        if self.config.rope_type == "dynamic":
            size = self.config.max_positions
            if reach > size:
                raise HanlinError(
                    f"{reach} positions are more than max_positions {size}: with the rope type 'dynamic' frequencies "
                    "would change while a text grows; shorten it, or use yarn or linear scaling"
                )
        rate, factor = frequencies(self.config)
        angle = torch.outer(torch.arange(size, dtype=dtype), rate.to(dtype))
        found = (angle.cos() * factor).to(x.device), (angle.sin() * factor).to(x.device)
        self.tables[x.device, dtype] = found
        return found

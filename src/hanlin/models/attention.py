"""Which positions see which, and attention computed under it."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Cache(Protocol):
    """Keys and values of earlier positions, kept by whoever generates text (the inference room implements it)."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store the new positions' key and value, and attend to them and to all stored before.

        query [B, heads, T, head_dim], key and value [B, kv_heads, T, head_dim]: of the NEW positions, already rotated.
        Returns [B, heads, T, head_dim]. The scale is head_dim^-0.5; a sliding window (`ModelConfig.window(layer)`) is
        the cache's to obey.
        """
        ...


def attention_mask(
    length: int, window: int | None, document_ids: Tensor | None, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """What is added to the attention's scores: 0 where a position may look, -inf elsewhere; [1 or B, 1, T, T].

    None means plain causal attention, for which the kernels need no mask. A position sees itself and what lies before it
    in its own document, no further back than the window. Made once a batch, not once a layer; additive and in the scores'
    dtype, because the CPU kernel would turn a boolean mask into that at every call.
    """
    if document_ids is None and (window is None or window >= length):
        return None
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    visible = distance >= 0
    if window is not None and window < length:
        visible = visible & (distance < window)
    visible = visible[None]
    if document_ids is not None:
        visible = visible & (document_ids[:, :, None] == document_ids[:, None, :])
    mask = torch.zeros(visible.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~visible, float("-inf"))[:, None]


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention with grouped queries; query [B, heads, T, D], key and value [B, kv_heads, T, D]."""
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=query.shape[1] != key.shape[1]
    )

"""Which positions see which, and attention computed under it."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hanlin.models.branches import Branches, branch_attention, branches
from hanlin.models.config import ModelConfig


class Cache(Protocol):
    """Keys and values of earlier positions, kept by whoever generates text (the inference room implements it)."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store the new positions' key and value, and attend to them and to all stored before.

        query [B, heads, T, head_dim], key and value [B, kv_heads, T, head_dim]: of the NEW positions, already rotated.
        Returns [B, heads, T, head_dim]. The scale is head_dim^-0.5; a sliding window (`ModelConfig.window(layer)`) is
        the cache's to obey.
        """
        ...


class Visibility(NamedTuple):
    """What a layer's positions may look at: themselves and what lies before them, in the same document, no further
    back than the window. Made once a batch, not once a layer. With no field set, attention is plainly causal."""

    mask: Tensor | None = None
    """Added to the scores: 0 where a position may look, -inf elsewhere; [1 or B, 1, T, T] in the scores' dtype, because
    the CPU kernel would turn a boolean mask into that at every call."""
    segments: Tensor | None = None
    """CPU: one line (row, start, end) a document, int64 [B · T, 3], zeros behind the last. Each is attended to by
    itself, so that the work is proportional to the squares of the documents' lengths, not of the row's."""
    starts: Tensor | None = None
    """CUDA: where each document starts in the flattened batch, and its end, int32 [documents + 1]."""
    longest: int = 0
    """Length of the longest document, with `starts`."""
    window: int | None = None
    """The sliding window, where `segments` or `starts` are given."""
    branches: Branches | None = None
    """Answers that share prompts, in a single row; it knows about windows by itself."""


def visibility(
    config: ModelConfig, batch: int, length: int, document_ids: Tensor | None, x: Tensor, lines: Tensor | None = None
) -> list[Visibility]:
    """One `Visibility` a layer, for rows of `length` positions whose hidden states are like `x` (dtype, device).

    A document is a run of equal `document_ids` [B, T] within a row. `lines` are answers that share prompts (see
    `branches.branches`), instead of documents.
    """
    made: dict[int | None, Visibility] = {}
    windows = {config.window(layer) for layer in range(config.layers)}
    if lines is not None:
        made = {window: Visibility(branches=found) for window, found in branches(lines, windows, x).items()}
        return [made[config.window(layer)] for layer in range(config.layers)]
    for window in windows:
        reach = None if window is None or window >= length else window
        if document_ids is None:
            made[window] = Visibility() if reach is None else Visibility(mask=_mask(length, reach, None, x))
        elif x.device.type == "cpu":
            made[window] = _on_cpu(config.heads, length, reach, document_ids, x)
        elif x.device.type == "cuda" and x.dtype in (torch.bfloat16, torch.float16):
            starts = _segments(document_ids)
            starts = F.pad(starts[:, 0] * length + starts[:, 1], (0, 1), value=batch * length).to(torch.int32)
            made[window] = Visibility(starts=starts, longest=int(starts.diff().max()), window=reach)
        else:
            made[window] = Visibility(mask=_mask(length, reach, document_ids, x))
    return [made[config.window(layer)] for layer in range(config.layers)]


CALL_COST = 50_000
"""What calling the CPU kernel for one document costs, forward and backward, in query-key pairs of one head that it
could have computed in that time (measured: 0.47 ms a call, 9 ns a pair)."""


def _on_cpu(heads: int, length: int, window: int | None, document_ids: Tensor, x: Tensor) -> Visibility:
    """One call over whole rows under a mask, or one for each document: what takes less time."""
    segments = _segments(document_ids)
    sizes = segments[:, 2] - segments[:, 1]
    apart = heads * int(sizes.square().sum()) + CALL_COST * len(segments)
    if heads * document_ids.shape[0] * length * length <= apart:
        return Visibility(mask=_mask(length, window, document_ids, x))
    # Filled up with empty lines: compiled blocks would be compiled anew for each number of documents.
    return Visibility(segments=F.pad(segments, (0, 0, 0, document_ids.numel() - len(segments))), window=window)


def _mask(length: int, window: int | None, document_ids: Tensor | None, x: Tensor) -> Tensor:
    position = torch.arange(length, device=x.device)
    distance = position[:, None] - position[None, :]
    visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    visible = visible[None]
    if document_ids is not None:
        visible = visible & (document_ids[:, :, None] == document_ids[:, None, :])
    return torch.zeros(visible.shape, dtype=x.dtype, device=x.device).masked_fill_(~visible, float("-inf"))[:, None]


def _segments(document_ids: Tensor) -> Tensor:
    """(row, start, end) of each run of equal ids, in order; int64 [runs, 3]."""
    begins = torch.ones_like(document_ids, dtype=torch.bool)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    row, start = begins.nonzero(as_tuple=True)
    length = document_ids.shape[1]
    flat = row * length + start
    end = F.pad(flat[1:], (0, 1), value=document_ids.numel()) - row * length
    return torch.stack((row, start, end), dim=1)


def attend(query: Tensor, key: Tensor, value: Tensor, see: Visibility) -> Tensor:
    """Scaled dot-product attention; query [B, heads, T, D], key and value [B, kv_heads, T, D] -> [B, heads, T, D]."""
    groups = query.shape[1] // key.shape[1]
    if see.branches is not None:
        return branch_attention(query, key, value, see.branches)
    if see.starts is not None:
        # Imported here because only GPUs need it: it brings torch's compiler with it, seconds of every start.
        from torch.nn.attention.varlen import varlen_attn

        batch, _, length, _ = query.shape
        flat = [x.transpose(1, 2).flatten(0, 1) for x in (query, key, value)]
        back = -1 if see.window is None else see.window - 1
        mixed = varlen_attn(
            flat[0],
            flat[1],
            flat[2],
            see.starts,
            see.starts,
            see.longest,
            see.longest,
            window_size=(back, 0),
            enable_gqa=groups > 1,
        )
        assert isinstance(mixed, Tensor)
        return mixed.unflatten(0, (batch, length)).transpose(1, 2)
    if see.segments is not None:
        if groups > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        return segment_attention(query, key, value, see.segments, see.window)[0]
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=see.mask, is_causal=see.mask is None, enable_gqa=groups > 1
    )


# An operator of its own, so that torch.compile takes the loop over documents as one opaque call.
@torch.library.custom_op("hanlin::segment_attention", mutates_args=(), device_types="cpu")
def segment_attention(
    query: Tensor, key: Tensor, value: Tensor, segments: Tensor, window: int | None
) -> tuple[Tensor, Tensor]:
    """Causal attention inside each (row, start, end) of `segments`, all [B, heads, T, D]; and log-sum-exp."""
    batch, heads, length, size = query.shape
    mixed = query.new_zeros((batch, length, heads, size)).transpose(1, 2)
    normaliser = query.new_zeros((batch, length, heads), dtype=_exact(query)).transpose(1, 2)
    for row, start, end in segments[segments[:, 2] > 0].tolist():
        parts = [x[row : row + 1, :, start:end] for x in (query, key, value)]
        causal, bias = _bias(end - start, window, query)
        mixed[row : row + 1, :, start:end], normaliser[row : row + 1, :, start:end] = (
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*parts, 0.0, causal, attn_mask=bias)
        )
    return mixed, normaliser


@torch.library.custom_op("hanlin::segment_attention_backward", mutates_args=(), device_types="cpu")
def _segment_attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, mixed: Tensor, normaliser: Tensor, segments: Tensor,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grads = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    for row, start, end in segments[segments[:, 2] > 0].tolist():
        parts = [x[row : row + 1, :, start:end] for x in (grad, query, key, value, mixed, normaliser)]
        causal, bias = _bias(end - start, window, query)
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(*parts, 0.0, causal, attn_mask=bias)
        for target, part in zip(grads, found):
            target[row : row + 1, :, start:end] = part
    return grads


def _exact(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _bias(length: int, window: int | None, x: Tensor) -> tuple[bool, Tensor | None]:
    """(is_causal, mask) for one document: a mask only where the window is shorter than it."""
    if window is None or window >= length:
        return True, None
    return False, _mask(length, window, None, x)


@segment_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, segments: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
    batch, heads, length, size = query.shape
    return (
        query.new_empty((batch, length, heads, size)).transpose(1, 2),
        query.new_empty((batch, length, heads), dtype=_exact(query)).transpose(1, 2),
    )


@_segment_attention_backward.register_fake
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, mixed: Tensor, normaliser: Tensor, segments: Tensor,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, segments, window = inputs
    ctx.save_for_backward(query, key, value, *output, segments)
    ctx.window = window


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, mixed, normaliser, segments = ctx.saved_tensors
    return (
        *_segment_attention_backward(grad, query, key, value, mixed, normaliser, segments, ctx.window),
        None,
        None,
    )


segment_attention.register_autograd(_backward, setup_context=_setup)

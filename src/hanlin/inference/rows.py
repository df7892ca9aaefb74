"""What rows.c and attend.c compute of float32 rows on a CPU, as functions of tensors."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from hanlin.inference.native import address, compiled
from hanlin.models import ModelConfig

LARGEST_HEAD = 256


class Heads(ctypes.Structure):
    """`Heads` of kernels.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("heads", "kv_heads", "size")),
        ("epsilon", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("query_norm", "key_norm")),
    )


def computes_rows(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether rows of this kind are computed here."""
    return dtype == torch.float32 and device.type == "cpu" and compiled() is not None


class RowNorm:
    """Calls: (x, y) -> x + y (x itself, changed; y may be None) and its RMS norm times `weight`; [n, D] all."""

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        library = compiled()
        assert library is not None
        self._function, self._weight, self._epsilon = library.add_norm, weight, epsilon

    def __call__(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(x)
        rows, size = x.shape
        pointers = x.data_ptr(), address(y), self._weight.data_ptr()
        self._function(*pointers, self._epsilon, size, rows, out.data_ptr(), torch.get_num_threads())
        return x, out


def silu_gate(inner: Tensor) -> Tensor:
    """silu(gate) · up, [n, D], of `inner` [n, 2 · D], gate first."""
    library = compiled()
    assert library is not None
    rows, size = inner.shape[0], inner.shape[1] // 2
    out = torch.empty((rows, size))
    library.gate(inner.data_ptr(), size, rows, out.data_ptr(), torch.get_num_threads())
    return out


def scan(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row of scores [n, V] the place of the largest (int64 [n]), the largest itself and the logarithm of the
    sum of exponentials [n], which is NaN where a score is NaN or +inf."""
    if not (computes_rows(scores.dtype, scores.device) and scores.is_contiguous()):
        largest, best = scores.max(dim=1)
        # In float64, for a vector's logarithms and a single one differ in their last bits.
        return best, largest, row_sums((scores - largest[:, None]).exp_()).double().log_().float() + largest
    library = compiled()
    assert library is not None
    rows, size = scores.shape
    best, largest, normaliser = torch.empty(rows, dtype=torch.int64), torch.empty(rows), torch.empty(rows)
    pointers = best.data_ptr(), largest.data_ptr(), normaliser.data_ptr()
    library.scan(scores.data_ptr(), size, rows, *pointers, torch.get_num_threads())
    return best, largest, normaliser


def row_sums(values: Tensor) -> Tensor:
    """Sums of the rows of [n, V], each computed as if it stood alone.

    PyTorch sums a single row with all threads together, in another order than when there are several.
    """
    return values.sum(dim=1) if values.shape[0] > 1 else values.expand(2, -1).sum(dim=1)[:1]


class RowAttention:
    """Attention of a step's tokens: turns and stores their queries, keys and values, and computes what each sees, over
    as many keys as it has. For tokens at these slots [rows] and positions [rows or more], whose cosines and sines
    [rows, D / 2] are `turn` (None: learned positions); those after `rows` fill the step up, see nothing, and are stored
    nowhere.

    Calls: (layer, joint [rows or more, heads + 2 · kv_heads, D], norms) -> [rows or more, heads · D], what its queries
    see; `joint` is changed."""

    def __init__(
        self, config: ModelConfig, data: Tensor, slots: Tensor, positions: Tensor, turn: tuple[Tensor, Tensor] | None
    ) -> None:
        library = compiled()
        assert library is not None
        self._place, self._attend, self._config, self._data = library.place, library.attend, config, data
        self._positions, self._at = positions, torch.full_like(positions, -1)
        rows, strides = slots.shape[0], data.stride()
        torch.add(slots * strides[0], positions[:rows], alpha=strides[3], out=self._at[:rows])
        self._turn = None if turn is None else (turn[0].contiguous(), turn[1].contiguous())
        self._threads = torch.get_num_threads()
        self._shape = config.heads, config.kv_heads, config.head_dim, config.norm_epsilon

    def __call__(self, layer: int, joint: Tensor, norms: tuple[Tensor, Tensor] | None) -> Tensor:
        self.place(layer, joint, norms)
        return self.attend(layer, joint)

    @property
    def arguments(self) -> tuple[int | None, ...]:
        """What blocks.c takes of it: angles, places, positions, the cache, and the strides of its layers and heads."""
        cos, sin = self._turn or (None, None)
        pointers = address(cos), address(sin), self._at.data_ptr(), self._positions.data_ptr(), self._layer(0)
        return *pointers, self._data.stride(1), self._data.stride(2)

    def place(self, layer: int, joint: Tensor, norms: tuple[Tensor, Tensor] | None) -> None:
        """Normalise (Qwen3) and turn queries and keys of joint [n, heads + 2 · kv_heads, D] in place; store keys and
        values in the cache."""
        heads = self._heads(norms)
        turn = self._turn or (None, None)
        pointers = address(turn[0]), address(turn[1]), self._at.data_ptr(), self._layer(layer)
        size = self._data.stride(2), joint.shape[0], self._threads
        self._place(ctypes.byref(heads), joint.data_ptr(), *pointers, *size)

    def attend(self, layer: int, joint: Tensor) -> Tensor:
        """What the queries of joint see: each the positions of its sequence up to its own, which are in the cache."""
        rows, out = joint.shape[0], joint.new_empty((joint.shape[0], self._config.heads * self._config.head_dim))
        heads, window = self._heads(None), self._config.window(layer)
        pointers = self._at.data_ptr(), self._positions.data_ptr(), self._layer(layer)
        size = self._data.stride(2), 1 << 60 if window is None else window, rows
        self._attend(ctypes.byref(heads), joint.data_ptr(), *pointers, *size, out.data_ptr(), self._threads)
        return out

    def _heads(self, norms: tuple[Tensor, Tensor] | None) -> Heads:
        if norms is None:
            return Heads(*self._shape, None, None)
        assert norms[0].dtype == norms[1].dtype == torch.float32
        return Heads(*self._shape, *map(Tensor.data_ptr, norms))

    def _layer(self, layer: int) -> int:
        return self._data.data_ptr() + layer * self._data.stride(1) * self._data.element_size()

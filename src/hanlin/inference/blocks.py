"""All blocks of a frozen model in one call of blocks.c."""

from __future__ import annotations

import ctypes
from typing import cast

import torch
from torch import Tensor, nn

from hanlin.inference.native import Product, address, compiled
from hanlin.inference.products import FrozenLinear
from hanlin.inference.rows import LARGEST_HEAD, Heads, RowAttention
from hanlin.models import Transformer
from hanlin.models.transformer import Block, RMSNorm


class _Linear(ctypes.Structure):
    """`Linear` of blocks.c."""

    _fields_ = (("kind", ctypes.c_int64), ("matrix", ctypes.c_void_p))


class _Block(ctypes.Structure):
    """`Block` of blocks.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("attention_norm", "mlp_norm", "query_norm", "key_norm")),
        *((name, _Linear) for name in ("qkv", "out", "up", "down")),
        ("window", ctypes.c_int64),
    )


class _Stack(ctypes.Structure):
    """`Stack` of blocks.c."""

    _fields_ = (
        ("blocks", ctypes.POINTER(_Block)),
        *((name, ctypes.c_int64) for name in ("count", "hidden", "inner", "weights")),
        ("heads", Heads),
    )


class Blocks:
    """Calls: (x [rows, hidden], which is changed, the attention of the step, places [n] of the rows that are wanted, or
    None for all) -> the residual stream and what is to be added to it, as before the final norm, [n, hidden] each.
    Raises MemoryError."""

    def __init__(self, model: Transformer) -> None:
        library = compiled()
        assert library is not None
        config = model.config
        blocks = (_Block * config.layers)()
        self._kept: list[object] = [model, blocks]
        for number, module in enumerate(model.blocks):
            block = cast(Block, module)
            attention, mlp, into = block.attention, block.mlp, blocks[number]
            into.attention_norm, into.mlp_norm = self._norm(block.attention_norm), self._norm(block.mlp_norm)
            into.query_norm, into.key_norm = self._norm(attention.query_norm), self._norm(attention.key_norm)
            for name, linear in (("qkv", attention.qkv), ("out", attention.out), ("up", mlp.up), ("down", mlp.down)):
                setattr(into, name, self._linear(linear))
            window = config.window(number)
            into.window = 1 << 60 if window is None else window
        heads = Heads(config.heads, config.kv_heads, config.head_dim, config.norm_epsilon, None, None)
        weights = sum(one.inputs * one.outputs for one in self._kept if isinstance(one, Product))
        self._stack = _Stack(blocks, config.layers, config.hidden_size, config.intermediate_size, weights, heads)
        self._function = library.blocks

    @staticmethod
    def can_run(model: Transformer) -> bool:
        """Whether all that a block of `model` computes is there in C."""
        config = model.config
        frozen = (module for block in model.blocks for module in block.modules() if isinstance(module, FrozenLinear))
        return (
            config.norm == "rms"
            and config.gated
            and config.activation == "silu"
            and config.head_dim <= LARGEST_HEAD
            and sum(isinstance(linear.product, Product) for linear in frozen) == 4 * config.layers
        )

    def __call__(self, x: Tensor, attention: RowAttention, answers: Tensor | None) -> tuple[Tensor, Tensor]:
        added, rows = torch.empty_like(x), x.shape[0]
        wanted = rows if answers is None else answers.shape[0]
        given = ctypes.byref(self._stack), x.data_ptr(), added.data_ptr(), *attention.arguments, rows
        if self._function(*given, address(answers), wanted, torch.get_num_threads()):
            raise MemoryError(f"no memory for a step of {rows} rows")
        return x[:wanted], added[:wanted]

    def _norm(self, module: nn.Module | None) -> int | None:
        return None if module is None else cast(RMSNorm, module).weight.data_ptr()

    def _linear(self, module: nn.Module) -> _Linear:
        product = cast(Product, cast(FrozenLinear, module).product)
        self._kept.append(product)
        return _Linear(product.kind, ctypes.addressof(product.matrix))

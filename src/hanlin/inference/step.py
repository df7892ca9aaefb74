"""One decoding step: a token a row through the whole model, with as few operations as that takes.

`Transformer.hidden` would compute the same (the tests hold the two together), but a step of generation is so little
arithmetic that calling modules and small operations costs a good part of it: written flat, with one rotation for
queries and keys, one store for keys and values and no autograd, what a layer costs besides its products falls to less
than half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanlin.inference.cache import KVCache, additive_mask
from hanlin.inference.products import FrozenLinear
from hanlin.models import ModelConfig, Transformer
from hanlin.models.transformer import Attention, Block, RMSNorm

Function = Callable[[Tensor], Tensor]


def linear_function(module: nn.Module, dtype: torch.dtype) -> Function:
    """What `module` computes, without the cost of calling a module.

    Adapted and quantised layers are no nn.Linear, and are called: their active adapter may change between calls.
    """
    if isinstance(module, FrozenLinear):
        return module.product
    if not isinstance(module, nn.Linear):
        return module
    weight: Tensor = module.weight
    bias = cast("Tensor | None", module.bias)
    if weight.dtype != dtype:
        # Weights in training keep their own precision: they are rounded when used, for they may have changed.
        return lambda x: F.linear(x, weight.to(dtype), None if bias is None else bias.to(dtype))
    return lambda x: F.linear(x, weight, bias)


def inverse_rms(x: Tensor, epsilon: Tensor) -> Tensor:
    """1 / sqrt(mean(x²) + epsilon) over the last dimension, which stays with size 1."""
    if x.shape[0] == 1 and x.dim() == 2:
        # Of one row the sum of squares is a product: one operation for two, half of the time beside cold caches.
        return torch.addmm(epsilon, x, x.T, alpha=1 / x.shape[1]).rsqrt_()
    norm = cast(Tensor, torch.linalg.vector_norm(x, 2, -1, True))
    return torch.addcmul(epsilon, norm, norm, value=1 / x.shape[-1]).rsqrt_()


def norm_function(module: nn.Module, dtype: torch.dtype) -> Function:
    """The norm that `module` is; RMSNorm computed in float32 (or float64), as everywhere."""
    if not isinstance(module, RMSNorm):
        return module
    weight = module.weight
    wide = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    epsilon = torch.tensor(module.epsilon, dtype=wide, device=weight.device)

    def norm(x: Tensor) -> Tensor:
        return (x * inverse_rms(x, epsilon)).mul_(weight)

    return norm if wide == dtype else lambda x: norm(x.to(wide)).to(dtype)


def rotation(cos: Tensor, sin: Tensor) -> Tensor:
    """[n, D, D] with which x @ it turns the pairs (i, i + D/2) of x by their angles; cos and sin [n, D/2].

    As a product it is one operation a layer where turning takes six, and made once a step: for a few rows that is less.
    """
    straight = torch.diag_embed(torch.cat((cos, cos), -1))
    crossed = torch.diag_embed(torch.cat((-sin, sin), -1)).roll(cos.shape[-1], -2)
    return straight + crossed


MOST_PRODUCTS = 2
"""Rows up to which queries and keys are turned by a product; for 4 and more it took a tenth longer."""


class _Layer:
    """A block's functions and weights, taken out of its modules once."""

    def __init__(self, block: Block, config: ModelConfig, dtype: torch.dtype) -> None:
        attention: Attention = block.attention
        self.attention_norm, self.mlp_norm = (
            norm_function(block.attention_norm, dtype),
            norm_function(block.mlp_norm, dtype),
        )
        self.qkv, self.out = linear_function(attention.qkv, dtype), linear_function(attention.out, dtype)
        self.up, self.down = linear_function(block.mlp.up, dtype), linear_function(block.mlp.down, dtype)
        self.activation = block.mlp.activation
        self.norms: tuple[Tensor, Tensor] | None = None
        if attention.query_norm is not None and attention.key_norm is not None:
            self.norms = attention.query_norm.weight, attention.key_norm.weight


class DecodeStep:
    """Calls: (tokens int64 [n], lengths of the rows 0…n-1 so far) -> logits [n, vocabulary], storing keys and values.

    `dtype` is what the model computes in. Weights are referred to, not copied: a model that trains on may be asked
    again.
    """

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        self.model, self.config, self.dtype = model, model.config, dtype
        self.wide = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        self.layers = [_Layer(cast(Block, block), model.config, dtype) for block in model.blocks]
        self.final_norm = norm_function(model.final_norm, dtype)
        device = model.embedding.weight.device
        self.epsilon = torch.tensor(model.config.norm_epsilon, dtype=self.wide, device=device)

    def __call__(self, tokens: Tensor, lengths: Sequence[int], cache: KVCache) -> Tensor:
        config = self.config
        rows, span = tokens.shape[0], max(lengths) + 1
        heads, kv_heads, size = config.heads, config.kv_heads, config.head_dim
        joint_heads, group = heads + kv_heads, heads // kv_heads
        positions = torch.tensor(lengths, device=cache.device)
        x = self.model.embedding(tokens).to(self.dtype)
        turn: Tensor | tuple[Tensor, Tensor] | None = None
        if self.model.positions is not None:
            x = x + self.model.positions(positions).to(self.dtype)
        elif self.model.rotary is not None:
            cos, sin = (part[:, 0] for part in self.model.rotary.at(1, positions[:, None], x))
            turn = rotation(cos[:, 0], sin[:, 0]) if rows <= MOST_PRODUCTS else (cos, sin)
        slots, masks = cache.slots(positions), self._masks(positions, lengths, span)
        # stored[:rows, :kv_heads, :span] and stored[:rows, kv_heads:, :span], in a third of the time.
        seen, strides = (rows, kv_heads, span, size), cache.layers[0].stride()
        for number, layer in enumerate(self.layers):
            joint = layer.qkv(layer.attention_norm(x)).view(rows, heads + 2 * kv_heads, size)
            if turn is not None:
                self._norm_rotate(joint[:, :joint_heads], layer.norms, turn)
            stored = cache.layers[number]
            stored.view(-1, size).index_copy_(0, slots, joint[:, heads:].reshape(-1, size))
            mixed = F.scaled_dot_product_attention(
                # The query heads of a group look like the positions of one head: far faster than enable_gqa.
                joint[:, :heads].view(rows, kv_heads, group, size),
                stored.as_strided(seen, strides),
                stored.as_strided(seen, strides, kv_heads * strides[1]),
                masks[config.window(number)],
            )
            x = x + layer.out(mixed.reshape(rows, heads * size))
            inner = layer.up(layer.mlp_norm(x))
            if config.gated:
                gate, up = inner.chunk(2, -1)
                inner = layer.activation(gate).mul_(up)
            else:
                inner = layer.activation(inner)
            x = x + layer.down(inner)
        return self.model.logits(self.final_norm(x))

    def _norm_rotate(
        self, joint: Tensor, norms: tuple[Tensor, Tensor] | None, turn: Tensor | tuple[Tensor, Tensor]
    ) -> None:
        """Normalise (Qwen3) and turn queries and keys [n, heads + kv_heads, D] in place; turn [n, D, D], or cosines
        and sines [n, 1, D / 2]."""
        both = joint if self.wide == self.dtype else joint.to(self.wide)
        if norms is not None:
            both = both * inverse_rms(both, self.epsilon)
            both[:, : self.config.heads].mul_(norms[0])
            both[:, self.config.heads :].mul_(norms[1])
        if isinstance(turn, Tensor):
            joint.copy_(torch.bmm(both, turn))
            return
        (first, second), (cos, sin) = both.chunk(2, -1), turn
        left, right = (first * cos).addcmul_(second, sin, value=-1), (second * cos).addcmul_(first, sin)
        joint.copy_(torch.cat((left, right), -1))

    def _masks(self, positions: Tensor, lengths: Sequence[int], span: int) -> dict[int | None, Tensor | None]:
        """For each window among the layers: additive [n, 1, 1, span]; None where every row sees every slot."""
        masks: dict[int | None, Tensor | None] = {}
        distance: Tensor | None = None
        for window in {self.config.window(layer) for layer in range(self.config.layers)}:
            reach = None if window is None or window >= span else window
            if reach is None and min(lengths) + 1 == span:
                masks[window] = None
                continue
            if distance is None:
                distance = positions[:, None] - torch.arange(span, device=positions.device)
            visible = distance >= 0 if reach is None else (distance >= 0) & (distance < reach)
            masks[window] = additive_mask(visible[:, None, None], self.dtype)
        return masks

"""The decoder: blocks of attention and MLP over a residual stream, for one device, with no I/O and no parallelism."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanlin.artifacts import HanlinError
from hanlin.models.attention import Cache, attend, attention_mask
from hanlin.models.config import ModelConfig
from hanlin.models.rotary import RotaryTable

ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + epsilon) · weight over the last dimension (Zhang & Sennrich 2019)."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class FusedLinear(nn.Linear):
    """Several projections of one input as a single matrix product; `splits` are their output widths, in order."""

    def __init__(self, size: int, splits: tuple[int, ...], bias: bool) -> None:
        super().__init__(size, sum(splits), bias=bias)
        self.splits = splits


def make_norm(config: ModelConfig) -> nn.Module:
    if config.norm == "layer":
        return nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
    return RMSNorm(config.hidden_size, config.norm_epsilon)


class Attention(nn.Module):
    """Grouped-query attention; the query, key and value projections are one matrix."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.kv_heads, self.head_dim = layer, config.heads, config.kv_heads, config.head_dim
        widths = (config.heads * config.head_dim, config.kv_heads * config.head_dim, config.kv_heads * config.head_dim)
        self.qkv = FusedLinear(config.hidden_size, widths, config.attention_bias)
        self.out = nn.Linear(widths[0], config.hidden_size, bias=config.attention_bias)
        self.query_norm = RMSNorm(config.head_dim, config.norm_epsilon) if config.qk_norm else None
        self.key_norm = RMSNorm(config.head_dim, config.norm_epsilon) if config.qk_norm else None

    def forward(self, x: Tensor, cos: Tensor | None, sin: Tensor | None, mask: Tensor | None, cache: Cache | None) -> Tensor:
        batch, length, _ = x.shape
        projected = self.qkv(x).view(batch, length, self.heads + 2 * self.kv_heads, self.head_dim)
        query, key, value = projected.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if cos is not None and sin is not None:
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        mixed = attend(query, key, value, mask) if cache is None else cache.attend(self.layer, query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, self.heads * self.head_dim))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + D/2) of x [B, T, H, D] by their positions' angles; cos and sin [1 or B, T, 1, D/2]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class MLP(nn.Module):
    """down(act(gate(x)) · up(x)) with gate and up in one matrix, or down(act(up(x)))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated, self.activation = config.gated, ACTIVATIONS[config.activation]
        widths = (config.intermediate_size,) * (2 if config.gated else 1)
        self.up = FusedLinear(config.hidden_size, widths, config.mlp_bias)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.up(x)
        if self.gated:
            gate, up = inner.chunk(2, dim=-1)
            return self.down(self.activation(gate) * up)
        return self.down(self.activation(inner))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (pre-norm)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = make_norm(config), Attention(config, layer)
        self.mlp_norm, self.mlp = make_norm(config), MLP(config)

    def forward(
        self, x: Tensor, cos: Tensor | None, sin: Tensor | None, mask: Tensor | None, cache: Cache | None = None
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, mask, cache)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """A causal language model of the shape that `config` gives.

    Weights are unset until `init_weights(seed)` or `hub.load_model`. Build it under `torch.device("meta")` to cost nothing.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        with _NoInit():
            self.embedding = nn.Embedding(config.vocabulary_size, config.hidden_size)
            self.positions = nn.Embedding(config.max_positions, config.hidden_size) if config.position == "learned" else None
            self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
            self.final_norm = make_norm(config)
            self.head = None if config.tied else nn.Linear(config.hidden_size, config.vocabulary_size, bias=False)
        self.rotary = RotaryTable(config) if config.position == "rope" else None

    @property
    def head_weight(self) -> Tensor:
        """The output matrix [vocabulary, hidden]: the embedding itself where the two are tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Token ids [B, T] to hidden states [B, T, hidden] after the final norm.

        `position_ids` [B, T] default to 0…T-1; `document_ids` [B, T] keep attention inside equal ids (None: each row is one
        document). With a `cache`, positions must be given and attention is the cache's. Raises HanlinError for a sequence
        longer than learned positions reach.
        """
        length = input_ids.shape[1]
        x = self.embedding(input_ids)
        if cache is not None and position_ids is None:
            raise HanlinError("hidden() was given a cache but no position_ids: only the caller knows where the new tokens stand")
        cos = sin = None
        if self.positions is not None:
            if length > self.config.max_positions:
                raise HanlinError(
                    f"a sequence of {length} tokens is longer than the {self.config.max_positions} learned positions of this "
                    f"{self.config.family} model: shorten it"
                )
            x = x + (self.positions.weight[:length] if position_ids is None else self.positions(position_ids))
        elif self.rotary is not None:
            cos, sin = self._rotation(length, position_ids, x)
        masks: dict[int | None, Tensor | None] = {}
        for layer, block in enumerate(self.blocks):
            window = self.config.window(layer)
            if cache is None and window not in masks:
                masks[window] = attention_mask(length, window, document_ids, x.dtype, x.device)
            x = block(x, cos, sin, masks.get(window), cache)
        return self.final_norm(x)

    def _rotation(self, length: int, position_ids: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [1 or B, T, 1, head_dim / 2] in x's dtype."""
        assert self.rotary is not None
        if position_ids is None:
            cos, sin = self.rotary.get(length, x.device, x.dtype)
            return cos[None, :length, None], sin[None, :length, None]
        reach = length
        if x.device.type == "cpu" or length > self.config.max_positions or position_ids.shape[1] == 1:
            reach = int(position_ids.max()) + 1
        cos, sin = self.rotary.get(max(reach, self.config.max_positions), x.device, x.dtype)
        return cos[position_ids][:, :, None], sin[position_ids][:, :, None]

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., hidden] to scores [..., vocabulary], in the hidden states' dtype."""
        return F.linear(hidden, self.head_weight)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits [B, T, vocabulary]; arguments as `hidden`."""
        return self.logits(self.hidden(input_ids, position_ids, document_ids, cache))

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Fill every weight from `seed`, the same on every device and whatever was drawn before."""
        generator = torch.Generator().manual_seed(seed)
        residual = 1.0 / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                scale = 0.02 * (residual if name.endswith(("out.weight", "down.weight")) else 1.0)
                values = torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, scale, generator=generator)
                parameter.copy_(values)


class _NoInit:
    """Within it, PyTorch layers leave their weights unset: they are filled once, by `init_weights` or from a file."""

    def __enter__(self) -> None:
        self.saved = nn.Linear.reset_parameters, nn.Embedding.reset_parameters
        nn.Linear.reset_parameters = lambda self: None
        nn.Embedding.reset_parameters = lambda self: None

    def __exit__(self, *_: object) -> None:
        nn.Linear.reset_parameters, nn.Embedding.reset_parameters = self.saved

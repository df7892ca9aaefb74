"""The decoder: blocks of attention and MLP over a residual stream, for one device, with no I/O and no parallelism."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanlin.artifacts import HanlinError
from hanlin.models.attention import Cache, Visibility, attend, visibility
from hanlin.models.config import ModelConfig
from hanlin.models.initialise import init_weights
from hanlin.models.kernels import norm_rotate, rms_norm, swiglu
from hanlin.models.rotary import RotaryTable

_tanh_gelu = functools.partial(F.gelu, approximate="tanh")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": F.relu,
}


class Linear(nn.Linear):
    """A linear layer that computes in its input's dtype: with float32 weights and a bfloat16 stream, products run in
    bfloat16 while weights, and the gradients that reach them, stay float32. Weights are unset until something fills
    them.

    `splits` are the output widths of the projections that are joined in it, in order (one, for a plain layer): a single
    matrix product for queries, keys and values, and one for gate and up. An optimiser that treats matrices as matrices
    (Muon), and the hub, take it apart by them.
    """

    def __init__(self, inputs: int, splits: tuple[int, ...], bias: bool) -> None:
        super().__init__(inputs, sum(splits), bias=bias)
        self.splits = splits

    def reset_parameters(self) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        bias = cast("Tensor | None", self.bias)  # torch declares a Tensor, and sets None for bias=False
        return F.linear(input, self.weight.to(input.dtype), None if bias is None else bias.to(input.dtype))


class Embedding(nn.Embedding):
    """A table of vectors, unset until something fills it."""

    def reset_parameters(self) -> None:
        pass


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + epsilon) · weight over the last dimension (Zhang & Sennrich 2019), computed in float32."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.epsilon)


class LayerNorm(nn.LayerNorm):
    """LayerNorm with bias that computes in its input's dtype (PyTorch's kernels sum in float32)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(
            input, self.normalized_shape, self.weight.to(input.dtype), self.bias.to(input.dtype), self.eps
        )


def _norm(config: ModelConfig) -> nn.Module:
    kind = RMSNorm if config.norm == "rms" else LayerNorm
    return kind(config.hidden_size, config.norm_epsilon)


class Attention(nn.Module):
    """Grouped-query attention; the query, key and value projections are one matrix."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.kv_heads, self.head_dim = layer, config.heads, config.kv_heads, config.head_dim
        self.epsilon = config.norm_epsilon
        widths = (config.heads * config.head_dim, config.kv_heads * config.head_dim, config.kv_heads * config.head_dim)
        self.qkv = Linear(config.hidden_size, widths, config.attention_bias)
        self.out = Linear(widths[0], (config.hidden_size,), config.attention_bias)
        self.query_norm = RMSNorm(config.head_dim, config.norm_epsilon) if config.qk_norm else None
        self.key_norm = RMSNorm(config.head_dim, config.norm_epsilon) if config.qk_norm else None

    def forward(
        self, x: Tensor, cos: Tensor | None, sin: Tensor | None, see: Visibility, cache: Cache | None, at: Tensor | None
    ) -> Tensor:
        batch, length, _ = x.shape
        joint = self.qkv(x).view(batch, length, self.heads + 2 * self.kv_heads, self.head_dim)
        if cos is None or sin is None:
            parts = joint.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        else:
            weights = None
            if self.query_norm is not None and self.key_norm is not None:
                weights = torch.stack((self.query_norm.weight, self.key_norm.weight))
            parts = norm_rotate(joint, self.heads, weights, self.epsilon, cos, sin)
        query, key, value = (part.transpose(1, 2) for part in parts)
        mixed = attend(query, key, value, see) if cache is None else cache.attend(self.layer, query, key, value)
        mixed = mixed.transpose(1, 2).reshape(batch, length, self.heads * self.head_dim)
        return self.out(mixed if at is None else mixed.flatten(0, 1).index_select(0, at))


class MLP(nn.Module):
    """down(act(gate(x)) · up(x)) with gate and up in one matrix (gate first), or down(act(up(x)))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated, self.silu, self.activation = (
            config.gated,
            config.activation == "silu",
            ACTIVATIONS[config.activation],
        )
        self.up = Linear(config.hidden_size, (config.intermediate_size,) * (2 if config.gated else 1), config.mlp_bias)
        self.down = Linear(config.intermediate_size, (config.hidden_size,), config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.up(x)
        if self.gated and self.silu:
            return self.down(swiglu(inner))
        if self.gated:
            gate, up = inner.chunk(2, dim=-1)
            return self.down(self.activation(gate) * up)
        return self.down(self.activation(inner))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (pre-norm); with `at`, only of those of the B · T positions."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = _norm(config), Attention(config, layer)
        self.mlp_norm, self.mlp = _norm(config), MLP(config)

    def forward(
        self, x: Tensor, cos: Tensor | None, sin: Tensor | None, see: Visibility, cache: Cache | None = None,
        at: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        mixed = self.attention(self.attention_norm(x), cos, sin, see, cache, at)
        x = (x if at is None else x.flatten(0, 1).index_select(0, at)) + mixed
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """A causal language model of the shape that `config` gives.

    Weights are unset until `init_weights(seed)` or `hub.load_model`; under `torch.device("meta")` they cost nothing.

    Precision: everything is computed in `compute_dtype`, by default the weights' own. With float32 weights and
    `compute_dtype = torch.bfloat16` the residual stream and every matrix product are bfloat16, while weights and their
    gradients (summed over micro-batches) are float32; norms, rotations, softmax and the loss sum in float32 in any
    case.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.embedding = Embedding(config.vocabulary_size, config.hidden_size)
        self.positions = Embedding(config.max_positions, config.hidden_size) if config.position == "learned" else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.final_norm = _norm(config)
        self.head = None if config.tied else Linear(config.hidden_size, (config.vocabulary_size,), bias=False)
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
        branches: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Token ids [B, T] to hidden states [B, T, hidden] after the final norm; [len(at), hidden] where only those
        of the B · T positions are asked for, which spares most of the last block.

        `position_ids` [B, T] default to 0…T-1; `document_ids` [B, T] keep attention inside runs of equal ids (None:
        each row is one document). With a `cache`, positions must be given and attention is the cache's. `branches`
        (int64 [S, 4], see `models.branches`): a single row holds prompts and answers that share them. Raises
        HanlinError for positions that the model does not have.
        """
        if cache is not None and position_ids is None:
            raise HanlinError(
                "hidden() was given a cache but no position_ids: only the caller knows where the new tokens stand"
            )
        batch, length = input_ids.shape
        x = self.embedding(input_ids)
        if self.compute_dtype is not None:
            x = x.to(self.compute_dtype)
        cos = sin = None
        if self.rotary is not None:
            cos, sin = self.rotary.at(length, position_ids, x)
        else:
            x = x + self._learned_positions(length, position_ids, branches).to(x.dtype)
        if cache is None:
            sees = visibility(self.config, batch, length, document_ids, x, branches)
        else:
            sees = [Visibility()] * self.config.layers
        for number, (block, see) in enumerate(zip(self.blocks, sees), start=1):
            x = block(x, cos, sin, see, cache, at if number == len(sees) else None)
        return self.final_norm(x)

    def _learned_positions(self, length: int, position_ids: Tensor | None, branches: Tensor | None) -> Tensor:
        assert self.positions is not None
        size = self.config.max_positions
        # Looking at the largest position would make a GPU wait; there a row without documents is the only thing
        # checked.
        if branches is not None:
            last = int((branches[:, 1] + branches[:, 3]).max()) - 1
        elif position_ids is None or position_ids.device.type != "cpu":
            last = length - 1
        else:
            last = int(position_ids.max())
        if last >= size:
            raise HanlinError(
                f"position {last} is beyond the {size} positions of this {self.config.family} model: shorten the text"
            )
        return self.positions.weight[:length] if position_ids is None else self.positions(position_ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., hidden] to scores [..., vocabulary], in the hidden states' dtype."""
        return F.linear(hidden, self.head_weight.to(hidden.dtype))

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits [B, T, vocabulary]; arguments as `hidden`."""
        return self.logits(self.hidden(input_ids, position_ids, document_ids, cache))

    def init_weights(self, seed: int) -> None:
        """Fill every weight from `seed`: the same on every device, whatever was drawn before. See `initialise`."""
        init_weights(self, seed)

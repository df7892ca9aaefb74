"""One step of the engine: new tokens of many sequences, generated ones and prompts, through the whole model at once.

`Transformer.hidden` would compute the same (the tests hold the two together), but a step of generation is so little
arithmetic that calling modules and small operations costs a good part of it: so it is written flat, and on a CPU what
a layer does is a few functions in C (kernels/), which one call goes through where no adapter is in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from hanlin.artifacts import HanlinError
from hanlin.inference.adapters import LoadedAdapter, LoraSet
from hanlin.inference.alike import MOST_FILLED, activations_are_alike, attention_is_alike, least_rows
from hanlin.inference.attention import StepAttention, is_native
from hanlin.inference.blocks import Blocks
from hanlin.inference.cache import KVCache
from hanlin.inference.functions import (
    Function,
    activation_function,
    compute_dtype,
    linear_function,
    norm_function,
)
from hanlin.inference.numbers import integers
from hanlin.inference.plan import Piece, Plan
from hanlin.inference.products import FrozenLinear
from hanlin.inference.rows import RowAttention
from hanlin.models import Transformer
from hanlin.models.transformer import Attention, Block

EXACT_ROWS, ROWS = 64, 32
"""Above so many rows a step that may call oneDNN has a multiple of the second: it keeps about 0.5 MB of code for each
height that it has met, up to 1,024 of them."""


class _Layer:
    """A block's functions and weights, taken out of its modules once."""

    def __init__(self, block: Block, dtype: torch.dtype, device: torch.device, alike: bool) -> None:
        attention: Attention = block.attention
        self.attention_norm = norm_function(block.attention_norm, dtype, alike)
        self.mlp_norm = norm_function(block.mlp_norm, dtype, alike)
        self.qkv, self.out = linear_function(attention.qkv, dtype), linear_function(attention.out, dtype)
        self.up, self.down = linear_function(block.mlp.up, dtype), linear_function(block.mlp.down, dtype)
        self.activation = activation_function(block.mlp, dtype, device, alike)
        self.norms: tuple[Tensor, Tensor] | None = None
        if attention.query_norm is not None and attention.key_norm is not None:
            self.norms = attention.query_norm.weight, attention.key_norm.weight


class Step:
    """Calls: (pieces, cache) -> float32 logits [answers, vocabulary], in the order of the pieces: a row for a piece of
    a prompt that is answered, and one for each token of the others; keys and values are stored. Weights are referred
    to, not copied: a model that trains on may be asked again.

    `deterministic`: a sequence's numbers have the same bits whatever else is in the step, and however its prompt was
    cut into pieces at multiples of TILE. Where products with few rows sum in another order, as float32's do, steps are
    filled up with empty rows, which costs time. None: on where no rows need be filled up. Raises HanlinError where it
    is asked for and can't be had.
    """

    def __init__(self, model: Transformer, deterministic: bool | None = False, adapters: LoraSet | None = None) -> None:
        self.model, self.config, self.adapters = model, model.config, adapters
        self.dtype = compute_dtype(model)
        self.device = model.embedding.weight.device
        self.least, self.deterministic = 1, False
        """Rows up to which a step is filled."""
        if deterministic is not False:
            most = MOST_FILLED if deterministic else 1
            least = self._least_rows(most) if self._rest_is_alike() else None
            if least is None and deterministic:
                raise HanlinError(
                    f"deterministic: on this machine ({self.device.type}, {str(self.dtype).removeprefix('torch.')}) a "
                    "request's numbers depend on how many others there are, whatever is done: use another dtype, or "
                    "leave it out"
                )
            self.least, self.deterministic = least or 1, least is not None
        alike = self.deterministic
        self.attention = StepAttention(model.config, self.dtype, self.device, alike)
        self.layers = [_Layer(cast(Block, block), self.dtype, self.device, alike) for block in model.blocks]
        self.final_norm = norm_function(model.final_norm, self.dtype, alike)
        self.blocks = Blocks(model) if self.attention.native and Blocks.can_run(model) else None
        """Steps without adapters go through all blocks at once."""

    @property
    def reads_as_it_writes(self) -> bool:
        """Whether a token without an adapter has keys and values with the same bits generated as read in a prompt.

        Where every part of a block is in C: each gives a row the same bits in any company, and sums attention over the
        same tiles for one row as for many; beside rows with adapters the same parts are called one by one.
        """
        return self.blocks is not None

    def _rest_is_alike(self) -> bool:
        """Whether what is not a product gives a row the same bits in any company."""
        if self.adapters is not None and not self.adapters.alike:
            return False
        given = self.config, self.dtype, self.device
        return activations_are_alike(self.config) and (is_native(*given) or attention_is_alike(*given))

    @torch.inference_mode()
    def _least_rows(self, most: int) -> int | None:
        config, block = self.config, cast(Block, self.model.blocks[0])
        functions: list[tuple[Function, int]] = []
        if not _is_alike(getattr(self.model, "output", None)):
            functions.append((self.model.logits, config.hidden_size))
        for module, width in (
            (block.attention.qkv, config.hidden_size),
            (block.attention.out, config.heads * config.head_dim),
            (block.mlp.up, config.hidden_size),
            (block.mlp.down, config.intermediate_size),
        ):
            if not _is_alike(module):
                functions.append((linear_function(module, self.dtype), width))
        return least_rows(functions, self.dtype, self.device, most)

    def __call__(self, pieces: Sequence[Piece], cache: KVCache) -> Tensor:
        plan, config = Plan(pieces), self.config
        heads = config.heads + 2 * config.kv_heads
        filled = max(0, self.least - len(plan.tokens))
        if self.blocks is None and len(plan.tokens) > EXACT_ROWS:
            filled = -len(plan.tokens) % ROWS
        tokens = torch.tensor(plan.tokens + [0] * filled, device=self.device)
        positions = torch.tensor(plan.positions + [0] * filled, device=self.device)
        rows = tokens.shape[0]
        x = self.model.embedding(tokens).to(self.dtype)
        turn: tuple[Tensor, Tensor] | None = None
        if self.model.positions is not None:
            x = x + self.model.positions(positions).to(self.dtype)
        elif self.model.rotary is not None:
            cos, sin = self.model.rotary.at(1, positions[:, None], x)
            turn = cos[:, 0], sin[:, 0]
        attend = self.attention(plan, positions, cache, turn)
        answers = self._answers(plan)
        beside = self._beside(plan.adapters + [None] * filled)
        if self.blocks is not None and beside is _base and isinstance(attend, RowAttention):
            return self._score(*self.blocks(x, attend, answers), plan)
        added: Tensor | None = None
        for number, layer in enumerate(self.layers):
            name = f"blocks.{number}."
            x, normal = layer.attention_norm(x, added)
            joint = beside(layer.qkv, name + "attention.qkv", normal).view(rows, heads, config.head_dim)
            mixed = attend(number, joint, layer.norms)
            if number == len(self.layers) - 1 and answers is not None:
                mixed, x = mixed.index_select(0, answers), x.index_select(0, answers)
                if beside is not _base:
                    beside = self._beside([plan.adapters[place] for place in integers(answers)])
            x, normal = layer.mlp_norm(x, beside(layer.out, name + "attention.out", mixed))
            inner = layer.activation(beside(layer.up, name + "mlp.up", normal))
            added = beside(layer.down, name + "mlp.down", inner)
        return self._score(x, added, plan)

    def _score(self, x: Tensor, added: Tensor | None, plan: Plan) -> Tensor:
        """Logits after x + added [answers, hidden], but for fillings at the end."""
        _, normal = self.final_norm(x, added)
        return self.model.logits(normal)[: len(plan.answers)].float()

    def _beside(self, adapters: Sequence[LoadedAdapter | None]) -> Callable[[Function, str, Tensor], Tensor]:
        """A linear layer's function with what the rows' adapters add to it."""
        if self.adapters is None or not any(adapters):
            return _base
        known, segments = self.adapters, self.adapters.segments(adapters)

        def adapted(function: Function, layer: str, x: Tensor) -> Tensor:
            out = function(x)
            known.add(layer, x, out, segments)
            return out

        return adapted

    def _answers(self, plan: Plan) -> Tensor | None:
        """The rows that the last layer goes on with; None: all, in their order."""
        if plan.answers == list(range(len(plan.tokens))):
            return None
        places = plan.answers + [0] * max(0, self.least - len(plan.answers))
        return torch.tensor(places, device=self.device)


def _base(function: Function, layer: str, x: Tensor) -> Tensor:
    return function(x)


def _is_alike(module: object) -> bool:
    """Whether a layer was tried when it was made."""
    return isinstance(module, FrozenLinear) and module.alike

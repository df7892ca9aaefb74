"""One step of the engine: new tokens of many sequences, generated ones and prompts, through the whole model at once.

`Transformer.hidden` would compute the same (the tests hold the two together), but a step of generation is so little
arithmetic that calling modules and small operations costs a good part of it: written flat, with one rotation for
queries and keys, one store for keys and values and no autograd, what a layer costs besides its products falls to less
than half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from hanlin.artifacts import HanlinError
from hanlin.inference.adapters import LoadedAdapter, LoraSet
from hanlin.inference.alike import MOST_FILLED, attention_is_alike, filled_heads, least_rows
from hanlin.inference.cache import KVCache, additive_mask
from hanlin.inference.functions import (
    Function,
    activation_function,
    compute_dtype,
    inverse_rms,
    linear_function,
    norm_function,
    wide,
)
from hanlin.inference.numbers import integers
from hanlin.inference.plan import QUERIES, Piece, Plan, Run
from hanlin.inference.prefixes import TILE
from hanlin.inference.products import FrozenLinear
from hanlin.models import Transformer
from hanlin.models.transformer import Attention, Block

EXACT_ROWS, ROWS = 64, 32
"""Above so many rows a step has a multiple of the second: oneDNN keeps about 0.5 MB of code for each height that it has
met, up to 1,024 of them."""
MOST_PRODUCTS = 2
"""Rows up to which queries and keys are turned by a product; for 4 and more it took a tenth longer."""


def rotation(cos: Tensor, sin: Tensor) -> Tensor:
    """[n, D, D] with which x @ it turns the pairs (i, i + D/2) of x by their angles; cos and sin [n, D/2].

    As a product it is one operation a layer where turning takes six, and made once a step: for a few rows that is less.
    """
    straight = torch.diag_embed(torch.cat((cos, cos), -1))
    crossed = torch.diag_embed(torch.cat((-sin, sin), -1)).roll(cos.shape[-1], -2)
    return straight + crossed


class _Layer:
    """A block's functions and weights, taken out of its modules once."""

    def __init__(self, block: Block, dtype: torch.dtype, alike: bool) -> None:
        attention: Attention = block.attention
        self.attention_norm = norm_function(block.attention_norm, dtype, alike)
        self.mlp_norm = norm_function(block.mlp_norm, dtype, alike)
        self.qkv, self.out = linear_function(attention.qkv, dtype), linear_function(attention.out, dtype)
        self.up, self.down = linear_function(block.mlp.up, dtype), linear_function(block.mlp.down, dtype)
        self.activation = activation_function(block.mlp.activation, alike)
        self.norms: tuple[Tensor, Tensor] | None = None
        if attention.query_norm is not None and attention.key_norm is not None:
            self.norms = attention.query_norm.weight, attention.key_norm.weight


class _Call(NamedTuple):
    """A `Run` as tensors."""

    run: Run
    sources: Tensor | slice
    places: Tensor | None
    targets: Tensor | slice
    masks: dict[int | None, Tensor]


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
        self.wide = wide(self.dtype)
        group = model.config.heads // model.config.kv_heads
        self.least, self.deterministic = 1, False
        """Rows up to which a step is filled."""
        if deterministic is not False:
            most = MOST_FILLED if deterministic else 1
            least = self._least_rows(most) if attention_is_alike(model.config, self.dtype, self.device) else None
            if least is None and deterministic:
                raise HanlinError(
                    f"deterministic: on this machine ({self.device.type}, {str(self.dtype).removeprefix('torch.')}) a "
                    "request's numbers depend on how many others there are, whatever is done: use another dtype, or "
                    "leave it out"
                )
            self.least, self.deterministic = least or 1, least is not None
        self.heads = filled_heads(group) if self.deterministic else group
        """Query heads that a head of keys is given."""
        # Queries of several heads beside each other pass the numbers at which the kernel cuts them otherwise.
        self.queries = TILE if self.deterministic and group > 1 else QUERIES
        alike = self.deterministic
        self.layers = [_Layer(cast(Block, block), self.dtype, alike) for block in model.blocks]
        self.final_norm = norm_function(model.final_norm, self.dtype, alike)
        self.epsilon = torch.tensor(model.config.norm_epsilon, dtype=self.wide, device=self.device)

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
        plan, config = Plan(pieces, self.queries), self.config
        heads, kv_heads, size = config.heads, config.kv_heads, config.head_dim
        filled = max(0, self.least - len(plan.tokens))
        if len(plan.tokens) > EXACT_ROWS:
            filled = -len(plan.tokens) % ROWS
        tokens = torch.tensor(plan.tokens + [0] * filled, device=self.device)
        positions = torch.tensor(plan.positions + [0] * filled, device=self.device)
        rows = tokens.shape[0]
        x = self.model.embedding(tokens).to(self.dtype)
        turn: Tensor | tuple[Tensor, Tensor] | None = None
        if self.model.positions is not None:
            x = x + self.model.positions(positions).to(self.dtype)
        elif self.model.rotary is not None:
            cos, sin = (part[:, 0] for part in self.model.rotary.at(1, positions[:, None], x))
            product = rows <= MOST_PRODUCTS and not self.deterministic
            turn = rotation(cos[:, 0], sin[:, 0]) if product else (cos, sin)
        calls = [self._call(run, positions) for run in plan.runs]
        store = _Store(plan, positions, cache)
        answers = self._answers(plan)
        beside = self._beside(plan.adapters + [None] * filled)
        for number, layer in enumerate(self.layers):
            name = f"blocks.{number}."
            joint = beside(layer.qkv, name + "attention.qkv", layer.attention_norm(x))
            joint = joint.view(rows, heads + 2 * kv_heads, size)
            if turn is not None:
                self._norm_rotate(joint[:, : heads + kv_heads], layer.norms, turn)
            store(number, joint[:, heads:])
            mixed = self._attend(calls, joint, cache, number)
            if number == len(self.layers) - 1 and answers is not None:
                mixed, x = mixed.index_select(0, answers), x.index_select(0, answers)
                if beside is not _base:
                    beside = self._beside([plan.adapters[place] for place in integers(answers)])
            x = x + beside(layer.out, name + "attention.out", mixed)
            inner = beside(layer.up, name + "mlp.up", layer.mlp_norm(x))
            if config.gated:
                gate, up = inner.chunk(2, -1)
                inner = layer.activation(gate).mul_(up)
            else:
                inner = layer.activation(inner)
            x = x + beside(layer.down, name + "mlp.down", inner)
        return self.model.logits(self.final_norm(x))[: len(plan.answers)].float()

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

    def _call(self, run: Run, positions: Tensor) -> _Call:
        first, count = run.sources[0], len(run.sources)
        plain = run.whole and run.sources[-1] == first + count - 1
        sources = slice(first, first + count) if plain else torch.tensor(run.sources, device=self.device)
        places, targets = None, sources
        if not run.whole:
            places = torch.tensor(run.places, device=self.device)
            targets = torch.tensor([run.sources[place] for place in run.places], device=self.device)
        keys = torch.arange(run.span, device=self.device)
        if run.start < 0:
            distance = positions[sources][:, None, None, None] - keys
        else:
            distance = (torch.arange(run.start, run.start + run.queries, device=self.device)[:, None] - keys)[
                None, None
            ]
        masks: dict[int | None, Tensor] = {}
        group = self.config.heads // self.config.kv_heads
        for window in {self.config.window(layer) for layer in range(self.config.layers)}:
            visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
            mask = additive_mask(visible, self.dtype)
            masks[window] = mask.repeat(1, 1, group, 1) if run.start >= 0 and group > 1 else mask
        return _Call(run, sources, places, targets, masks)

    def _attend(self, calls: Sequence[_Call], joint: Tensor, cache: KVCache, layer: int) -> Tensor:
        """[rows, heads · head_dim]: what the queries of joint [rows, heads + 2 · kv_heads, head_dim] see."""
        config, data = self.config, cache.data
        heads, kv_heads, size = config.heads, config.kv_heads, config.head_dim
        group, strides = heads // kv_heads, data.stride()
        window, mixed = config.window(layer), None
        for call in calls:
            run = call.run
            query = joint[call.sources, :heads]
            # The query heads of a group look like the positions of one head: far faster than enable_gqa.
            if run.queries == 1:
                query = query.view(run.rows, kv_heads, group, size)
                if self.heads > group:
                    query = F.pad(query, (0, 0, 0, self.heads - group))
            else:
                query = query.view(run.rows, run.queries, kv_heads, group, size).permute(0, 2, 3, 1, 4)
                query = query.reshape(run.rows, kv_heads, group * run.queries, size)
            # data[slot : slot + rows, layer, :kv_heads, :span] and […, kv_heads:, :span], in a third of the time.
            seen = (run.rows, kv_heads, run.span, size)
            held = (0 if run.same else strides[0], strides[2], strides[3], strides[4])
            offset = run.slot * strides[0] + layer * strides[1]
            found = F.scaled_dot_product_attention(
                query,
                data.as_strided(seen, held, offset),
                data.as_strided(seen, held, offset + kv_heads * strides[2]),
                call.masks[window],
            )
            if run.queries > 1:
                found = found.view(run.rows, kv_heads, group, run.queries, size).permute(0, 3, 1, 2, 4)
            elif self.heads > group:
                found = found[:, :, :group]
            found = found.reshape(-1, heads * size)
            if call.places is not None:
                found = found.index_select(0, call.places)
            if len(calls) == 1 and found.shape[0] == joint.shape[0] and isinstance(call.targets, slice):
                return found
            if mixed is None:
                mixed = joint.new_zeros((joint.shape[0], heads * size))
            mixed[call.targets] = found
        assert mixed is not None
        return mixed

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


def _base(function: Function, layer: str, x: Tensor) -> Tensor:
    return function(x)


def _is_alike(module: object) -> bool:
    """Whether a layer was tried when it was made."""
    return isinstance(module, FrozenLinear) and module.alike


class _Store:
    """Puts keys and values of a step's tokens [rows, 2 · kv_heads, head_dim] where they belong in a layer."""

    def __init__(self, plan: Plan, positions: Tensor, cache: KVCache) -> None:
        self.plan, self.cache, self.count = plan, cache, plan.decoded
        _, layers, heads, capacity, _ = cache.data.shape
        self.layer = heads * capacity
        """Places of a layer, in the cache seen as places."""
        if self.count:
            slots = torch.tensor(plan.slots, device=cache.device)
            first = slots * (layers * self.layer) + positions[: self.count]
            self.places = (first[:, None] + torch.arange(0, self.layer, capacity, device=cache.device)).flatten()

    def __call__(self, layer: int, joint: Tensor) -> None:
        data = self.cache.data
        size = data.shape[4]
        if self.count:
            flat = data.view(-1, size)[layer * self.layer :]
            flat.index_copy_(0, self.places, joint[: self.count].reshape(-1, size))
        for piece, first in self.plan.prompts:
            end = piece.start + len(piece.tokens)
            data[piece.slot, layer, :, piece.start : end] = joint[first : first + len(piece.tokens)].transpose(0, 1)

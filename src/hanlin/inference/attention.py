"""Attention within a step of the engine: queries and keys turned, keys and values stored, what each query sees."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hanlin.inference.alike import filled_heads
from hanlin.inference.cache import KVCache, additive_mask
from hanlin.inference.functions import inverse_rms, wide
from hanlin.inference.plan import QUERIES, Plan, Run
from hanlin.inference.prefixes import TILE
from hanlin.inference.rows import LARGEST_HEAD, RowAttention, computes_rows
from hanlin.models import ModelConfig

Turn = tuple[Tensor, Tensor] | None
"""Cosines and sines [rows, 1, D / 2]; None: positions are learned."""
Norms = tuple[Tensor, Tensor] | None
"""Weights [D] of the norms of queries and keys; None: there are none."""


class _Call(NamedTuple):
    """A `Run` as tensors."""

    run: Run
    sources: Tensor | slice
    places: Tensor | None
    targets: Tensor | slice
    masks: dict[int | None, Tensor]


class StepAttention:
    """How a model's attention is computed, the same for all steps: by attend.c where that is there and by PyTorch's
    kernel elsewhere. `alike`: so that a row's numbers do not depend on its company."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device, alike: bool) -> None:
        self.config, self.dtype, self.device = config, dtype, device
        self.native = is_native(config, dtype, device)
        group = config.heads // config.kv_heads
        self.heads = filled_heads(group) if alike else group
        """Query heads that a head of keys is given."""
        # Queries of several heads beside each other pass the numbers at which the kernel cuts them otherwise.
        self.queries = TILE if alike and group > 1 else QUERIES
        self.wide = wide(dtype)
        self.epsilon = torch.tensor(config.norm_epsilon, dtype=self.wide, device=device)

    def __call__(self, plan: Plan, positions: Tensor, cache: KVCache, turn: Turn) -> RowAttention | StepOf:
        """That of the step whose tokens `plan` lists; positions [rows] are theirs and those of fillings after them."""
        if self.native:
            return RowAttention(self.config, cache.data, torch.tensor(plan.slots), positions, turn)
        return StepOf(self, plan, positions, cache, turn)


def is_native(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether attention is computed by attend.c."""
    return computes_rows(dtype, device) and config.head_dim <= LARGEST_HEAD


class StepOf:
    """What `RowAttention` does, by PyTorch's kernel."""

    def __init__(self, how: StepAttention, plan: Plan, positions: Tensor, cache: KVCache, turn: Turn) -> None:
        self.how, self.config, self.device = how, how.config, how.device
        self.plan, self.cache, self.turn = plan, cache, turn
        self.store = _Store(plan, positions, cache)
        self.calls = [self._call(run, positions) for run in (*plan.decode_runs(), *plan.prompt_runs(how.queries))]

    def __call__(self, layer: int, joint: Tensor, norms: Norms) -> Tensor:
        heads = self.config.heads
        if self.turn is not None:
            self._norm_rotate(joint[:, : heads + self.config.kv_heads], norms, self.turn)
        self.store(layer, joint[:, heads:])
        return self._attend(layer, joint)

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
            mask = additive_mask(visible, self.how.dtype)
            masks[window] = mask.repeat(1, 1, group, 1) if run.start >= 0 and group > 1 else mask
        return _Call(run, sources, places, targets, masks)

    def _attend(self, layer: int, joint: Tensor) -> Tensor:
        """[rows, heads · D]: what the queries see."""
        config, data, calls = self.config, self.cache.data, self.calls
        mixed: Tensor | None = None
        heads, kv_heads, size = config.heads, config.kv_heads, config.head_dim
        group, strides = heads // kv_heads, data.stride()
        window, filled = config.window(layer), self.how.heads
        for call in calls:
            run = call.run
            query = joint[call.sources, :heads]
            # The query heads of a group look like the positions of one head: far faster than enable_gqa.
            if run.queries == 1:
                query = query.view(run.rows, kv_heads, group, size)
                if filled > group:
                    query = F.pad(query, (0, 0, 0, filled - group))
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
            elif filled > group:
                found = found[:, :, :group]
            found = found.reshape(-1, heads * size)
            if call.places is not None:
                found = found.index_select(0, call.places)
            if (
                mixed is None
                and len(calls) == 1
                and found.shape[0] == joint.shape[0]
                and isinstance(call.targets, slice)
            ):
                return found
            if mixed is None:
                mixed = joint.new_zeros((joint.shape[0], heads * size))
            mixed[call.targets] = found
        assert mixed is not None
        return mixed

    def _norm_rotate(self, joint: Tensor, norms: Norms, turn: tuple[Tensor, Tensor]) -> None:
        """Normalise (Qwen3) and turn queries and keys [n, heads + kv_heads, D] in place."""
        both = joint if self.how.wide == self.how.dtype else joint.to(self.how.wide)
        if norms is not None:
            both = both * inverse_rms(both, self.how.epsilon)
            both[:, : self.config.heads].mul_(norms[0])
            both[:, self.config.heads :].mul_(norms[1])
        (first, second), (cos, sin) = both.chunk(2, -1), turn
        left, right = (first * cos).addcmul_(second, sin, value=-1), (second * cos).addcmul_(first, sin)
        joint.copy_(torch.cat((left, right), -1))


class _Store:
    """Puts keys and values of a step's tokens [rows, 2 · kv_heads, head_dim] where they belong in a layer."""

    def __init__(self, plan: Plan, positions: Tensor, cache: KVCache) -> None:
        self.plan, self.cache, self.count = plan, cache, plan.decoded
        _, layers, heads, capacity, _ = cache.data.shape
        self.layer = heads * capacity
        """Places of a layer, in the cache seen as places."""
        if self.count:
            slots = torch.tensor(plan.slots[: self.count], device=cache.device)
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

"""Attention where several answers branch off one prompt, which is computed only once.

The rows hold each prompt once, and the answers without it. A prompt attends to itself; an answer to its prompt and to
itself, and never to another answer. Prompts of about the same length are attended to in one call, and so are answers
of about the same length to such prompts: a call costs as much as some thousand positions. All that is needed to find
them is made once a batch, not once a layer.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT = 16
"""Lengths up to this one are of one class; beyond it a class ends where the length has doubled."""


class Block(NamedTuple):
    """Sequences of one class, side by side."""

    rows: int
    length: int
    """Of the longest: the others are filled up at their ends"""
    mask: Tensor | None
    """Added to the scores, [rows, 1, length, keys]; None: plainly causal"""
    prompts: int | None = None
    """Of answers: which of the blocks holds their prompts, whose keys come before their own"""
    owners: Tensor | None = None
    """int64 [rows] the place of each answer's prompt in that block"""


class Branches(NamedTuple):
    """Where N positions lie in the blocks, and who sees whom."""

    blocks: list[Block]
    taken: Tensor
    """int64 [K] the position in each place of the blocks, end to end; 0 where they are filled up"""
    place: Tensor
    """int64 [N] the place of each position"""
    filled: Tensor
    """bool [K] where they are filled up"""


def branches(lines: Tensor, windows: set[int | None], x: Tensor) -> dict[int | None, Branches]:
    """By sliding window, what attention needs. `lines` is int64 [S, 4] on the CPU, of each answer: where its prompt
    begins in the flattened rows, the prompt's length, where the answer begins, its length (which may be 0). Together
    they cover every position of x [1, N, hidden] once."""
    prompts: dict[int, list[int]] = defaultdict(list)
    found: dict[int, tuple[int, int]] = {}
    """Of a prompt's beginning: its class, and its place in it"""
    answers: dict[tuple[int, int], list[tuple[int, ...]]] = defaultdict(list)
    sizes: dict[int, int] = {}
    for start, size, begin, length in lines.tolist():
        if start not in found:
            kind = _kind(size)
            found[start] = kind, len(prompts[kind])
            prompts[kind].append(start)
            sizes[start] = size
        kind, owner = found[start]
        if length:
            answers[kind, _kind(length)].append((begin, length, owner, size))
    taken, filled = list[Tensor](), list[Tensor]()

    def block(starts: list[int], lengths: list[int]) -> tuple[int, int]:
        inside = torch.arange(max(lengths))[None]
        empty = inside >= torch.tensor(lengths)[:, None]
        taken.append((torch.tensor(starts)[:, None] + inside).masked_fill_(empty, 0).reshape(-1))
        filled.append(empty.reshape(-1))
        return len(starts), max(lengths)

    numbers = {kind: number for number, kind in enumerate(prompts)}
    shapes = [block(starts, [sizes[start] for start in starts]) for starts in prompts.values()]
    groups = list(answers.items())
    shapes += [block([one[0] for one in group], [one[1] for one in group]) for _, group in groups]
    all_taken, all_filled = torch.cat(taken), torch.cat(filled)
    real = (~all_filled).nonzero()[:, 0]
    place = torch.empty_like(real)
    place[all_taken[real]] = real
    where = [tensor.to(x.device) for tensor in (all_taken, place, all_filled)]
    made: dict[int | None, Branches] = {}
    for window in windows:
        blocks = [Block(*shape, _of_prompts(shape[1], window, x)) for shape in shapes[: len(prompts)]]
        for (kinds, group), (count, length) in zip(groups, shapes[len(prompts) :], strict=True):
            number = numbers[kinds[0]]
            before = torch.tensor([one[3] for one in group])
            mask = _of_answers(length, before, shapes[number][1], window, x)
            owners = torch.tensor([one[2] for one in group], device=x.device)
            blocks.append(Block(count, length, mask, number, owners))
        made[window] = Branches(blocks, *where)
    return made


def _kind(length: int) -> int:
    return max(length, SHORT).bit_length()


def _of_prompts(length: int, window: int | None, x: Tensor) -> Tensor | None:
    if window is None or window >= length:
        return None
    at = torch.arange(length)
    distance = at[:, None] - at[None]
    return _added((distance >= 0) & (distance < window), x)[None, None]


def _of_answers(length: int, before: Tensor, prompt: int, window: int | None, x: Tensor) -> Tensor:
    """[S, 1, length, prompt + length] for answers behind prompts of `before` [S] positions, of `prompt` places."""
    slot, at = torch.arange(prompt), torch.arange(length)
    to_prompt = (before[:, None, None] + at[:, None]) - slot
    seen = (slot < before[:, None, None]).expand_as(to_prompt)
    distance = (at[:, None] - at).expand(len(before), -1, -1)
    own = distance >= 0
    if window is not None:
        seen, own = seen & (to_prompt < window), own & (distance < window)
    return _added(torch.cat((seen, own), 2), x)[:, None]


def _added(visible: Tensor, x: Tensor) -> Tensor:
    return torch.zeros(visible.shape, dtype=x.dtype).masked_fill_(~visible, float("-inf")).to(x.device)


def branch_attention(query: Tensor, key: Tensor, value: Tensor, see: Branches) -> Tensor:
    """query [1, heads, N, D], key and value [1, kv_heads, N, D] -> [1, heads, N, D]."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and query.is_cuda:
        # No kernel there takes both a mask and fewer heads of keys, but the one that keeps all scores.
        key, value, groups = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), 1
    sizes = [block.rows * block.length for block in see.blocks]
    parts = [
        [part.view(block.rows, block.length, *part.shape[1:]) for block, part in zip(see.blocks, apart.split(sizes))]
        for apart in (_ToBlocks.apply(x.transpose(1, 2)[0], see) for x in (query, key, value))
    ]
    mixed: list[Tensor] = []
    for block, own, keys, values in zip(see.blocks, *parts):
        if block.prompts is not None and block.owners is not None:
            keys = torch.cat((parts[1][block.prompts].index_select(0, block.owners), keys), 1)
            values = torch.cat((parts[2][block.prompts].index_select(0, block.owners), values), 1)
        found = F.scaled_dot_product_attention(
            own.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2),
            attn_mask=block.mask, is_causal=block.mask is None, enable_gqa=groups > 1,
        )  # fmt: skip
        mixed.append(found.transpose(1, 2).flatten(0, 1))
    return _FromBlocks.apply(torch.cat(mixed), see).transpose(0, 1)[None]


# What autograd makes of an index is a sum row by row, which takes longer than the attention: but each position has one
# place, so that both ways are a choice of rows.
class _ToBlocks(torch.autograd.Function):
    """[N, heads, D] -> [K, heads, D]. What fills the blocks up is seen by nobody that counts, and has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, see: Branches) -> Tensor:
        ctx.see = see
        return x.index_select(0, see.taken)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].index_select(0, ctx.see.place), None


class _FromBlocks(torch.autograd.Function):
    """[K, heads, D] -> [N, heads, D]"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, see: Branches) -> Tensor:
        ctx.see = see
        return x.index_select(0, see.place)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].index_select(0, ctx.see.taken).masked_fill_(ctx.see.filled[:, None, None], 0), None

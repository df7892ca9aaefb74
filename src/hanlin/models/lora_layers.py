"""The layers of `lora`: a frozen linear layer, and what is trained beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanlin.models.lora_settings import LoraSettings
from hanlin.models.quantised import QuantisedLinear
from hanlin.models.transformer import Linear


class Adapter(nn.Module):
    """A, B and (DoRA) the magnitudes of some of the projections that are joined in one linear layer.

    Float32 (float64 for float64 weights), whatever the layer's own precision; products are in the input's.
    """

    def __init__(self, inputs: int, splits: tuple[int, ...], parts: Sequence[int], settings: LoraSettings) -> None:
        super().__init__()
        ends = [sum(splits[: part + 1]) for part in parts]
        self.settings = settings
        self.parts = tuple(parts)
        """Which of the layer's joined projections are adapted, in order"""
        self.rows = [(end - splits[part], end) for part, end in zip(parts, ends)]
        """Where in the layer's output each of them is"""
        self.widths = [stop - start for start, stop in self.rows]
        self.a = nn.Parameter(torch.zeros(len(parts) * settings.rank, inputs))
        """[projections · rank, inputs]"""
        self.b = nn.Parameter(torch.zeros(sum(self.widths), settings.rank))
        """[outputs of the adapted projections, rank]"""
        self.magnitude = nn.Parameter(torch.zeros(sum(self.widths))) if settings.dora else None
        """[outputs of the adapted projections]"""

    @torch.no_grad()
    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        """A uniform in ±1/√inputs and B zero, as `peft` begins; magnitudes those of the rows of `weight`."""
        bound = 1 / math.sqrt(self.a.shape[1])
        self.a.copy_(torch.empty(self.a.shape).uniform_(-bound, bound, generator=generator))
        if self.magnitude is not None:
            self.magnitude.copy_(torch.cat(self.norms(weight)))

    def tensors(self, part: int) -> dict[str, Tensor]:
        """The share of one of `parts` in the parameters, by `peft`'s names for it."""
        at = self.parts.index(part)
        found = {
            "lora_A.weight": self.a.detach().split(self.settings.rank)[at],
            "lora_B.weight": self.b.detach().split(self.widths)[at],
        }
        if self.magnitude is not None:
            found["lora_magnitude_vector"] = self.magnitude.detach().split(self.widths)[at]
        return found

    def changed(self, weight: Tensor) -> list[Tensor]:
        """W + scale · B A of each adapted projection, in the dtype of `weight` [outputs, inputs]."""
        a = self.a.to(weight.dtype).split(self.settings.rank)
        b = self.b.to(weight.dtype).split(self.widths)
        scale = self.settings.scale
        return [
            torch.addmm(weight[start:stop], part_b, part_a, alpha=scale)
            for (start, stop), part_a, part_b in zip(self.rows, a, b)
        ]

    def norms(self, weight: Tensor) -> list[Tensor]:
        """The Euclidean norm of each row of `changed`, never 0, in float32 or wider."""
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        tiny = torch.finfo(wide).tiny
        return [torch.linalg.vector_norm(part, dim=1, dtype=wide).clamp_(min=tiny) for part in self.changed(weight)]

    def factor(self, weight: Tensor) -> Tensor | None:
        """DoRA: what each output is multiplied with, magnitude / norm, 1 where no projection is adapted; else None.

        The norm counts as a constant for the gradient (Liu et al. 2024, section 4.3).
        """
        if self.magnitude is None:
            return None
        with torch.no_grad():
            norms = torch.cat(self.norms(weight))
        factor = self.magnitude / norms
        if len(factor) == len(weight):
            return factor
        where = torch.cat([torch.arange(start, stop, device=factor.device) for start, stop in self.rows])
        return factor.new_ones(len(weight)).index_copy(0, where, factor)

    @torch.no_grad()
    def merged(self, weight: Tensor) -> Tensor:
        """The one matrix that does what `weight` and this adapter do, float64, computed in float64."""
        whole = weight.double()
        changed = self.changed(whole)
        if self.magnitude is not None:
            magnitudes = self.magnitude.double().split(self.widths)
            changed = [
                part * (magnitude / norm)[:, None]
                for part, magnitude, norm in zip(changed, magnitudes, self.norms(whole))
            ]
        whole = whole.clone() if whole is weight else whole
        for (start, stop), part in zip(self.rows, changed):
            whole[start:stop] = part
        return whole


class LoraLinear(nn.Module):
    """A frozen linear layer with adapters beside it, one of which, or none, is active."""

    def __init__(self, base: Linear | QuantisedLinear) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleDict()
        self.active: str | None = None
        self.enabled = True
        """False inside `without_lora`."""
        self.folded: Tensor | None = None
        """Inside `folded`: the merged weight."""

    @property
    def adapter(self) -> Adapter | None:
        """The one that takes part."""
        if not self.enabled or self.active is None or self.active not in self.adapters:
            return None
        return cast(Adapter, self.adapters[self.active])

    def merged(self) -> Tensor:
        """The weight [outputs, inputs] with the active adapter in it, float64."""
        weight = weight_in(self.base, torch.float64)
        return weight if self.adapter is None else self.adapter.merged(weight)

    def forward(self, input: Tensor) -> Tensor:
        adapter = self.adapter
        if adapter is None:
            return self.base(input)
        if self.folded is not None:
            bias = self.base.bias
            return F.linear(input, self.folded.to(input.dtype), None if bias is None else bias.to(input.dtype))
        share = adapter.settings.dropout
        dropped = F.dropout(input, share) if self.training and share else None
        factor = None if adapter.magnitude is None else adapter.factor(weight_in(self.base, input.dtype))
        return cast(Tensor, _Adapted.apply(input, dropped, adapter.a, adapter.b, factor, self.base, adapter))


def weight_in(layer: Linear | QuantisedLinear, dtype: torch.dtype) -> Tensor:
    """The layer's weight [outputs, inputs] in `dtype`: itself where it is that already."""
    return layer.weight.detach().to(dtype) if isinstance(layer, Linear) else layer.weight_in(dtype)


class _Adapted(torch.autograd.Function):
    """y = f ∘ (x Wᵀ + scale · x̃ Aᵀ Bᵀ) + bias, A and B of each projection changing only its columns of y.

    W and the bias are frozen; x̃ is x, or what dropout left of it; f is DoRA's factor. Written by hand because the
    small products then add straight into the large one's result, and because W may be made anew in either direction.
    (`peft` lets dropout, where DoRA is used, act on a part of x Wᵀ as well; without dropout the two are equal.)
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        a: Tensor,
        b: Tensor,
        factor: Tensor | None,
        layer: Linear | QuantisedLinear,
        adapter: Adapter,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low_input = flat if dropped is None else dropped.reshape(flat.shape)
        bias = None if layer.bias is None else layer.bias.detach().to(x.dtype)
        out = F.linear(flat, weight_in(layer, x.dtype), bias if factor is None else None)
        low = low_input @ a.to(x.dtype).T
        lows, bs = low.split(adapter.settings.rank, dim=1), b.to(x.dtype).split(adapter.widths)
        for (start, stop), part, part_b in zip(adapter.rows, lows, bs):
            out[:, start:stop].addmm_(part, part_b.T, alpha=adapter.settings.scale)
        ctx.save_for_backward(low_input, low, a, b, factor, None if factor is None else out)
        ctx.layer, ctx.adapter, ctx.same = layer, adapter, dropped is None
        if factor is not None:
            # The factor is near 1, where bfloat16 resolves 0.004: it is not rounded to that, the product is.
            out = (out * factor).to(x.dtype)
            out = out if bias is None else out.add_(bias)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        low_input, low, a, b, factor, direction = ctx.saved_tensors
        adapter: Adapter = ctx.adapter
        grad = grads[0].reshape(low.shape[0], -1)
        factor_grad = None
        if factor is not None:
            if ctx.needs_input_grad[4]:
                factor_grad = (grad * direction).sum(0, dtype=factor.dtype)
            grad = (grad * factor).to(grad.dtype)
        parts = [grad[:, i:j] for i, j in adapter.rows]
        low_grad = torch.cat([part @ part_b for part, part_b in zip(parts, b.to(low.dtype).split(adapter.widths))], 1)
        lows = low.split(adapter.settings.rank, dim=1)
        b_grad = torch.cat([part.T @ part_low for part, part_low in zip(parts, lows)])
        low_grad.mul_(adapter.settings.scale)
        b_grad.mul_(adapter.settings.scale)
        x_grad = dropped_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = grad @ weight_in(ctx.layer, grad.dtype)
        if ctx.same and x_grad is not None:
            x_grad.addmm_(low_grad, a.to(grad.dtype))
        elif ctx.needs_input_grad[1]:
            dropped_grad = (low_grad @ a.to(grad.dtype)).view(grads[0].shape[:-1] + a.shape[1:])
        a_grad = (low_grad.T @ low_input).to(a.dtype)
        if x_grad is not None:
            x_grad = x_grad.view(grads[0].shape[:-1] + a.shape[1:])
        return x_grad, dropped_grad, a_grad, b_grad.to(b.dtype), factor_grad, None, None

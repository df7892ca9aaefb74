"""Low-rank adapters chosen by the request: one base model, and beside its products those of each row's own adapter."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hanlin.artifacts import HanlinError
from hanlin.inference.native import dense_product, multiplies_dense
from hanlin.inference.products import Function
from hanlin.models import ModelConfig
from hanlin.models.adapter_files import read_adapter
from hanlin.models.lora_layers import Adapter


class _Beside:
    """What one adapter adds to one linear layer."""

    def __init__(self, adapter: Adapter, device: torch.device, weight: Tensor | None, bias: Tensor | None) -> None:
        rank, scale = adapter.settings.rank, adapter.settings.scale
        self.a = _product(adapter.a.detach().to(device))
        scaled = (adapter.b.detach() * scale).to(device)
        self.parts = [
            (start, stop, _product(part)) for (start, stop), part in zip(adapter.rows, scaled.split(adapter.widths))
        ]
        self.rank = rank
        factor = None if weight is None else adapter.factor(weight)
        self.factor = None if factor is None else factor.detach().to(device)
        self.bias = None if bias is None else bias.to(device)

    def add(self, x: Tensor, out: Tensor) -> None:
        lows = self.a(x.float()).split(self.rank, dim=1)
        if self.factor is not None and self.bias is not None:
            out -= self.bias
        for (start, stop, b), low in zip(self.parts, lows):
            out[:, start:stop] += b(low.contiguous())
        if self.factor is not None:
            out *= self.factor
            if self.bias is not None:
                out += self.bias


def _product(weight: Tensor) -> Function:
    weight = weight.float()
    if weight.device.type == "cpu" and multiplies_dense():
        return dense_product(weight, None)
    return lambda x: F.linear(x, weight)


class LoadedAdapter:
    """An adapter ready to be used by any number of requests, as long as someone holds it."""

    _made = itertools.count(1)

    def __init__(self, name: str, layers: dict[str, _Beside], size: int) -> None:
        self.name, self.layers, self.bytes = name, layers, size
        self.salt = f"{next(self._made)} {name}"
        """Another for each that is loaded, the same name or not."""


class Segment(NamedTuple):
    """The rows of a batch that use one adapter."""

    adapter: LoadedAdapter
    rows: Tensor | None
    """Their indices, int64; None: every row."""


class LoraSet:
    """Adapters of one base model, by name; the base's weights are shared and never touched.

    A step asks `segments` once which rows use which adapter, and after the product of each linear layer lets `add` work
    them in. Where `alike`, a row's result has the same bits in any company: no other adapter takes part in
    its products.
    """

    def __init__(self, config: ModelConfig, device: torch.device, fetch: Callable[[str], Tensor] | None = None) -> None:
        """`fetch` gives a parameter of the base model by its name (a `hub.WeightReader`): adapters with magnitudes
        (DoRA) need the base's weights once, when they are loaded; without it they are refused."""
        self.config, self.device, self._fetch = config, device, fetch
        self._adapters: dict[str, LoadedAdapter] = {}
        self.alike = device.type == "cpu" and multiplies_dense()

    @property
    def names(self) -> list[str]:
        return sorted(self._adapters)

    def load(self, name: str, directory: Path | str) -> LoadedAdapter:
        """Read the adapter in `directory` (`peft`'s format) under `name`. Raises HanlinError for a name that is taken,
        and for what is no adapter of this model."""
        if name in self._adapters:
            raise HanlinError(f"there is an adapter {name!r} already: remove it first, or choose another name")
        found = read_adapter(directory, self.config)
        with torch.no_grad():
            layers = {layer: self._beside(layer, adapter, directory) for layer, adapter in found.items()}
        size = sum(parameter.nbytes for adapter in found.values() for parameter in adapter.parameters())
        self._adapters[name] = LoadedAdapter(name, layers, size)
        return self._adapters[name]

    def _beside(self, layer: str, adapter: Adapter, directory: Path | str) -> _Beside:
        if adapter.magnitude is None:
            return _Beside(adapter, self.device, None, None)
        if self._fetch is None:
            raise HanlinError(
                f"the adapter in {directory} is one of DoRA, which needs the weights of its base: merge it"
            )
        bias = None
        if self.config.attention_bias if ".attention." in layer else self.config.mlp_bias:
            bias = self._fetch(f"{layer}.bias").detach().float()
        return _Beside(adapter, self.device, self._fetch(f"{layer}.weight").detach().float(), bias)

    def get(self, name: str) -> LoadedAdapter:
        """The adapter of that name: held by a request, it stays until the request is done, removed or not. Raises
        HanlinError when there is none."""
        if name not in self._adapters:
            known = ", ".join(self.names) or "none"
            raise HanlinError(f"there is no adapter {name!r}; there are: {known}")
        return self._adapters[name]

    def remove(self, name: str) -> None:
        """Forget the adapter of that name. Raises HanlinError as `get`."""
        self.get(name)
        del self._adapters[name]

    def segments(self, rows: Sequence[LoadedAdapter | None]) -> list[Segment]:
        """Which rows of a batch use which adapter, given each row's own (None: the base alone)."""
        numbers: dict[LoadedAdapter, list[int]] = {}
        for number, adapter in enumerate(rows):
            if adapter is not None:
                numbers.setdefault(adapter, []).append(number)
        return [
            Segment(adapter, None if len(chosen) == len(rows) else torch.tensor(chosen, device=self.device))
            for adapter, chosen in numbers.items()
        ]

    def add(self, layer: str, x: Tensor, out: Tensor, segments: Sequence[Segment]) -> None:
        """Make of `out` [n, outputs], the linear layer's product of `x` [n, inputs], in place what it is with each
        row's adapter; `layer` as in `blocks.0.attention.qkv`."""
        for adapter, rows in segments:
            beside = adapter.layers.get(layer)
            if beside is None:
                continue
            if rows is None:
                beside.add(x, out)
            else:
                changed = out.index_select(0, rows)
                beside.add(x.index_select(0, rows), changed)
                out.index_copy_(0, rows, changed)

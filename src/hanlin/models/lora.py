"""Low-rank adapters on a frozen Transformer (LoRA, Hu et al. 2021; DoRA, Liu et al. 2024).

The adapters are `peft`'s: of every projection its own A and B, under the same names on disk (`adapter_files`). Where
the Transformer joins projections in one product (queries, keys and values; gate and up) their A's are one matrix too,
so that the input is read once more and not three times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import NamedTuple, cast

import torch
from torch import nn

from hanlin.artifacts import HanlinError
from hanlin.models.config import ModelConfig
from hanlin.models.hub import slots
from hanlin.models.lora_layers import Adapter, LoraLinear, weight_in
from hanlin.models.lora_settings import LoraSettings
from hanlin.models.quantised import BITS, QuantisedLinear, quantise_blocks, quantised_layers
from hanlin.models.transformer import Linear, Transformer

DEFAULT = "default"
"""The adapter's name where none is given, as in `peft`."""


class Projection(NamedTuple):
    """A projection as Hugging Face and `peft` know it, and where it is here."""

    name: str
    """As in `model.layers.0.self_attn.q_proj`"""
    layer: str
    """The linear layer here, as in `blocks.0.attention.qkv`"""
    part: int | None
    """Which of the layer's joined projections it is; None: all of the layer"""

    @property
    def kind(self) -> str:
        """The last part of its name, as in `q_proj`."""
        return self.name.rpartition(".")[2]


def projections(config: ModelConfig) -> list[Projection]:
    """Every projection of the blocks, in the order of the model's file."""
    found: list[Projection] = []
    for slot in slots(config):
        layer, _, kind = slot.parameter.rpartition(".")
        if layer.startswith("blocks.") and kind == "weight" and not layer.endswith("norm"):
            found.append(Projection(slot.name.removesuffix(".weight"), layer, slot.part))
    return found


def add_lora(model: Transformer, settings: LoraSettings, seed: int, name: str = DEFAULT) -> None:
    """Give `model` a new adapter, active and the only thing that is trained, in place: everything else is frozen.

    A is drawn from `seed`, the same on every device. Further adapters, under other names, go on the same base. Raises
    HanlinError for a name that is taken, for projections that the model's family has not, and for a model whose weights
    are kept in another way than `settings.base` says.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer, adapter in attach(model, wanted(model.config, settings), settings, name):
        adapter.start(weight_in(layer.base, adapter.a.dtype), generator)
    set_adapter(model, name, train=True)


def wanted(config: ModelConfig, settings: LoraSettings) -> list[Projection]:
    """The projections of the model that the settings name. Raises HanlinError for those that it has not."""
    known = projections(config)
    if settings.target_modules == "all-linear":
        return known
    kinds = {one.kind for one in known}
    unknown = [target for target in settings.target_modules if target not in kinds]
    if unknown:
        raise HanlinError(
            f"target_modules names {', '.join(unknown)}, in the settings of lora, which {config.family} has not: "
            f"choose among {', '.join(sorted(kinds))}, or all-linear"
        )
    return [one for one in known if one.kind in settings.target_modules]


def attach(
    model: Transformer, targets: Sequence[Projection], settings: LoraSettings, name: str
) -> list[tuple[LoraLinear, Adapter]]:
    """Put adapters of zeros, called `name`, on these projections; raises as `add_lora`. Nothing is active yet."""
    if not name or "." in name or hasattr(nn.ModuleDict, name):
        raise HanlinError(f"{name!r} can't be an adapter's name: it is empty, has a dot, or is a word of PyTorch's own")
    if name in adapter_names(model):
        raise HanlinError(f"the model has an adapter {name!r} already: give the new one another name")
    wanted_bits, have = BITS[settings.base], {(layer.bits, layer.group) for layer in quantised_layers(model)}
    if wanted_bits and not have and not adapter_names(model):
        quantise_blocks(model, wanted_bits, settings.group)
    elif have != ({(wanted_bits, settings.group)} if wanted_bits else set()):
        raise HanlinError(
            f"base is {settings.base} (group {settings.group}), in the settings of lora, but the model's weights are "
            "kept in another way: all adapters of one model have the same base"
        )
    parts: dict[str, list[int | None]] = {}
    for one in targets:
        parts.setdefault(one.layer, []).append(one.part)
    made: list[tuple[LoraLinear, Adapter]] = []
    for path, chosen in parts.items():
        layer = model.get_submodule(path)
        if not isinstance(layer, LoraLinear):
            layer = LoraLinear(cast("Linear | QuantisedLinear", layer)).train(layer.training)
            model.set_submodule(path, layer)
        base = layer.base
        splits = base.splits if None not in chosen else (base.out_features,)
        indices = sorted(part or 0 for part in chosen)
        exact = torch.float64 if model.embedding.weight.dtype == torch.float64 else torch.float32
        adapter = Adapter(base.in_features, splits, indices, settings).to(model.embedding.weight.device, exact)
        layer.adapters[name] = adapter.train(layer.training)
        made.append((layer, adapter))
    return made


def lora_layers(model: nn.Module) -> list[LoraLinear]:
    """Every layer with adapters."""
    return [module for module in model.modules() if isinstance(module, LoraLinear)]


def adapter_names(model: nn.Module) -> list[str]:
    """The adapters of the model."""
    return sorted({name for layer in lora_layers(model) for name in layer.adapters})


def set_adapter(model: nn.Module, name: str | None, train: bool = False) -> None:
    """Make the adapter `name` the active one (None: none), and freeze everything but, with `train`, it.

    Raises HanlinError for a name that the model has not.
    """
    if name is not None:
        _check_name(model, name)
    model.requires_grad_(False)
    for layer in lora_layers(model):
        layer.active, layer.folded = name, None
        if train and name is not None and name in layer.adapters:
            layer.adapters[name].requires_grad_(True)


def remove_adapter(model: Transformer, name: str) -> None:
    """Take an adapter away; layers that have no other are ordinary ones again. Raises HanlinError as `set_adapter`."""
    _check_name(model, name)
    for path, layer in list(model.named_modules()):
        if isinstance(layer, LoraLinear) and name in layer.adapters:
            del layer.adapters[name]
            layer.active = None if layer.active == name else layer.active
            if not layer.adapters:
                model.set_submodule(path, layer.base)


@contextlib.contextmanager
def without_lora(model: nn.Module) -> Generator[None, None, None]:
    """Within it the model is its base: the policy that the adapters began from, at no memory.

    Raises HanlinError for a model without an active adapter, which would be compared with itself.
    """
    layers = lora_layers(model)
    if all(layer.active is None for layer in layers):
        raise HanlinError("the model has no active adapter to leave out: a reference policy would be the policy itself")
    before = [layer.enabled for layer in layers]
    try:
        for layer in layers:
            layer.enabled = False
        yield
    finally:
        for layer, enabled in zip(layers, before):
            layer.enabled = enabled


@contextlib.contextmanager
def folded(model: Transformer) -> Generator[None, None, None]:
    """Within it, and without gradients, each layer computes with one merged matrix: for generating many tokens.

    Adapters cost little beside a long input, but several operations a layer for each token that is generated (DoRA: a
    pass over the weights). The merged matrices, in the model's own precision, take as much memory as the layers' full
    weights. The adapters must not change inside.
    """
    dtype = model.compute_dtype or model.embedding.weight.dtype
    layers = [layer for layer in lora_layers(model) if layer.adapter is not None]
    with torch.no_grad():
        try:
            for layer in layers:
                layer.folded = layer.merged().to(dtype)
            yield
        finally:
            for layer in layers:
                layer.folded = None


def merge_lora(model: Transformer, dtype: torch.dtype | None = None) -> None:
    """Make `model` an ordinary one again, in place, its active adapter worked into the weights, the others dropped.

    Computed in float64 and rounded once, to `dtype` (None: float32, or float64 for a float64 model), in which all of
    the model is then. Of a quantised base the result has the rounded weights: it computes what the adapter was trained
    with. All parameters can be trained again. A model without adapters and quantised layers stays as it is.
    """
    changed = False
    kind = dtype or (torch.float64 if model.embedding.weight.dtype == torch.float64 else torch.float32)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(parent, LoraLinear) or not isinstance(child, LoraLinear | QuantisedLinear):
                continue
            base = child.base if isinstance(child, LoraLinear) else child
            weight = child.merged() if isinstance(child, LoraLinear) else child.weight_in(torch.float64)
            with torch.device("meta"):
                plain = Linear(base.in_features, base.splits, base.bias is not None)
            plain.weight = nn.Parameter(weight.to(kind))
            if base.bias is not None:
                plain.bias = nn.Parameter(base.bias.detach().to(kind))
            setattr(parent, name, plain.train(child.training))
            changed = True
    if changed:
        model.to(kind).requires_grad_(True)


def _check_name(model: nn.Module, name: str) -> None:
    known = adapter_names(model)
    if name not in known:
        raise HanlinError(f"the model has no adapter {name!r}; it has: {', '.join(known) or 'none'}")

"""Adapters on disk in the format of `peft`: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hanlin.artifacts import HanlinError, atomic_path, write_json
from hanlin.models.config import ModelConfig
from hanlin.models.lora import (
    DEFAULT,
    Projection,
    adapter_names,
    attach,
    lora_layers,
    projections,
    remove_adapter,
    set_adapter,
)
from hanlin.models.lora_layers import Adapter, LoraLinear
from hanlin.models.lora_settings import LoraSettings
from hanlin.models.quantised import BITS, quantised_layers
from hanlin.models.transformer import Transformer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What `peft` puts before a module's name."""
_WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout",
    "lora_ga_config", "megatron_config", "megatron_core", "peft_version", "qalora_group_size", "r", "revision",
    "runtime_config", "target_modules", "task_type", "use_dora", "use_rslora",
}  # fmt: skip
"""Entries of the configuration that are read here, or change nothing of a finished adapter on the model it is for."""
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin an adapter that leave the base's weights as they are."""


def save_adapter(
    directory: Path | str,
    model: Transformer,
    base_name: str | None = None,
    name: str | None = None,
    task_type: str = "CAUSAL_LM",
    saved_modules: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the adapter `name` (None: the active one) so that `peft` reads it. Each file appears whole.

    `base_name` is where its base is found, for whoever reads the file. `saved_modules` are tensors that were trained
    whole beside it (`score.weight` of a reward model, with `task_type` SEQ_CLS), by their Hugging Face names. Raises
    HanlinError when there is no such adapter.
    """
    name = name or next((layer.active for layer in lora_layers(model) if layer.active), None)
    if name is None or name not in adapter_names(model):
        known = ", ".join(adapter_names(model)) or "none"
        raise HanlinError(f"there is no adapter {name!r} to save: the model has {known}")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    found = _tensors(model, name)
    tensors = {PREFIX + key: value.detach().to("cpu", copy=True).contiguous() for key, value in found.items()}
    for key, value in (saved_modules or {}).items():
        tensors[PREFIX + key] = value.detach().to("cpu", copy=True).contiguous()
    adapted = {key.removesuffix(".lora_A.weight") for key in found if key.endswith(".lora_A.weight")}
    settings = next(layer.adapters[name].settings for layer in lora_layers(model) if name in layer.adapters)
    settings = cast(LoraSettings, settings)
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_name,
        "r": settings.rank,
        "lora_alpha": int(settings.alpha) if settings.alpha.is_integer() else settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": _targets(model, adapted),
        "modules_to_save": sorted({key.rpartition(".")[0] for key in saved_modules}) if saved_modules else None,
        "use_rslora": settings.rslora,
        "use_dora": settings.dora,
        "bias": "none",
        "fan_in_fan_out": model.config.family == "gpt2",
        "init_lora_weights": True,
        "inference_mode": True,
    }
    with atomic_path(directory / WEIGHTS) as part:
        save_file(tensors, part, metadata={"format": "pt"})
    write_json(directory / CONFIG, config)


def load_adapter(directory: Path | str, model: Transformer, name: str = DEFAULT, train: bool = False) -> LoraSettings:
    """Give `model` the adapter in `directory`, as `peft` or `save_adapter` wrote it, and make it the active one.

    Everything is frozen then, but with `train` the adapter. Returns its settings. Raises HanlinError for files that are
    damaged or no LoRA adapter, for a kind of adapter that is not computed here, and for tensors that do not fit the
    model, naming them.
    """
    directory = Path(directory)
    settings, targets = _read(directory, model)
    attach(model, list(targets), settings, name)
    try:
        for one, given in targets.items():
            adapter = cast(Adapter, cast(LoraLinear, model.get_submodule(one.layer)).adapters[name])
            _fill(adapter.tensors(one.part or 0), given, f"{one.name} in {directory / WEIGHTS}")
    except HanlinError:
        remove_adapter(model, name)
        raise
    set_adapter(model, name, train)
    return settings


def read_adapter(directory: Path | str, config: ModelConfig) -> dict[str, Adapter]:
    """The adapter in `directory` without a model: what stands beside each adapted linear layer, by the layer's name
    (as in `blocks.0.attention.qkv`), float32. Raises HanlinError as `load_adapter`."""
    directory = Path(directory)
    with torch.device("meta"):
        model = Transformer(config)
    settings, targets = _read(directory, model)
    attach(model, list(targets), settings, DEFAULT)
    found: dict[str, Adapter] = {}
    for one, given in targets.items():
        if one.layer not in found:
            adapter = cast(Adapter, cast(LoraLinear, model.get_submodule(one.layer)).adapters[DEFAULT])
            found[one.layer] = adapter.to_empty(device="cpu").requires_grad_(False)
        _fill(found[one.layer].tensors(one.part or 0), given, f"{one.name} in {directory / WEIGHTS}")
    return found


def _read(directory: Path, model: Transformer) -> tuple[LoraSettings, dict[Projection, dict[str, Tensor]]]:
    """The adapter's settings and its tensors by projection and `peft`'s ending."""
    config = _read_config(directory / CONFIG)
    tensors = _read_tensors(directory / WEIGHTS)
    targets: dict[Projection, dict[str, Tensor]] = {}
    for one in projections(model.config):
        start = f"{PREFIX}{one.name}."
        mine = [key for key in tensors if key.startswith(start)]
        if mine:
            targets[one] = {key.removeprefix(start): tensors.pop(key) for key in mine}
    if tensors or not targets:
        odd = f"the tensors {_some(tensors)}, which are no" if tensors else "no"
        raise HanlinError(
            f"{directory / WEIGHTS} has {odd} adapters of the blocks' projections of this {model.config.family} model: "
            "was it made for another one?"
        )
    kept = {layer.bits: layer.group for layer in quantised_layers(model)}
    try:
        settings = LoraSettings.model_validate(
            {
                "rank": config.get("r"),
                "alpha": config.get("lora_alpha"),
                "dropout": config.get("lora_dropout", 0.0),
                "target_modules": sorted({one.kind for one in targets}),
                "rslora": config.get("use_rslora", False),
                "dora": config.get("use_dora", False),
                # The file does not say how the base is kept: it is as it is.
                "base": next((base for base, bits in BITS.items() if bits in kept), "full"),
                "group": kept.get(4, 64),
            }
        )
    except ValidationError as error:
        raise HanlinError(f"{directory / CONFIG} is no configuration of LoRA: {error}") from None
    return settings, targets


def _fill(places: dict[str, Tensor], given: dict[str, Tensor], where: str) -> None:
    for key in (*places, *given):
        if key not in given or key not in places:
            problem = "lacks" if key not in given else "has, beyond what its adapter_config.json describes,"
            raise HanlinError(f"{where} {problem} {key}: the two files do not belong together")
        if given[key].shape != places[key].shape:
            raise HanlinError(
                f"{where}: {key} has the shape {list(given[key].shape)}, not {list(places[key].shape)}: the adapter "
                "was made for a model of another size, or with another rank"
            )
    for key, place in places.items():
        place.copy_(given[key])


def _tensors(model: Transformer, name: str) -> dict[str, Tensor]:
    """The adapter's tensors, views of its parameters, by Hugging Face module and `peft`'s ending."""
    found: dict[str, Tensor] = {}
    for one in projections(model.config):
        layer = model.get_submodule(one.layer)
        if isinstance(layer, LoraLinear) and name in layer.adapters:
            adapter = cast(Adapter, layer.adapters[name])
            if (one.part or 0) in adapter.parts:
                found |= {f"{one.name}.{key}": value for key, value in adapter.tensors(one.part or 0).items()}
    return found


def _targets(model: Transformer, adapted: set[str]) -> list[str]:
    """The adapted modules for adapter_config.json: a kind where all of it is adapted, else each by its whole name."""
    known = projections(model.config)
    partly = {one.kind for one in known if one.name not in adapted}
    return sorted({one.name if one.kind in partly else one.kind for one in known if one.name in adapted})


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HanlinError(f"{path} is not there: {path.parent} is no directory of an adapter") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise HanlinError(f"{path} cannot be read: {error}") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise HanlinError(f"{path} describes an adapter of the type {kind!r}: only LORA is computed here")
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise HanlinError(
            f"{path} says init_lora_weights {start!r}, which changes the base's weights too: have peft convert it to "
            "an ordinary adapter when it saves (path_initial_model_for_weight_conversion)"
        )
    neutral = {"peft_type": "LORA", "bias": "none", "init_lora_weights": start}
    for key, value in config.items():
        if key not in _WITHOUT_EFFECT and value and neutral.get(key) != value:
            raise HanlinError(f"{path} says {key} {value!r}, which is not computed here")
    return config


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        pickled = path.with_name("adapter_model.bin").exists()
        hint = "; adapter_model.bin is pickled, which hanlin never opens: convert it to safetensors" if pickled else ""
        raise HanlinError(f"{path} is not there{hint}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise HanlinError(f"{path} is not a readable safetensors file: {error}") from error


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")

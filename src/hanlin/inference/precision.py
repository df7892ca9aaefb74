"""The forms that a model's weights take for generation: which there are, and which is fastest where."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from hanlin.artifacts import UsageError
from hanlin.inference.native import multiplies_dense
from hanlin.inference.products import DenseLinear
from hanlin.inference.quantised import CodedLinear
from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import WeightReader, load_model
from hanlin.models.lora import merge_lora
from hanlin.models.transformer import Linear

DTYPES = ("float32", "bfloat16", "int8", "int4")
"""What weights may be kept in. int8: a byte a weight and a scale an output; int4: half a byte, and a scale for 64
weights; both of the matrices alone, and the arithmetic is that of float32."""
Make = Callable[[Tensor, "Tensor | None"], nn.Module]
"""Makes a layer of a weight [out, in] and a bias."""


class FrozenEmbedding(nn.Module):
    """Rows of a table in any precision, as float32, rounded to `dtype` first. The table may be a mapped file: only the
    rows that are asked for are read."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.register_buffer("weight", weight)
        self.weight: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.weight).to(self.dtype).float()


class FrozenTransformer(Transformer):
    """A Transformer for generation alone: same modules, same `hidden`, its matrices in the form of `FrozenLinear`.
    Activations, keys and values are float32."""

    output: nn.Module

    @classmethod
    def build(
        cls, config: ModelConfig, fetch: Callable[[str], Tensor], make: Make, dtype: torch.dtype
    ) -> FrozenTransformer:
        """A model of `config` whose parameters `fetch` gives by their names and `make` lays out; norms and
        the rows of embeddings are rounded to `dtype`."""
        with torch.device("meta"):
            model = cls(config)
        with torch.inference_mode():
            model.output = make(fetch("embedding.weight" if config.tied else "head.weight"), None)
            model.head, model.compute_dtype = None, torch.float32
            model.embedding = FrozenEmbedding(fetch("embedding.weight"), dtype)
            for path, module in list(model.named_modules()):
                if isinstance(module, Linear):
                    bias = None if cast("Tensor | None", module.bias) is None else fetch(f"{path}.bias")
                    model.set_submodule(path, make(fetch(f"{path}.weight"), bias))
                else:
                    for name, _ in list(module.named_parameters(recurse=False)):
                        exact = fetch(f"{path}.{name}").to(dtype, copy=True).float()
                        setattr(module, name, nn.Parameter(exact, requires_grad=False))
        return model.eval()

    def logits(self, hidden: Tensor) -> Tensor:
        return self.output(hidden)


def for_generation(model: Transformer, dtype: str | None = None) -> Transformer:
    """The model in the form in which it generates fastest on its device, its weights in `dtype` (None: as they are);
    `model` itself is not to be used afterwards: its weights are taken over one by one. Adapters are merged.

    Raises UsageError for another dtype.
    """
    merge_lora(model)
    weight = model.embedding.weight
    kind = dtype or str(weight.dtype).removeprefix("torch.")
    if dtype is None and kind not in DTYPES:
        return model.eval()
    make = layer_maker(kind, weight.device)
    if make is None:
        return model.eval().to(getattr(torch, kind))
    return FrozenTransformer.build(model.config, functools.partial(_take, model), make, _rounding(kind))


def quantise(model: Transformer, dtype: str) -> Transformer:
    """`model` with 8-bit or 4-bit weights (`dtype` int8 or int4), for generation; it is not to be used itself
    afterwards."""
    if dtype not in ("int8", "int4"):
        raise UsageError(f"weights can't be quantised to {dtype!r}: choose int8 or int4")
    return for_generation(model, dtype)


def load_for_generation(directory: Path | str, dtype: str, device: torch.device) -> Transformer:
    """`for_generation` of the model in a Hugging Face directory, read and laid out a matrix at a time: there is never
    a second copy of the whole model, and the rows of its embedding stay in the mapped file.

    Raises as `hub.load_model`, and UsageError for another dtype.
    """
    make = layer_maker(dtype, device)
    if make is None:
        return load_model(directory, dtype, device).eval()
    reader = WeightReader(directory)
    return FrozenTransformer.build(reader.config, lambda name: reader(name).to(device), make, _rounding(dtype))


def layer_maker(dtype: str, device: torch.device) -> Make | None:
    """What makes linear layers with weights in `dtype` on `device`; None: an ordinary model is the fastest form.

    Raises UsageError for another dtype.
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype is {dtype!r}: it must be one of {', '.join(DTYPES)}")
    if dtype in ("int8", "int4"):
        return lambda weight, bias: CodedLinear(weight, bias, 8 if dtype == "int8" else 4)
    if device.type != "cpu" or not multiplies_dense():
        return None
    return lambda weight, bias: DenseLinear(weight.to(getattr(torch, dtype)), bias)


def _rounding(dtype: str) -> torch.dtype:
    """What norms and embeddings are rounded to where the matrices are in `dtype`."""
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def _take(model: Transformer, name: str) -> Tensor:
    """A parameter, which the model has no longer: its memory is free when the caller lets go. Not so the embedding,
    which is asked for twice where it is the head too."""
    path, _, kind = name.rpartition(".")
    module = model.get_submodule(path)
    found = cast(Tensor, getattr(module, kind)).detach()
    if name != "embedding.weight":
        setattr(module, kind, None)
    return found

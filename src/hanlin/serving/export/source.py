"""A Hugging Face directory as what exporters read: its weights one at a time, an adapter folded into them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from hanlin import __version__
from hanlin.artifacts import HanlinError, Progress, hash_file
from hanlin.inference.directory import end_ids, prompt_prefix
from hanlin.models import ModelConfig, Transformer
from hanlin.models.adapter_files import CONFIG, PREFIX, WEIGHTS, load_adapter
from hanlin.models.hub import INDEX, Slot, check_tied, load_config, match_names, open_weights, read_json, views_of
from hanlin.models.hub import WEIGHTS as MODEL_WEIGHTS
from hanlin.models.lora_layers import Adapter
from hanlin.models.lora_settings import LoraSettings
from hanlin.tokenization import Tokenizer


class Source:
    """A model that is read tensor by tensor: no more of it is in memory than the one that is being written.

    Use it as a context: its files are open inside.
    """

    def __init__(self, directory: Path, adapter: Path | None = None) -> None:
        """Raises HanlinError for a directory that holds no complete model with a tokenizer, and for an adapter that is
        damaged or another model's."""
        self.directory, self.adapter = directory, adapter
        if not directory.is_dir():
            raise HanlinError(
                f"{directory} is not a directory: give that of a model (a stage of a run, or any Hugging Face model)"
            )
        self.config: ModelConfig = load_config(directory)
        self.tokenizer = Tokenizer.load(directory)
        if self.tokenizer.vocabulary_size > self.config.vocabulary_size:
            raise HanlinError(
                f"{directory} has a tokenizer of {self.tokenizer.vocabulary_size} tokens, but a model of "
                f"{self.config.vocabulary_size}: the two do not belong together"
            )
        self.end_ids: list[int] = end_ids(directory) or []
        """The tokens that end an answer"""
        self.prefix: list[int] = prompt_prefix(directory, self.tokenizer)
        """The tokens before a raw prompt"""
        with torch.device("meta"):
            model = Transformer(self.config)
        self.shapes: dict[Slot, tuple[int, ...]] = {slot: tuple(view.shape) for slot, view in views_of(model).items()}
        """Every tensor and its shape; matrices are [outputs, inputs]"""
        self._settings: LoraSettings | None = None
        self._deltas: dict[str, Tensor] = {}
        if adapter is not None:
            self._settings = load_adapter(adapter, model)  # on no memory: it checks that the two belong together
            self._deltas = load_file(adapter / WEIGHTS)
        self._stack = contextlib.ExitStack()
        self._files: dict[str, Any] = {}
        self._names: dict[str, str] = {}

    def __enter__(self) -> Source:
        self._files = open_weights(self.directory, self._stack)
        try:
            self._names = match_names(set(self._files), self.config, list(self.shapes), self.directory)
            if self.config.tied and "lm_head.weight" in self._files:
                embedding = self.read(next(slot for slot in self.shapes if slot.parameter == "embedding.weight"))
                head = self._files["lm_head.weight"].get_tensor("lm_head.weight").to(embedding)
                check_tied(head, embedding, self.directory)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(self, slot: Slot) -> Tensor:
        """One tensor as `shapes` has it, in the file's precision, or float32 where an adapter is folded in.

        Raises HanlinError for one that has another shape in the file.
        """
        name = self._names[slot.name]
        tensor: Tensor = self._files[name].get_tensor(name)
        tensor = tensor.T if slot.transposed else tensor
        if tuple(tensor.shape) != self.shapes[slot]:
            raise HanlinError(
                f"{slot.name} in {self.directory} has the shape {list(tensor.shape)}, but config.json makes it "
                f"{list(self.shapes[slot])}: the two do not belong together"
            )
        start = f"{PREFIX}{slot.name.removesuffix('.weight')}."
        mine = {key.removeprefix(start): value for key, value in self._deltas.items() if key.startswith(start)}
        if self._settings is None or not mine or not slot.name.endswith(".weight"):
            return tensor
        outputs, inputs = tensor.shape
        folded = Adapter(inputs, (outputs,), [0], self._settings)
        for key, place in folded.tensors(0).items():
            place.copy_(mine[key])
        return folded.merged(tensor).float()

    @property
    def dtype(self) -> str:
        """The precision of the embedding in its file, as safetensors writes it (F32, F16, BF16)."""
        name = next(self._names[slot.name] for slot in self.shapes if slot.parameter == "embedding.weight")
        return self._files[name].get_slice(name).get_dtype()

    def bounded(self, slot: Slot, most: float, dtype: str) -> Tensor:
        """`read` in float32. Raises HanlinError for a tensor that `dtype` can't hold: beyond `most`, or no
        finite number."""
        tensor = self.read(slot).float()
        largest = max(abs(float(end)) for end in tensor.aminmax())
        if not math.isfinite(largest):
            raise HanlinError(f"{slot.name} in {self.directory} holds {largest}: its weights are damaged")
        if largest > most:
            raise HanlinError(
                f"{slot.name} in {self.directory} holds {largest:g}, which {dtype} can't: give --dtype f32, or bf16"
            )
        return tensor

    def provenance(self, progress: Progress) -> dict[str, str]:
        """Where the export comes from: hanlin's version, and the SHA-256 of each file of weights by its name."""
        paths = [self.directory / MODEL_WEIGHTS]
        if not paths[0].exists():
            listed = read_json(self.directory / INDEX)["weight_map"]
            paths = [self.directory / name for name in sorted(set(listed.values()))]
        if self.adapter is not None:
            paths += [self.adapter / CONFIG, self.adapter / WEIGHTS]
        total = sum(path.stat().st_size for path in paths)
        done = 0
        found = {"hanlin.version": __version__}
        for path in paths:
            progress.update(done, total, f"hashing {path.name}")
            found[f"hanlin.source.sha256.{path.name}"] = hash_file(path)
            done += path.stat().st_size
        return found


def reported(shapes: Mapping[Slot, tuple[int, ...]], progress: Progress) -> Iterator[Slot]:
    """The slots in their order, telling `progress` of each how much has been written (in parameters)."""
    sizes = {slot: torch.Size(shape).numel() for slot, shape in shapes.items()}
    total, done = sum(sizes.values()), 0
    for slot, size in sizes.items():
        progress.update(done, total, slot.name)
        yield slot
        done += size
    progress.update(total, total)

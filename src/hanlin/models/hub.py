"""Hugging Face model directories: read into a Transformer, and written so that anyone can read them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hanlin.artifacts import HanlinError, atomic_path, write_json
from hanlin.models.config import ModelConfig
from hanlin.models.hf_config import from_hugging_face, to_hugging_face
from hanlin.models.transformer import Linear, Transformer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 << 30
"""Largest file of weights that is written."""


class SavedTokenizer(Protocol):
    """What `save_model` needs of a tokenizer (the tokenization room's `Tokenizer`)."""

    end_of_text_id: int
    pad_id: int

    @property
    def end_of_turn_id(self) -> int | None: ...

    def save(self, directory: Path) -> None: ...


class Slot(NamedTuple):
    """Where one tensor of the file lives in the model."""

    name: str
    """The file's name for it."""
    parameter: str
    """hanlin's parameter."""
    part: int | None = None
    """Which of the joined projections it is; None: the whole."""
    transposed: bool = False
    """GPT-2 stores [inputs, outputs]."""


def slots(config: ModelConfig) -> list[Slot]:
    """Every tensor that a model of this config has in its file, in the file's order."""
    return list(_gpt2_slots(config) if config.family == "gpt2" else _llama_slots(config))


def _llama_slots(config: ModelConfig) -> Iterator[Slot]:
    yield Slot("model.embed_tokens.weight", "embedding.weight")
    for layer in range(config.layers):
        theirs, ours = f"model.layers.{layer}.", f"blocks.{layer}."
        yield Slot(theirs + "input_layernorm.weight", ours + "attention_norm.weight")
        yield Slot(theirs + "post_attention_layernorm.weight", ours + "mlp_norm.weight")
        for kind in ("weight", "bias") if config.attention_bias else ("weight",):
            for part, name in enumerate("qkv"):
                yield Slot(f"{theirs}self_attn.{name}_proj.{kind}", f"{ours}attention.qkv.{kind}", part)
            yield Slot(f"{theirs}self_attn.o_proj.{kind}", f"{ours}attention.out.{kind}")
        if config.qk_norm:
            yield Slot(theirs + "self_attn.q_norm.weight", ours + "attention.query_norm.weight")
            yield Slot(theirs + "self_attn.k_norm.weight", ours + "attention.key_norm.weight")
        for kind in ("weight", "bias") if config.mlp_bias else ("weight",):
            yield Slot(f"{theirs}mlp.gate_proj.{kind}", f"{ours}mlp.up.{kind}", 0)
            yield Slot(f"{theirs}mlp.up_proj.{kind}", f"{ours}mlp.up.{kind}", 1)
            yield Slot(f"{theirs}mlp.down_proj.{kind}", f"{ours}mlp.down.{kind}")
    yield Slot("model.norm.weight", "final_norm.weight")
    if not config.tied:
        yield Slot("lm_head.weight", "head.weight")


def _gpt2_slots(config: ModelConfig) -> Iterator[Slot]:
    yield Slot("transformer.wte.weight", "embedding.weight")
    yield Slot("transformer.wpe.weight", "positions.weight")
    for layer in range(config.layers):
        theirs, ours = f"transformer.h.{layer}.", f"blocks.{layer}."
        for kind in ("weight", "bias"):
            turned = kind == "weight"
            yield Slot(f"{theirs}ln_1.{kind}", f"{ours}attention_norm.{kind}")
            yield Slot(f"{theirs}attn.c_attn.{kind}", f"{ours}attention.qkv.{kind}", transposed=turned)
            yield Slot(f"{theirs}attn.c_proj.{kind}", f"{ours}attention.out.{kind}", transposed=turned)
            yield Slot(f"{theirs}ln_2.{kind}", f"{ours}mlp_norm.{kind}")
            yield Slot(f"{theirs}mlp.c_fc.{kind}", f"{ours}mlp.up.{kind}", transposed=turned)
            yield Slot(f"{theirs}mlp.c_proj.{kind}", f"{ours}mlp.down.{kind}", transposed=turned)
    yield Slot("transformer.ln_f.weight", "final_norm.weight")
    yield Slot("transformer.ln_f.bias", "final_norm.bias")
    if not config.tied:
        yield Slot("lm_head.weight", "head.weight")


def load_config(directory: Path | str) -> ModelConfig:
    """The shape of the model in `directory`. Raises HanlinError if there is none, or none that hanlin computes."""
    path = Path(directory) / "config.json"
    return from_hugging_face(read_json(path), path)


def load_model(
    directory: Path | str, dtype: torch.dtype | str = torch.float32, device: torch.device | str = "cpu"
) -> Transformer:
    """The model in a Hugging Face directory, its weights (safetensors, one file or several) turned to `dtype`.

    Raises HanlinError for tensors that are missing, left over, or of another shape, naming them.
    """
    directory = Path(directory)
    config = load_config(directory)
    with torch.device("meta"):
        model = Transformer(config)
    model = model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype).to_empty(device=device)
    with contextlib.ExitStack() as stack:
        files = open_weights(directory, stack)
        read_weights(files, config, views_of(model), directory)
        if config.tied and "lm_head.weight" in files:
            head = files["lm_head.weight"].get_tensor("lm_head.weight").to(model.embedding.weight)
            check_tied(head, model.embedding.weight, directory)
    return model


class WeightReader:
    """The parameters of a model directory, one at a time, in the precision of its files: for whoever turns each into
    another form, so that there is never a whole model in the old one.

    Raises HanlinError as `load_model`, when it is made and when a parameter is read.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self.config = load_config(self.directory)
        with torch.device("meta"):
            self._views = views_of(Transformer(self.config))
        with contextlib.ExitStack() as stack:
            self._paths = {name: path for name, (path, _) in _opened(self.directory, stack).items()}
        self._names = match_names(set(self._paths), self.config, list(self._views), self.directory)
        if self.config.tied and "lm_head.weight" in self._paths:
            check_tied(self._tensor("lm_head.weight"), self("embedding.weight"), self.directory)

    def __call__(self, parameter: str) -> Tensor:
        """The tensor of that parameter of a `Transformer`: a piece of the mapped file where it stands there whole, so
        that only what is looked at is read; made anew where it is joined of several."""
        parts: list[Tensor] = []
        for slot, target in self._views.items():
            if slot.parameter == parameter:
                source = self._tensor(self._names[slot.name])
                parts.append(_fitting(source.T if slot.transposed else source, target, slot, self.directory))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _tensor(self, name: str) -> Tensor:
        # The file is mapped for this tensor alone, and let go with it: pages that were read of it count as this
        # process's memory until then.
        with safe_open(self._paths[name], framework="pt") as file:
            return file.get_tensor(name)


@torch.no_grad()
def read_weights(files: Mapping[str, Any], config: ModelConfig, views: Mapping[Slot, Tensor], directory: Path) -> None:
    """Fill the views from the tensors of open `files`. Raises HanlinError unless these are exactly what the views are
    of."""
    names = match_names(set(files), config, list(views), directory)
    for slot, target in views.items():
        source = files[names[slot.name]].get_tensor(names[slot.name])
        target.copy_(_fitting(source.T if slot.transposed else source, target, slot, directory))


def _fitting(source: Tensor, target: Tensor, slot: Slot, directory: Path) -> Tensor:
    if source.shape != target.shape:
        raise HanlinError(
            f"{slot.name} in {directory} has the shape {list(source.shape)}, but config.json makes it "
            f"{list(target.shape)}: the two do not belong together"
        )
    return source


def check_tied(head: Tensor, embedding: Tensor, directory: Path) -> None:
    """Raise HanlinError where a model with tied embeddings has another head in its files all the same."""
    if not torch.equal(head, embedding):
        raise HanlinError(
            f"lm_head.weight in {directory} is not the embedding, though config.json says tie_word_embeddings: "
            "set it to false, or remove the tensor"
        )


def save_model(
    directory: Path | str,
    model: Transformer,
    tokenizer: SavedTokenizer | None = None,
    generation: Mapping[str, Any] | None = None,
    dtype: torch.dtype | str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `model` as a Hugging Face directory: config.json, generation_config.json, weights in `dtype` (None: as is)
    and the tokenizer's files if one is given. `generation` adds to generation_config.json. Each file appears whole."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    kind = (getattr(torch, dtype) if isinstance(dtype, str) else dtype) or model.embedding.weight.dtype
    write_weights(directory, views_of(model), kind, shard_bytes)
    special = special_tokens(tokenizer)
    stops: list[int] = []
    if tokenizer is not None:
        tokenizer.save(directory)
        stops = [i for i in (tokenizer.end_of_turn_id, tokenizer.end_of_text_id) if i is not None]
    generated = {**special, "eos_token_id": stops or None, **(generation or {})}
    write_json(directory / "generation_config.json", {k: v for k, v in generated.items() if v is not None})
    values = {**to_hugging_face(model.config, str(kind).removeprefix("torch.")), **special}
    write_json(directory / "config.json", values)


def special_tokens(tokenizer: SavedTokenizer | None) -> dict[str, int | None]:
    """The ids that config.json names."""
    if tokenizer is None:
        return {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    stop = tokenizer.end_of_text_id if tokenizer.end_of_turn_id is None else tokenizer.end_of_turn_id
    return {"bos_token_id": tokenizer.end_of_text_id, "eos_token_id": stop, "pad_token_id": tokenizer.pad_id}


def views_of(model: Transformer) -> dict[Slot, Tensor]:
    """The piece of the model's memory that each slot names, in the file's order. Raises HanlinError for a model with
    adapters or quantised weights, which such a file can't hold."""
    parameters = dict(model.named_parameters())
    splits = {name: module.splits for name, module in model.named_modules() if isinstance(module, Linear)}
    views: dict[Slot, Tensor] = {}
    for slot in slots(model.config):
        if slot.parameter not in parameters:
            raise HanlinError(
                f"{slot.parameter} is no ordinary weight: the model has adapters or quantised weights. Make it an "
                "ordinary model first (merge_lora), or save the adapter alone (save_adapter)."
            )
        whole = parameters[slot.parameter].detach()
        if slot.part is None:
            views[slot] = whole
        else:
            views[slot] = whole.split(splits[slot.parameter.rpartition(".")[0]])[slot.part]
    return views


def match_names(present: set[str], config: ModelConfig, wanted: list[Slot], directory: Path) -> dict[str, str]:
    """The file's name of each slot. Old GPT-2 files leave out `transformer.`; buffers once saved are passed over.

    Raises HanlinError, naming them, for tensors that are missing or left over.
    """
    bare = config.family == "gpt2" and not any(name.startswith("transformer.") for name in present)
    names = {slot.name: slot.name.removeprefix("transformer.") if bare else slot.name for slot in wanted}
    passed = ("rotary_emb.inv_freq", "attn.masked_bias", ".attn.bias")
    missing = [name for name in names.values() if name not in present]
    extra = sorted(name for name in present - set(names.values()) if not name.endswith(passed))
    extra = [name for name in extra if not (config.tied and name == "lm_head.weight")]
    for problem, found in (("lacks", missing), ("has, beyond what its config.json describes,", extra)):
        if found:
            listed = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
            raise HanlinError(
                f"{directory} {problem} the tensors {listed}: its weights are not those of the {config.family} model "
                "that its config.json describes"
            )
    return names


def read_json(path: Path) -> dict[str, Any]:
    """The object in a model directory's JSON file. Raises HanlinError when there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HanlinError(f"{path} is not there: {path.parent} is not a Hugging Face model directory") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise HanlinError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise HanlinError(f"{path} holds no JSON object: it should describe a model")
    return found


def open_weights(directory: Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Tensor names to open safetensors files."""
    return {name: file for name, (_, file) in _opened(directory, stack).items()}


def _opened(directory: Path, stack: contextlib.ExitStack) -> dict[str, tuple[Path, Any]]:
    paths = [directory / WEIGHTS]
    if (directory / INDEX).exists() and not paths[0].exists():
        listed = read_json(directory / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not all(
            isinstance(name, str) and Path(name).name == name for name in listed.values()
        ):
            raise HanlinError(f"{directory / INDEX} has no weight_map from tensors to files beside it")
        paths = [directory / name for name in sorted(set(listed.values()))]
    files: dict[str, tuple[Path, Any]] = {}
    for path in paths:
        if not path.exists():
            others = [
                name for name in ("pytorch_model.bin", "pytorch_model.bin.index.json") if (directory / name).exists()
            ]
            hint = f"; {others[0]} is pickled, which hanlin never opens: convert it to safetensors" if others else ""
            raise HanlinError(f"{path} is not there{hint or ': the directory holds no complete model'}")
        try:
            file = stack.enter_context(safe_open(path, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise HanlinError(f"{path} is not a readable safetensors file: {error}") from error
        files.update(dict.fromkeys(file.keys(), (path, file)))
    return files


def write_weights(
    directory: Path, views: Mapping[Slot, Tensor], dtype: torch.dtype, shard_bytes: int = SHARD_BYTES
) -> None:
    """The views in `dtype` as one file, or several and an index if it would pass `shard_bytes`; files of an earlier
    save are removed."""
    tensors: dict[str, Tensor] = {}
    for slot, view in views.items():
        # A copy, so that parts of one matrix and tied tensors do not share memory, which safetensors refuses.
        tensors[slot.name] = (view.T if slot.transposed else view).to("cpu", dtype, copy=True).contiguous()
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
    names = [WEIGHTS] if len(shards) == 1 else [
        f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))
    ]  # fmt: skip
    for name, shard in zip(names, shards):
        with atomic_path(directory / name) as part:
            save_file(shard, part, metadata={"format": "pt"})
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        where = {tensor: name for name, shard in zip(names, shards) for tensor in shard}
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    for old in directory.glob("model*.safetensors*"):
        if old.name not in names and not (old.name == INDEX and len(shards) > 1):
            old.unlink()

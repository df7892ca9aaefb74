"""A model as one GGUF file: hyper-parameters, vocabulary and tensors as llama.cpp names and lays them out."""

from __future__ import annotations

import math
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray
from torch import Tensor

from hanlin.artifacts import HanlinError, Progress, UsageError, atomic_path
from hanlin.models import ModelConfig
from hanlin.models.hub import Slot
from hanlin.models.rotary import frequencies
from hanlin.serving.export.gguf_tokenizer import add_tokenizer
from hanlin.serving.export.source import Source, reported

KINDS: dict[str, tuple[Kind, gguf.LlamaFileType]] = {
    "f32": (Kind.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (Kind.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (Kind.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gpt2": gguf.MODEL_ARCH.GPT2,
}
LARGEST = {Kind.F16: 65504.0}
ROPE_FACTORS = "rope_freqs.weight"


def write(source: Source, path: Path, dtype: str | None, progress: Progress) -> None:
    """Write the open `source` to `path`, matrices in `dtype` (None: as they are); norms and biases are float32 in any
    case.

    Raises UsageError for another dtype, and HanlinError for a model that llama.cpp would compute differently.
    """
    config = source.config
    architecture = ARCHITECTURES[config.family]
    _check(config)
    if path.is_dir():
        raise UsageError(f"{path} is a directory: a GGUF is one file, such as {path / 'model.gguf'}")
    dtype = dtype or source.dtype.lower()
    if dtype not in KINDS:
        raise UsageError(f"dtype is {dtype!r}: GGUF is written in {', '.join(KINDS)}")
    kind, file_type = KINDS[dtype]
    names = gguf.get_tensor_name_map(architecture, config.layers)
    with atomic_path(path) as part:
        writer = gguf.GGUFWriter(part, gguf.MODEL_ARCH_NAMES[architecture])
        try:
            writer.add_type(gguf.GGUFType.MODEL)
            writer.add_name(source.directory.resolve().name)
            writer.add_file_type(file_type)
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            _add_shape(writer, config, progress)
            add_tokenizer(writer, source, progress)
            for key, value in source.provenance(progress).items():
                writer.add_string(key, value)
            factors = _rope_factors(config)
            if factors is not None:
                writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
            kinds: dict[Slot, Kind] = {}
            for slot, shape in source.shapes.items():
                name = names.get_name(slot.name, try_suffixes=(".weight", ".bias"))
                assert name is not None, slot.name
                kinds[slot] = _kind(slot, shape, kind)
                row, block = gguf.GGML_QUANT_SIZES[kinds[slot]]
                size = math.prod(shape) // row * block
                writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=kinds[slot])
            odd = [slot.name for slot, found in kinds.items() if kind == Kind.Q8_0 and found == Kind.F16]
            if odd:
                progress.say(f"q8_0 goes in blocks of 32 along a row: {len(odd)} matrices stay in f16, as {odd[0]}")
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            if factors is not None:
                writer.write_tensor_data(factors)
            for slot in reported(source.shapes, progress):
                most = LARGEST.get(kinds[slot], math.inf)
                tensor = _laid_out(source.bounded(slot, most, kinds[slot].name.lower()), slot, config)
                writer.write_tensor_data(gguf.quants.quantize(np.ascontiguousarray(tensor.numpy()), kinds[slot]))
        finally:
            writer.close()


def _check(config: ModelConfig) -> None:
    """Raise HanlinError for what llama.cpp's architecture of this family has not."""
    where = f"llama.cpp's {gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config.family]]!r}"
    known = ("gelu_new", "gelu_pytorch_tanh") if config.family == "gpt2" else ("silu",)
    scaling, problem = config.rope_scaling or {}, None
    if config.activation not in known:
        problem = f"hidden_act is {config.activation!r}, and {where} computes {known[0]!r} only"
    elif config.family == "qwen3" and config.attention_bias:
        problem = f"attention_bias is true, and {where} has no bias in the attention's output"
    elif config.family == "qwen3" and config.rope_type == "llama3":
        problem = f"rope_scaling is of the type 'llama3', which {where} does not read"
    elif config.rope_type == "yarn" and not scaling.get("truncate", True):
        problem = f"rope_scaling says truncate false, and {where} rounds YaRN's bounds always"
    elif config.rope_type == "yarn" and (scaling.get("beta_fast") or 32, scaling.get("beta_slow") or 1) != (32, 1):
        problem = f"rope_scaling has beta_fast or beta_slow, which {where} does not read"
    if problem:
        raise HanlinError(f"{problem}: the file would be of another model. Export to ONNX instead.")


def _add_shape(writer: gguf.GGUFWriter, config: ModelConfig, progress: Progress) -> None:
    context = config.max_positions
    windows = {config.window(layer) for layer in range(config.layers)} - {None}
    if windows and min(filter(None, windows)) < context:
        context = min(filter(None, windows))
        progress.say(
            f"llama.cpp has no sliding window for {config.family}: the file's context is the window, {context} tokens, "
            "within which the two compute the same. Do not run it with more."
        )
    writer.add_context_length(context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.heads)
    writer.add_vocab_size(config.vocabulary_size)
    if config.norm == "layer":
        writer.add_layer_norm_eps(config.norm_epsilon)
    else:
        writer.add_layer_norm_rms_eps(config.norm_epsilon)
    if config.position == "learned":
        return
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    scaling = config.rope_scaling or {}
    if config.rope_type == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(scaling["factor"]))
    elif config.rope_type == "yarn":
        original = int(scaling.get("original_max_position_embeddings") or config.max_positions)
        factor = float(scaling.get("factor") or config.max_positions / original)
        _, attention = frequencies(config)
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(original)
        # llama.cpp multiplies by 0.1 ln(factor) + 1 on its own.
        writer.add_rope_scaling_attn_factors(attention / (1 + 0.1 * math.log(max(factor, 1.0))))
    elif config.rope_type == "dynamic":
        progress.say(f"rope_scaling is dynamic: the file holds the frequencies up to {config.max_positions} tokens.")


def _rope_factors(config: ModelConfig) -> NDArray[np.float32] | None:
    """What llama.cpp divides each rotary frequency by, where that is no other setting."""
    if config.rope_type != "llama3":
        return None
    plain, _ = frequencies(config.model_copy(update={"rope_scaling": None}))
    scaled, _ = frequencies(config)
    return (plain / scaled).numpy()


def _kind(slot: Slot, shape: tuple[int, ...], wanted: Kind) -> Kind:
    if len(shape) == 1 or slot.parameter == "positions.weight":
        return Kind.F32
    if wanted == Kind.Q8_0 and shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        return Kind.F16
    return wanted


def _laid_out(tensor: Tensor, slot: Slot, config: ModelConfig) -> Tensor:
    """Queries and keys of llama.cpp's "llama" rotate neighbours (2i, 2i + 1), those of a Hugging Face file the halves
    (i, i + d/2): the rows of each head change places."""
    heads = {0: config.heads, 1: config.kv_heads}.get(-1 if slot.part is None else slot.part)
    if (
        ARCHITECTURES[config.family] != gguf.MODEL_ARCH.LLAMA
        or heads is None
        or ".attention.qkv." not in slot.parameter
    ):
        return tensor
    halves = tensor.unflatten(0, (heads, 2, config.head_dim // 2))
    return halves.transpose(1, 2).flatten(0, 2)

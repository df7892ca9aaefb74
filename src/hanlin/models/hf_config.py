"""`config.json` of Hugging Face models, in both of its styles, to `ModelConfig` and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hanlin.artifacts import HanlinError
from hanlin.models.config import Family, ModelConfig

ARCHITECTURES: dict[Family, str] = {
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
CLASSIFIERS: dict[Family, str] = {
    "qwen3": "Qwen3ForSequenceClassification",
    "llama": "LlamaForSequenceClassification",
    "mistral": "MistralForSequenceClassification",
    "gpt2": "GPT2ForSequenceClassification",
}
"""The same trunks with a linear head at the last token: what a reward model is saved as"""

_NAMES = {
    "vocabulary_size": "vocab_size",
    "hidden_size": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "norm_epsilon": "rms_norm_eps",
    "activation": "hidden_act",
    "tied": "tie_word_embeddings",
    "attention_bias": "attention_bias",
    "mlp_bias": "mlp_bias",
}
_GPT2_NAMES = {
    "vocabulary_size": "vocab_size",
    "hidden_size": "n_embd",
    "layers": "n_layer",
    "heads": "n_head",
    "intermediate_size": "n_inner",
    "max_positions": "n_positions",
    "norm_epsilon": "layer_norm_epsilon",
    "activation": "activation_function",
    "tied": "tie_word_embeddings",
}
# What the classes of transformers assume where a file says nothing, if that is not hanlin's own default.
_ABSENT: dict[Family, dict[str, Any]] = {
    "qwen3": {"tied": False, "head_dim": 128, "max_positions": 32768, "kv_heads": 32},
    "llama": {"tied": False},
    "mistral": {"tied": False, "max_positions": 131072, "kv_heads": 8},
    "gpt2": {"tied": True, "max_positions": 1024},
}
# Keys that would change what is computed, with the only values that are computed here.
_ONLY: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (None, 1, 1.0),
    "scale_attn_weights": (None, True),
    "scale_attn_by_inverse_layer_idx": (None, False),
    "add_cross_attention": (None, False),
    "quantization_config": (None,),
}


def from_hugging_face(
    values: dict[str, Any], where: Path, architectures: dict[Family, str] = ARCHITECTURES
) -> ModelConfig:
    """The config that `values` (a config.json, found at `where`) describes, of one of `architectures`.

    Raises HanlinError for another architecture, or for something in it that would be computed differently here.
    """
    family = _family(values, where, architectures)
    for key, allowed in _ONLY.items():
        if values.get(key) not in allowed:
            raise HanlinError(f"{key} is {values[key]!r} in {where}: hanlin's {family} computes only {allowed[-1]!r}")
    names = _GPT2_NAMES if family == "gpt2" else _NAMES
    found: dict[str, Any] = {"family": family, **_ABSENT[family]}
    for ours, theirs in names.items():
        if values.get(theirs) is not None:
            found[ours] = values[theirs]
    if family in ("qwen3", "mistral"):
        found.pop("mlp_bias", None)
    if family == "mistral":
        found.pop("attention_bias", None)
        found["sliding_window"] = values.get("sliding_window", 4096)
    if family == "qwen3":
        found.update(_qwen3_window(values, where))
    if family != "gpt2":
        found.update(_rope(values, where))
    try:
        return ModelConfig(**found)
    except (ValidationError, HanlinError) as error:
        raise HanlinError(f"{where} does not describe a {family} model that hanlin can compute: {error}") from error


def _family(values: dict[str, Any], where: Path, wanted: dict[Family, str]) -> Family:
    architectures = values.get("architectures") or []
    for family, architecture in wanted.items():
        if architecture in architectures or (not architectures and values.get("model_type") == family):
            return family
    named = ", ".join(architectures) or values.get("model_type") or "no architecture at all"
    other = {*ARCHITECTURES.values(), *CLASSIFIERS.values()} - {*wanted.values()}
    hint = ""
    if other.intersection(architectures):
        hint = " here; it is a model that answers" if wanted is CLASSIFIERS else " here; it is a reward model"
    raise HanlinError(f"{where} names {named}: hanlin reads {', '.join(wanted.values())}{hint}")


def _qwen3_window(values: dict[str, Any], where: Path) -> dict[str, Any]:
    layers = values.get("num_hidden_layers", 32)
    if not values.get("use_sliding_window") or values.get("sliding_window", 4096) is None:
        return {}
    kinds = values.get("layer_types")
    full = min(values.get("max_window_layers", 28), layers) if kinds is None else kinds.count("full_attention")
    if kinds is not None and kinds != ["full_attention"] * full + ["sliding_attention"] * (layers - full):
        raise HanlinError(
            f"layer_types mixes full and sliding attention in {where}: hanlin knows full layers, then sliding ones"
        )
    if full == layers:
        return {}
    return {"sliding_window": values.get("sliding_window", 4096), "full_attention_layers": full}


def _rope(values: dict[str, Any], where: Path) -> dict[str, Any]:
    """transformers 5 writes `rope_parameters`, theta inside; 4 wrote `rope_theta` and `rope_scaling`."""
    scaling = dict(values.get("rope_scaling") or values.get("rope_parameters") or {})
    theta = scaling.pop("rope_theta", None) or values.get("rope_theta") or 10000.0
    kind = scaling.pop("type", None)
    kind = scaling.pop("rope_type", None) or kind or "default"
    factor = scaling.pop("partial_rotary_factor", None)
    if factor not in (None, 1, 1.0):
        raise HanlinError(f"partial_rotary_factor is {factor} in {where}: hanlin rotates whole heads only")
    if kind == "default":
        return {"rope_theta": float(theta)}
    return {"rope_theta": float(theta), "rope_scaling": {"rope_type": kind, **scaling}}


def to_hugging_face(
    config: ModelConfig, dtype: str, architectures: dict[Family, str] = ARCHITECTURES
) -> dict[str, Any]:
    """What `config.json` says: read alike by transformers 4 and 5, vLLM, SGLang and llama.cpp's converter."""
    names = _GPT2_NAMES if config.family == "gpt2" else _NAMES
    values: dict[str, Any] = {"architectures": [architectures[config.family]], "model_type": config.family}
    values.update({theirs: getattr(config, ours) for ours, theirs in names.items()})
    if config.family == "gpt2":
        # hanlin trains without dropout; the names that other readers look for first stand beside GPT-2's own.
        values.update(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, n_ctx=config.max_positions)
    else:
        scaling = config.rope_scaling
        parameters = {"rope_type": "default", **(scaling or {}), "rope_theta": config.rope_theta}
        values.update(
            rope_theta=config.rope_theta, rope_scaling=scaling, rope_parameters=parameters, attention_dropout=0.0
        )
    if config.family == "qwen3":
        sliding = config.sliding_window is not None
        values.update(
            use_sliding_window=sliding,
            sliding_window=config.sliding_window,
            max_window_layers=config.full_attention_layers if sliding else config.layers,
        )
    if config.family == "mistral":
        values["sliding_window"] = config.sliding_window
    if config.family in ("qwen3", "mistral"):
        del values["mlp_bias"]
    if config.family == "mistral":
        del values["attention_bias"]
    values.update(initializer_range=0.02, use_cache=True, dtype=dtype, torch_dtype=dtype)
    return values

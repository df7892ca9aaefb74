"""Small models and a tokenizer for the tests of this room."""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hanlin.inference import Engine
from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import load_model
from hanlin.tokenization import Tokenizer

VOCABULARY = 268
"""Of `Tokenizer.bytes()`: 256 bytes and the special tokens."""
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
    "pad_token_id": 257,
    "bos_token_id": 256,
    "eos_token_id": 256,
}
HUGGING_FACE: dict[str, Any] = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=20, tie_word_embeddings=True)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=9)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=48, n_layer=3, n_head=4, n_positions=128, bos_token_id=256, eos_token_id=256
        )
    ),
}
FAMILIES = sorted(HUGGING_FACE)


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer.bytes()


def shaken(name: str) -> Any:
    """A Hugging Face model with weights large enough that its answers differ and vary."""
    torch.manual_seed(7)
    model = HUGGING_FACE[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.15 if parameter.ndim > 1 else 0.1))
    return model


@functools.cache
def small(family: str = "llama") -> Transformer:
    """A hanlin model of the family with lively random weights."""
    shape: dict[str, Any] = {"hidden_size": 48, "layers": 3, "heads": 4, "max_positions": 128}
    if family != "gpt2":
        shape |= {"kv_heads": 2, "intermediate_size": 80}
    if family == "mistral":
        shape["sliding_window"] = 9
    model = Transformer(ModelConfig(family=family, vocabulary_size=VOCABULARY, **shape))
    model.init_weights(3)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * (0.15 if parameter.ndim > 1 else 0.1))
    return model.eval()


@functools.cache
def engine(family: str = "llama") -> Engine:
    return Engine(small(family), tokenizer(), max_batch=8)


def from_hugging_face(model: Any, directory: Any) -> Transformer:
    model.save_pretrained(directory)
    return load_model(directory).eval()


def prompts(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 250, (length,), generator=generator).tolist() for length in lengths]

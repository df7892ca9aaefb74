"""Small models and tokenizers for the tests of exporting."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import save_model
from hanlin.tokenization import Tokenizer
from hanlin.tokenization.vocabulary import byte_alphabet, chatml_template, tokenizer_config, tokenizer_json

TEXT = (
    "The history of a small town beside the river, where people bake bread; they're singing, it's 1984!\n"
    "翰林院的学士们在考试之前读书，天下大事，分久必合，合久必分。我想在apple工作1314151天～\n\n"
    "def fibonacci(n: int) -> int:\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)  # O(2**n)\n"
    '\tfor (int i = 0; i < 10; ++i) { printf("%d\\n", i); }\r\n'
    "I'M SURE we'LL see: naïve café, Ünïcödé, нещо на Български, 🚀🦙 \u200d ✅ 3.3 ..3    trailing   \n \n"
)
PADDING = 5
"""Rows of the models' embeddings beyond the tokenizer's vocabulary"""
SHAPE: dict[str, Any] = {"hidden_size": 64, "layers": 3, "heads": 4, "max_positions": 128}
GROUPED: dict[str, Any] = {"kv_heads": 2, "intermediate_size": 96}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "qwen3": {"family": "qwen3", **GROUPED, "head_dim": 20},
    "qwen3-untied-yarn": {
        "family": "qwen3", **GROUPED, "tied": False, "rope_scaling": YARN,
    },
    "llama": {"family": "llama", **GROUPED, "tied": False},
    "llama-biases-llama3": {
        "family": "llama", **GROUPED, "attention_bias": True, "mlp_bias": True, "rope_scaling": LLAMA3,
    },
    "llama-linear": {"family": "llama", **GROUPED, "rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    "llama-yarn": {"family": "llama", **GROUPED, "rope_scaling": {**YARN, "attention_factor": 1.3}},
    "mistral": {"family": "mistral", **GROUPED, "tied": False, "head_dim": 24, "rope_theta": 5e5},
    "gpt2": {"family": "gpt2"},
    "gpt2-untied": {"family": "gpt2", "tied": False},
}  # fmt: skip


@functools.cache
def trained(pre_tokenizer: str | None = None, size: int = 420) -> Tokenizer:
    """A byte-level BPE of `TEXT` in hanlin's files; `pre_tokenizer` is another one's JSON."""
    value = json.loads(tokenizer_json(byte_alphabet(), []))
    if pre_tokenizer is not None:
        value["pre_tokenizer"] = json.loads(pre_tokenizer)
    learner = tokenizers.Tokenizer(BPE())
    learner.pre_tokenizer = tokenizers.Tokenizer.from_str(json.dumps(value)).pre_tokenizer
    learner.train_from_iterator([TEXT], BpeTrainer(vocab_size=size, initial_alphabet=byte_alphabet()))
    merges = json.loads(learner.to_str())["model"]["merges"]
    made = json.loads(tokenizer_json([*byte_alphabet(), *("".join(pair) for pair in merges)], merges))
    made["pre_tokenizer"] = value["pre_tokenizer"]
    return Tokenizer(json.dumps(made), tokenizer_config(), chatml_template())


def made(**changes: Any) -> Transformer:
    """A model of the shape with lively random weights."""
    shape = {**SHAPE, "vocabulary_size": trained().vocabulary_size + PADDING, **changes}
    model = Transformer(ModelConfig.model_validate(shape))
    model.init_weights(3)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * (0.15 if parameter.ndim > 1 else 0.1))
    return model.eval()


def saved(directory: Path, **changes: Any) -> Transformer:
    model = made(**changes)
    save_model(directory, model, trained())
    return model


def ids(length: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 250, (rows, length), generator=torch.Generator().manual_seed(seed))

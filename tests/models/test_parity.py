"""hanlin's model code against transformers on random weights, both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import load_config, load_model, save_model
from hanlin.models.losses import cross_entropy

SHAPE: dict[str, Any] = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
SMALL: dict[str, Any] = {**SHAPE, "num_key_value_heads": 2, "intermediate_size": 80, "max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 16}
GPT2_SHAPE: dict[str, Any] = {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64}

HUGGING_FACE: dict[str, Any] = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=20, tie_word_embeddings=True)),
    "qwen3-untied-bias": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=12, attention_bias=True)),
    "qwen3-yarn": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=16, rope_parameters=dict(YARN))),
    "qwen3-window": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SMALL, head_dim=12, use_sliding_window=True, sliding_window=7, max_window_layers=1)
    ),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "llama-llama3": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, rope_parameters=dict(LLAMA3))),
    "llama-linear": lambda: LlamaForCausalLM(
        LlamaConfig(**SMALL, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0})
    ),
    "llama-yarn": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, rope_parameters={**YARN, "beta_fast": 16.0})),
    "llama-dynamic": lambda: LlamaForCausalLM(
        LlamaConfig(**SMALL, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    ),
    "llama-biases": lambda: LlamaForCausalLM(
        LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True, hidden_act="gelu")
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=9)),
    "mistral-full": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=None, head_dim=20)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2_SHAPE)),
    "gpt2-untied": lambda: GPT2LMHeadModel(GPT2Config(**GPT2_SHAPE, tie_word_embeddings=False, n_inner=80)),
}


def shaken(model: Any) -> Any:
    """Weights away from 1 and 0, so that a forgotten norm or bias shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def tokens(length: int = 40) -> torch.Tensor:
    return torch.randint(0, 97, (2, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", HUGGING_FACE)
@torch.no_grad()
def test_reads_what_transformers_wrote_and_writes_what_it_reads(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    theirs = shaken(HUGGING_FACE[name]())
    theirs.save_pretrained(tmp_path / "theirs")
    expected = theirs(tokens()).logits

    ours = load_model(tmp_path / "theirs")
    assert (ours(tokens()) - expected).abs().max() < 1e-5
    assert expected.std() > 0.05

    save_model(tmp_path / "ours", ours)
    assert load_config(tmp_path / "ours") == ours.config
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", trust_remote_code=False).eval()
    assert type(again) is type(theirs)
    assert (again(tokens()).logits - expected).abs().max() < 1e-5
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("family", ["qwen3", "llama", "mistral", "gpt2"])
@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_transformers_computes_what_hanlin_made(family: str, tied: bool, tmp_path: Path) -> None:
    window = {"sliding_window": 8} if family == "mistral" else {}
    config = ModelConfig.model_validate(
        {"family": family, "vocabulary_size": 97, "hidden_size": 32, "layers": 2, "heads": 4, "tied": tied, **window}
    )
    model = Transformer(config)
    model.init_weights(3)
    save_model(tmp_path, shaken(model))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert (theirs(tokens()).logits - model(tokens())).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("llama-llama3", {"rope_theta": 500.0, "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"}}),
        ("llama-linear", {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 3.0}}),
        ("llama-tied", {"rope_theta": 1e4, "rope_scaling": None}),
    ],
)
def test_the_config_of_transformers_4_is_read_alike(name: str, old: dict[str, Any], tmp_path: Path) -> None:
    HUGGING_FACE[name]().save_pretrained(tmp_path)
    new = load_config(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps({**values, **old}))
    assert load_config(tmp_path) == new


def test_gradients_are_those_of_transformers(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    theirs = shaken(HUGGING_FACE["qwen3"]()).double()
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path, torch.float64)
    ids = tokens()
    labels = torch.cat((ids[:, 1:], torch.full((2, 1), -100)), dim=1)
    found = cross_entropy(ours.hidden(ids), ours.head_weight, labels)
    (found.loss / found.count).backward()
    # Its own loss function computes in float32.
    logits = theirs(ids).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    theirs_by_name = dict(theirs.named_parameters())
    layer = ours.blocks[1]
    grads = layer.attention.qkv.weight.grad.split(layer.attention.qkv.splits) + layer.mlp.up.weight.grad.chunk(2)
    names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"]
    pairs = [(grad, theirs_by_name[f"model.layers.1.{name}.weight"].grad) for grad, name in zip(grads, names)]
    pairs += [
        (ours.embedding.weight.grad, theirs_by_name["model.embed_tokens.weight"].grad),
        (ours.final_norm.weight.grad, theirs_by_name["model.norm.weight"].grad),
        (layer.attention.query_norm.weight.grad, theirs_by_name["model.layers.1.self_attn.q_norm.weight"].grad),
        (layer.attention.key_norm.weight.grad, theirs_by_name["model.layers.1.self_attn.k_norm.weight"].grad),
        (layer.attention.out.weight.grad, theirs_by_name["model.layers.1.self_attn.o_proj.weight"].grad),
        (layer.mlp.down.weight.grad, theirs_by_name["model.layers.1.mlp.down_proj.weight"].grad),
        (layer.mlp_norm.weight.grad, theirs_by_name["model.layers.1.post_attention_layernorm.weight"].grad),
    ]
    for mine, other in pairs:
        assert other.abs().max() > 1e-6
        assert (mine - other).abs().max() < 1e-6 * other.abs().max()

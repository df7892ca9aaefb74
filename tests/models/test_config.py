"""Shapes: what is filled in, what is refused, and what is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hanlin.artifacts import HanlinError
from hanlin.models import ModelConfig, Transformer
from hanlin.models.flops import attention_span, flops_per_token, forward_flops_per_token, parameter_count

SHAPE: dict[str, Any] = {"vocabulary_size": 97, "hidden_size": 48, "layers": 2, "heads": 4}


def test_what_is_left_out_is_filled_in() -> None:
    config = ModelConfig(vocabulary_size=97, hidden_size=384, layers=6, heads=6)
    assert (config.kv_heads, config.head_dim, config.intermediate_size, config.qk_norm) == (6, 64, 1024, True)
    gpt2 = ModelConfig(family="gpt2", vocabulary_size=97, hidden_size=48, layers=2, heads=4)
    assert (gpt2.intermediate_size, gpt2.position, gpt2.activation, gpt2.tied) == (192, "learned", "gelu_new", True)
    assert ModelConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "not a multiple of heads"),
        ({"kv_heads": 3}, "not a multiple of kv_heads"),
        ({"family": "llama", "qk_norm": True}, "qk_norm"),
        ({"family": "mistral", "attention_bias": True}, "attention_bias"),
        ({"family": "gpt2", "kv_heads": 2}, "gpt2 cannot"),
        ({"head_dim": 7}, "odd"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "longrope"),
        ({"family": "llama", "sliding_window": 4}, "sliding_window"),
    ],
)
def test_what_no_class_expresses_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HanlinError, match=message):
        ModelConfig.model_validate({**SHAPE, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "qwen3", "kv_heads": 2, "head_dim": 20, "attention_bias": True, "tied": False},
        {"family": "llama", "mlp_bias": True, "attention_bias": True},
        {"family": "mistral"},
        {"family": "gpt2"},
        {"family": "gpt2", "tied": False},
    ],
)
def test_parameters_are_counted(changes: dict[str, Any]) -> None:
    config = ModelConfig.model_validate({**SHAPE, **changes})
    with torch.device("meta"):
        model = Transformer(config)
    assert parameter_count(config) == sum(parameter.numel() for parameter in model.parameters())
    tables = [model.embedding, model.positions, model.head]
    outside = sum(table.weight.numel() for table in tables if table is not None)
    assert parameter_count(config, embedding=False) == parameter_count(config) - outside


@pytest.mark.parametrize("changes", [{"family": "qwen3", "kv_heads": 2}, {"family": "gpt2"}])
def test_operations_are_counted_as_pytorch_counts_them(changes: dict[str, Any]) -> None:
    config = ModelConfig.model_validate({**SHAPE, **changes})
    model = Transformer(config)
    model.init_weights(0)
    ids = torch.zeros(1, 32, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids)
    # PyTorch counts attention's whole square; here only what is seen is.
    square = 4 * config.heads * config.head_dim * config.layers * (32 - attention_span(32))
    by_kernel = counter.get_flop_counts()["Global"]
    products = sum(count for name, count in by_kernel.items() if "attention" not in str(name))
    attention = sum(count for name, count in by_kernel.items() if "attention" in str(name))
    ours = forward_flops_per_token(config, 32) * 32
    assert ours == pytest.approx(products + (attention or 4 * 32 * 32 * 48 * 2) - square * 32)
    assert flops_per_token(config, 32) * 32 == pytest.approx(3 * ours)


def test_a_window_is_seen_less() -> None:
    assert attention_span(4) == 2.5
    assert attention_span(4, 2) == (1 + 2 + 2 + 2) / 4
    assert attention_span(4, 9) == 2.5

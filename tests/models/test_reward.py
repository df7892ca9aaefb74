"""Reward models on disk and in rows: the same number as transformers', by whatever layout."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from hanlin.artifacts import HanlinError
from hanlin.data.sequences import Sequences, join
from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import load_model, save_model
from hanlin.models.reward import RewardModel, load_ensemble, load_reward_model, pads_apart, save_reward_model
from hanlin.tokenization import Tokenizer
from hanlin.training.optimizers import place

PAD = 96
SHAPE: dict[str, Any] = {"vocab_size": 97, "pad_token_id": PAD, "num_labels": 1}
SMALL: dict[str, Any] = {
    **SHAPE, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 80, "max_position_embeddings": 64,
}  # fmt: skip
HUGGING_FACE: dict[str, Any] = {
    "qwen3": lambda: Qwen3ForSequenceClassification(Qwen3Config(**SMALL, head_dim=20)),
    "qwen3-tied": lambda: Qwen3ForSequenceClassification(Qwen3Config(**SMALL, tie_word_embeddings=True)),
    "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**SMALL)),
    "mistral": lambda: MistralForSequenceClassification(MistralConfig(**SMALL, sliding_window=5)),
    "gpt2": lambda: GPT2ForSequenceClassification(GPT2Config(**SHAPE, n_embd=48, n_layer=2, n_head=4, n_positions=64)),
}


def shaken(model: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def sequences(count: int = 7) -> Sequences:
    """Random ones of several lengths, never with the padding token."""
    generator = torch.Generator().manual_seed(2)
    drawn = [torch.randint(0, PAD, (size,), generator=generator).tolist() for size in range(4, 4 + 3 * count, 3)]
    return join([one[:3] for one in drawn], [one[3:] for one in drawn])


def padded(given: Sequences) -> tuple[Tensor, Tensor]:
    """Padded at the right: (ids, attention mask), as a tokenizer of transformers would."""
    width = int(given.lengths.max())
    ids = torch.full((len(given.lengths), width), PAD)
    for row, part in enumerate(given.input_ids.split(given.lengths.tolist())):
        ids[row, : len(part)] = part
    return ids, (torch.arange(width) < given.lengths[:, None]).long()


def theirs_of(model: Any, given: Sequences) -> Tensor:
    ids, mask = padded(given)
    return model(ids, attention_mask=mask).logits[:, 0]


def made(family: str, seed: int = 3, **changes: Any) -> RewardModel:
    shape = {"family": family, "vocabulary_size": 97, "hidden_size": 32, "layers": 2, "heads": 4, **changes}
    transformer = Transformer(ModelConfig.model_validate(shape))
    transformer.init_weights(seed)
    return RewardModel.init_from(transformer, seed)


@pytest.mark.parametrize("name", HUGGING_FACE)
@torch.no_grad()
def test_reads_what_transformers_wrote_and_writes_what_it_reads(name: str, tmp_path: Path) -> None:
    theirs = shaken(HUGGING_FACE[name]())
    theirs.save_pretrained(tmp_path / "theirs")
    expected = theirs_of(theirs, sequences())
    ours = load_reward_model(tmp_path / "theirs")
    found = ours.rewards(sequences())
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

    save_reward_model(tmp_path / "ours", ours)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    assert type(again) is type(theirs) and again.config.num_labels == 1
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("family", ["qwen3", "llama", "mistral", "gpt2"])
@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_transformers_computes_what_hanlin_made_before_centring(family: str, tied: bool, tmp_path: Path) -> None:
    tokenizer = Tokenizer.bytes()
    window = {"sliding_window": 8} if family == "mistral" else {}
    model = shaken(made(family, tied=tied, vocabulary_size=tokenizer.vocabulary_size, **window))
    assert tokenizer.pad_id is not None and pads_apart(tokenizer)
    model.mean = 0.75
    save_reward_model(tmp_path, model, tokenizer)
    again = load_reward_model(tmp_path)
    texts = ["one", "and a longer text", "哪里"]
    given = join([tokenizer.encode(text)[:1] for text in texts], [tokenizer.encode(text)[1:] for text in texts])
    ours = again.rewards(given)
    assert torch.equal(ours, model.rewards(given))
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    batch = AutoTokenizer.from_pretrained(tmp_path, padding_side="right")(texts, return_tensors="pt", padding=True)
    expected = theirs(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    torch.testing.assert_close(ours, expected - 0.75, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
@torch.no_grad()
def test_layout_and_neighbours_change_no_reward_and_no_value(family: str) -> None:
    model = shaken(made(family)).double()
    given = sequences()
    alone = torch.cat([model.rewards(given.slice(i, i + 1)) for i in range(given.rows)])
    ids = list(given.input_ids.split(given.lengths.tolist()))
    # Straight from the formula: the head on the last token's hidden state, and on those before each answer's tokens.
    heads = [model.trunk.hidden(one[None])[0] @ model.score_head.weight[0] for one in ids]
    torch.testing.assert_close(alone, torch.stack([one[-1] for one in heads]), rtol=0, atol=1e-12)
    values = torch.cat([one[2:-1] for one in heads])
    for layout in ("shared", "packed", "padded", "padded-left"):
        laid = replace(given, layout=layout)
        torch.testing.assert_close(model.rewards(laid), alone, rtol=0, atol=1e-12)
        for with_last in (True, False):
            torch.testing.assert_close(model.values(laid, laid.in_rows(with_last)), values, rtol=0, atol=1e-12)


def test_the_head_is_a_head_to_the_optimiser_and_begins_small() -> None:
    model, other = made("llama", seed=1), made("llama", seed=2)
    roles = {one.name: one.role for one in place(model)}
    assert roles["score_head.weight"] == "head"
    assert {name for name, role in roles.items() if role == "head"} == {"score_head.weight"}
    weight = model.score_head.weight
    assert 0 < weight.abs().max() < 0.1 and not torch.equal(weight, other.score_head.weight)
    assert torch.equal(weight, made("llama", seed=1).score_head.weight)


def test_in_bfloat16_the_head_still_adds_up_in_float32() -> None:
    model = shaken(made("qwen3")).bfloat16()
    hidden = model.last_hidden(sequences())
    assert hidden.dtype == torch.bfloat16
    expected = hidden.double() @ model.score_head.weight[0].double()
    torch.testing.assert_close(model.score(hidden).double(), expected, rtol=1e-5, atol=1e-5)


def test_an_untied_model_gives_up_its_output_matrix(tmp_path: Path) -> None:
    model = made("llama", tied=False)
    save_reward_model(tmp_path, model)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert load_reward_model(tmp_path).trunk.head is None


def test_members_are_found_in_their_order(tmp_path: Path) -> None:
    for number, name in enumerate((".", "member-2", "member-10")):
        model = made("llama", seed=number)
        model.mean = float(number)
        save_reward_model(tmp_path / name, model)
    assert [one.mean for one in load_ensemble(tmp_path)] == [0.0, 1.0, 2.0]
    assert [one.mean for one in load_ensemble(tmp_path / "member-2")] == [1.0]


def test_what_is_no_reward_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    config = ModelConfig(family="llama", vocabulary_size=97, hidden_size=32, layers=1, heads=2)
    answering = Transformer(config)
    answering.init_weights(0)
    save_model(tmp_path / "policy", answering)
    with pytest.raises(HanlinError, match="it is a model that answers"):
        load_reward_model(tmp_path / "policy")
    save_reward_model(tmp_path / "reward", made("llama"))
    with pytest.raises(HanlinError, match="it is a reward model"):
        load_model(tmp_path / "reward")

    path = tmp_path / "reward" / "config.json"
    values = json.loads(path.read_text())
    for changes, message in (
        ({"id2label": {"0": "a", "1": "b"}}, "a classifier of 2 classes"),
        ({"id2label": None}, "a classifier of 2 classes"),
        ({"hanlin": {"reward_mean": "high"}}, "reward_mean is 'high'"),
    ):
        path.write_text(json.dumps({**values, **changes}))
        with pytest.raises(HanlinError, match=message):
            load_reward_model(tmp_path / "reward")
    path.write_text(json.dumps(values))
    tensors = load_file(tmp_path / "reward" / "model.safetensors")
    save_file({**tensors, "lm_head.weight": torch.zeros(97, 32)}, tmp_path / "reward" / "model.safetensors")
    with pytest.raises(HanlinError, match=r"has, beyond .* lm_head\.weight"):
        load_reward_model(tmp_path / "reward")
    tensors.pop("score.weight")
    save_file(tensors, tmp_path / "reward" / "model.safetensors")
    with pytest.raises(HanlinError, match=r"lacks the tensors score\.weight"):
        load_reward_model(tmp_path / "reward")

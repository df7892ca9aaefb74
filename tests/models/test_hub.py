"""Directories that are incomplete, split, or not what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hanlin.artifacts import HanlinError
from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import WeightReader, load_config, load_model, save_model


def model(**changes: Any) -> Transformer:
    shape = {"family": "llama", "vocabulary_size": 31, "hidden_size": 16, "layers": 2, "heads": 2, **changes}
    made = Transformer(ModelConfig.model_validate(shape))
    made.init_weights(0)
    return made


def edit_tensors(directory: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(directory / "model.safetensors")
    for name, value in changes.items():
        name = name.replace("__", ".")
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value
    save_file(tensors, directory / "model.safetensors")


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_shards(tmp_path: Path) -> None:
    one = model()
    save_model(tmp_path, one, shard_bytes=4000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2 and not (tmp_path / "model.safetensors").exists()
    again = load_model(tmp_path)
    for a, b in zip(one.parameters(), again.parameters()):
        assert torch.equal(a, b)
    ids = torch.arange(20).view(1, 20)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (theirs(ids).logits - one(ids)).abs().max() < 1e-5
    save_model(tmp_path, one)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    (tmp_path / "model.safetensors").unlink()
    save_model(tmp_path, one, shard_bytes=4000)
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(HanlinError, match=r"model-00002.* is not there"):
        load_model(tmp_path)


def test_dtypes(tmp_path: Path) -> None:
    save_model(tmp_path, model(), dtype="bfloat16")
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    assert load_model(tmp_path).embedding.weight.dtype == torch.float32
    assert load_model(tmp_path, "bfloat16").embedding.weight.dtype == torch.bfloat16


def test_missing_left_over_and_misshapen_tensors(tmp_path: Path) -> None:
    save_model(tmp_path, model())
    edit_tensors(tmp_path, extra__weight=torch.zeros(2))
    with pytest.raises(HanlinError, match=r"extra\.weight"):
        load_model(tmp_path)
    edit_tensors(tmp_path, extra__weight=None, model__norm__weight=None)
    with pytest.raises(HanlinError, match=r"lacks the tensors model\.norm\.weight"):
        load_model(tmp_path)
    edit_tensors(tmp_path, model__norm__weight=torch.zeros(17))
    with pytest.raises(HanlinError, match=r"model\.norm\.weight .* \[17\]"):
        load_model(tmp_path)
    edit_tensors(tmp_path, model__norm__weight=torch.ones(16), lm_head__weight=torch.zeros(31, 16))
    with pytest.raises(HanlinError, match="tie_word_embeddings"):
        load_model(tmp_path)
    edit_tensors(tmp_path, lm_head__weight=model().embedding.weight.detach().clone())
    assert load_model(tmp_path).config.tied


def test_buffers_of_old_files_are_passed_over(tmp_path: Path) -> None:
    save_model(tmp_path, model())
    edit_tensors(tmp_path, model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(4))
    load_model(tmp_path)
    gpt2 = model(family="gpt2")
    save_model(tmp_path, gpt2)
    old = {name.removeprefix("transformer."): x for name, x in load_file(tmp_path / "model.safetensors").items()}
    save_file({**old, "h.0.attn.bias": torch.zeros(1, 1, 4, 4)}, tmp_path / "model.safetensors")
    assert torch.equal(load_model(tmp_path).embedding.weight, gpt2.embedding.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MambaForCausalLM"], "model_type": "mamba"}, "names MambaForCausalLM"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_key_value_heads": 3}, "not a multiple"),
        ({"hidden_act": "xielu"}, "activation"),
    ],
)
def test_what_is_not_computed_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_model(tmp_path, model())
    edit_config(tmp_path, **changes)
    with pytest.raises(HanlinError, match=message):
        load_config(tmp_path)


def test_not_a_model_directory(tmp_path: Path) -> None:
    with pytest.raises(HanlinError, match="not a Hugging Face model directory"):
        load_model(tmp_path)
    save_model(tmp_path, model())
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(HanlinError, match="pickled"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(HanlinError, match="not a readable safetensors file"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(HanlinError, match="cannot be read"):
        load_model(tmp_path)


def test_token_ids_come_from_the_tokenizer(tmp_path: Path) -> None:
    class Tokenizer:
        end_of_text_id, pad_id, end_of_turn_id = 0, 1, 3

        def save(self, directory: Path) -> None:
            (directory / "tokenizer.json").write_text("{}")

    save_model(tmp_path, model(), tokenizer=Tokenizer(), generation={"temperature": 0.7})
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (0, 3, 1)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 0, "eos_token_id": [3, 0], "pad_token_id": 1, "temperature": 0.7}
    assert (tmp_path / "tokenizer.json").exists()


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_parameters_are_read_one_at_a_time(family: str, tmp_path: Path) -> None:
    """As `load_model` reads them; what stands whole in the file is a piece of it, not a copy."""
    save_model(tmp_path, model(family=family, tied=family != "llama"), shard_bytes=4_000)
    reader = WeightReader(tmp_path)
    for name, parameter in load_model(tmp_path).named_parameters():
        assert torch.equal(reader(name), parameter), name
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(tmp_path) not in maps.read_text()
        table = reader("embedding.weight")
        assert str(tmp_path) in maps.read_text()
        del table
    edit_config(tmp_path, vocab_size=30)
    with pytest.raises(HanlinError, match="do not belong together"):
        WeightReader(tmp_path)("embedding.weight")

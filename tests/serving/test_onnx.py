"""ONNX directories as onnxruntime computes them, beside the model they were made of."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as runtime
import pytest
import torch

from hanlin.artifacts import HanlinError, UsageError, hash_file
from hanlin.inference import Engine
from hanlin.inference.types import Request
from hanlin.models import ModelConfig
from hanlin.models.adapter_files import save_adapter
from hanlin.models.hub import load_model, save_model
from hanlin.models.lora import add_lora, merge_lora
from hanlin.models.lora_settings import LoraSettings
from hanlin.serving.export import onnx_model
from hanlin.serving.export.export import export_model
from hanlin.serving.export.source import Source
from tests.serving.exported import VARIANTS, ids, made, saved, trained

WINDOWED = {
    "mistral-window": {**VARIANTS["mistral"], "sliding_window": 7},
    "qwen3-window": {**VARIANTS["qwen3"], "sliding_window": 5, "full_attention_layers": 2},
    "gpt2-gelu": {**VARIANTS["gpt2"], "activation": "gelu"},
    "llama-relu": {**VARIANTS["llama"], "activation": "relu"},
}


class Session:
    """An exported directory, run."""

    def __init__(self, directory: Path, config: ModelConfig) -> None:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 2
        self.session = runtime.InferenceSession(str(directory / "model.onnx"), options)
        self.config = config
        self.kind = np.float16 if "float16" in self.session.get_inputs()[3].type else np.float32

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        shape = (rows, self.config.kv_heads, 0, self.config.head_dim)
        layers = range(self.config.layers)
        return {
            f"past_key_values.{layer}.{one}": np.zeros(shape, self.kind) for layer in layers for one in ("key", "value")
        }

    def __call__(
        self, tokens: np.ndarray, past: dict[str, np.ndarray] | None = None, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        past = past or self.empty(len(tokens))
        before = past["past_key_values.0.key"].shape[2]
        if mask is None:
            mask = np.ones((len(tokens), before + tokens.shape[1]), np.int64)
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, before:]
        names = [one.name for one in self.session.get_outputs()]
        given = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions, **past}
        out = dict(zip(names, self.session.run(None, given)))
        logits = out.pop("logits")
        return logits, {name.replace("present", "past_key_values"): value for name, value in out.items()}


@pytest.mark.parametrize("name", [*VARIANTS, *WINDOWED])
@torch.no_grad()
def test_the_logits_of_a_prompt_and_of_cached_steps(name: str, tmp_path: Path) -> None:
    model = saved(tmp_path / "model", **{**VARIANTS, **WINDOWED}[name])
    session = Session(export_model(tmp_path / "model", "onnx", tmp_path / "out"), model.config)
    tokens = ids(60, rows=2)
    expected = model(tokens).numpy()
    assert np.abs(expected).max() > 1
    whole, _ = session(tokens.numpy())
    assert np.abs(whole - expected).max() < 2e-5
    parts, past = [], None
    for start, end in ((0, 1), (1, 20), (20, 21), (21, 22), (22, 60)):
        logits, past = session(tokens.numpy()[:, start:end], past)
        parts.append(logits)
    assert np.abs(np.concatenate(parts, 1) - expected).max() < 2e-5


@pytest.mark.parametrize("name", ["gpt2", "qwen3-window"])
@torch.no_grad()
def test_rows_of_other_lengths_stand_beside_each_other(name: str, tmp_path: Path) -> None:
    model = saved(tmp_path / "model", **{**VARIANTS, **WINDOWED}[name])
    session = Session(export_model(tmp_path / "model", "onnx", tmp_path / "out"), model.config)
    tokens, short = ids(30, rows=2).numpy(), 11
    mask = np.ones_like(tokens)
    mask[1, : 30 - short] = 0
    _, past = session(tokens[:, :25], mask=mask[:, :25])
    rest, _ = session(tokens[:, 25:], past, mask)
    for row, start in ((0, 0), (1, 30 - short)):
        alone = model(torch.from_numpy(tokens[row : row + 1, start:])).numpy()
        assert np.abs(rest[row] - alone[0, -5:]).max() < 2e-5


def test_it_generates_what_the_engine_generates(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", **VARIANTS["llama"])
    session = Session(export_model(tmp_path / "model", "onnx", tmp_path / "out"), model.config)
    prompt = trained().encode("The history of 翰林")
    answer = Engine(model, trained(), eos_ids=[]).generate([Request(prompt_ids=prompt, max_new_tokens=24)])[0]
    tokens, past, given = np.array([prompt]), None, []
    for _ in range(24):
        logits, past = session(tokens, past)
        given.append(int(logits[0, -1].argmax()))
        tokens = np.array([given[-1:]])
    assert given == list(answer.ids)


@torch.no_grad()
def test_half_precision(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", **VARIANTS["qwen3"])
    session = Session(export_model(tmp_path / "model", "onnx", tmp_path / "out", "f16"), model.config)
    tokens = ids(40)
    expected = model(tokens).numpy()
    first, past = session(tokens.numpy()[:, :30])
    second, _ = session(tokens.numpy()[:, 30:], past)
    found = np.concatenate([first, second], 1)
    assert found.dtype == np.float32
    # float16 resolves 0.0005 of a number; the logits reach 4.
    assert 1e-6 < np.abs(found - expected).max() < 0.02


@torch.no_grad()
def test_weights_in_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(tmp_path / "model", **VARIANTS["gpt2"])
    monkeypatch.setattr(onnx_model, "EMBEDDED_BYTES", 1000)
    out = export_model(tmp_path / "model", "onnx", tmp_path / "out")
    assert (out / "model.onnx").stat().st_size < 100_000
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    assert weights <= (out / "model.onnx_data").stat().st_size < weights + 4096 * 60
    logits, _ = Session(out, model.config)(ids(20).numpy())
    assert np.abs(logits - model(ids(20)).numpy()).max() < 2e-5


def test_what_lies_beside_the_graph(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    saved(tmp_path / "model", **VARIANTS["qwen3"])
    out = export_model(tmp_path / "model", "onnx", tmp_path / "deep/out")
    for name in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    asked = [{"role": "user", "content": "天下"}]
    theirs = AutoTokenizer.from_pretrained(out).apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert theirs == trained().render(asked, add_generation_prompt=True)
    properties = {one.key: one.value for one in onnx.load(out / "model.onnx").metadata_props}
    assert properties == {
        "hanlin.version": "0.1.0",
        "hanlin.source.sha256.model.safetensors": hash_file(tmp_path / "model/model.safetensors"),
    }
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize(("family", "dora"), [("llama", False), ("gpt2", True)])
@torch.no_grad()
def test_an_adapter_is_folded_in(family: str, dora: bool, tmp_path: Path) -> None:
    model = saved(tmp_path / "model", **VARIANTS[family])
    add_lora(model, LoraSettings(rank=4, alpha=8.0, dora=dora), seed=1)
    for name, parameter in model.named_parameters():
        if "adapters" in name:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.05)
    save_adapter(tmp_path / "adapter", model)
    plain = load_model(tmp_path / "model").eval()
    merge_lora(model)
    out = export_model(tmp_path / "model", "onnx", tmp_path / "out", adapter=tmp_path / "adapter")
    logits, _ = Session(out, model.config)(ids(20).numpy())
    assert np.abs(logits - model(ids(20)).numpy()).max() < 2e-5
    assert np.abs(logits - plain(ids(20)).numpy()).max() > 0.1
    properties = {one.key: one.value for one in onnx.load(out / "model.onnx").metadata_props}
    adapter = tmp_path / "adapter/adapter_model.safetensors"
    assert properties["hanlin.source.sha256.adapter_model.safetensors"] == hash_file(adapter)


@pytest.mark.parametrize("to", ["onnx", "gguf"])
def test_one_tensor_is_in_memory_at_a_time(to: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "model", made(**VARIANTS["llama"]), trained(), shard_bytes=40_000)
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 1
    monkeypatch.setattr(onnx_model, "EMBEDDED_BYTES", 0)
    read, alive, most = Source.read, weakref.WeakSet(), 0

    def counted(self: Source, slot: Any) -> torch.Tensor:
        nonlocal most
        tensor = read(self, slot)
        alive.add(tensor)
        most = max(most, len(alive))
        return tensor

    monkeypatch.setattr(Source, "read", counted)
    export_model(tmp_path / "model", to, tmp_path / "out", "f32")
    assert most <= 2  # the one that is written, and the one that is read


def test_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", **VARIANTS["llama"])
    with torch.no_grad():
        model.blocks[2].mlp.down.weight[3, 3] = 1e6
    save_model(tmp_path / "model", model, trained())
    with pytest.raises(HanlinError, match=r"layers.2.mlp.down_proj.weight .*holds 1e\+06, which f16 can't: give"):
        export_model(tmp_path / "model", "onnx", tmp_path / "out", "f16")
    with torch.no_grad():
        model.blocks[2].mlp.down.weight[3, 3] = float("nan")
    save_model(tmp_path / "model", model, trained())
    with pytest.raises(HanlinError, match="weights are damaged"):
        export_model(tmp_path / "model", "onnx", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_there_stays_unless_it_may_go(tmp_path: Path) -> None:
    saved(tmp_path / "model", **VARIANTS["llama"])
    out = export_model(tmp_path / "model", "onnx", tmp_path / "out")
    (out / "model.onnx_data").write_text("of an earlier export")
    with pytest.raises(UsageError, match="is there already"):
        export_model(tmp_path / "model", "onnx", tmp_path / "out")
    export_model(tmp_path / "model", "onnx", tmp_path / "out", force=True)
    assert not (out / "model.onnx_data").exists() and (out / "model.onnx").exists()
    with pytest.raises(UsageError, match="no ONNX export, so it is not replaced"):
        export_model(tmp_path / "model", "onnx", tmp_path / "model", force=True)
    with pytest.raises(UsageError, match="f32 or f16"):
        export_model(tmp_path / "model", "onnx", tmp_path / "other", "q8_0")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out"}


def test_directories_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(HanlinError, match="is not a directory"):
        export_model(tmp_path / "none", "onnx", tmp_path / "out")
    saved(tmp_path / "model", **VARIANTS["llama"])
    config = tmp_path / "model/config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "num_hidden_layers": 4}))
    with pytest.raises(HanlinError, match=r"lacks the tensors model.layers.3"):
        export_model(tmp_path / "model", "onnx", tmp_path / "out")
    config.write_text(json.dumps({**values, "vocab_size": 300}))
    with pytest.raises(HanlinError, match=r"has a tokenizer of .* but a model of 300"):
        export_model(tmp_path / "model", "onnx", tmp_path / "out")
    config.write_text(json.dumps({**values, "tie_word_embeddings": True}))
    with pytest.raises(HanlinError, match="is not the embedding"):
        export_model(tmp_path / "model", "onnx", tmp_path / "out")

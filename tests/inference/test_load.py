"""Directories: loaded, spoken to, refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import hanlin
from hanlin.artifacts import HanlinError, UsageError
from hanlin.inference import Engine, LanguageModel
from hanlin.inference.directory import end_ids, prompt_prefix
from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import save_model
from hanlin.tokenization import Tokenizer
from tests.inference.models import small, tokenizer

USER = [{"role": "user", "content": "1+1"}]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_model(path, small("qwen3"), tokenizer())
    return path


@pytest.fixture(scope="module")
def model(directory: Path) -> LanguageModel:
    return hanlin.load(directory, device="cpu")


def test_chat_is_what_generate_does_with_a_template(model: LanguageModel) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.7, "seed": 3}
    request = model.chat_request(USER, **settings)
    text = tokenizer().render(USER, add_generation_prompt=True)
    assert list(request.prompt_ids) == tokenizer().encode_rendered(text)
    assert tokenizer().end_of_turn_id in request.stop_ids
    answer = model.chat(USER, **settings)
    assert model.generate("1+1", **settings) == answer
    assert "".join(delta.text for delta in model.stream_chat(USER, **settings)) == answer.text
    assert "".join(delta.text for delta in model.stream("1+1", **settings)) == answer.text
    assert model.config.family == "qwen3" and model.tokenizer.vocabulary_size == 268


def test_raw_prompts_begin_as_documents_do(model: LanguageModel) -> None:
    assert list(model.request("ab", raw=True).prompt_ids) == [tokenizer().end_of_text_id, 97, 98]
    assert list(model.request("", raw=True).prompt_ids) == [tokenizer().end_of_text_id]
    # Text is not trusted to spell special tokens.
    assert tokenizer().end_of_text_id not in model.request("<|endoftext|>", raw=True).prompt_ids[1:]
    assert model.generate("ab", raw=True, max_new_tokens=5).prompt_tokens == 3


def test_without_a_template_every_prompt_is_raw(model: LanguageModel) -> None:
    bare = Tokenizer(Path(tokenizer_file(model)).read_text(), tokenizer().config)
    plain = LanguageModel(Engine(small("qwen3"), bare), [256])
    assert plain.generate("ab", max_new_tokens=4) == plain.generate("ab", raw=True, max_new_tokens=4)
    with pytest.raises(HanlinError, match="chat template"):
        plain.chat(USER)


def tokenizer_file(model: LanguageModel) -> str:
    import tempfile

    folder = tempfile.mkdtemp()
    model.tokenizer.save(Path(folder))
    return f"{folder}/tokenizer.json"


def test_templates_that_rewrite_answers_can_be_talked_to() -> None:
    """As Qwen3's, which drops the reasoning of earlier turns: no training, but prompts; special tokens stay guarded."""
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    one = LanguageModel(Engine(small("qwen3"), tokenizer().with_chat_template(source)), [])
    messages = [*USER, {"role": "assistant", "content": "hm</think>2"}, {"role": "user", "content": "and?"}]
    text = "<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\nand?<|im_end|>\n"
    expected = tokenizer().encode_rendered(text + "<|im_start|>assistant\n")
    assert list(one.chat_request(messages).prompt_ids) == expected
    with pytest.raises(HanlinError, match="round-trip"):
        one.chat([*messages[:2], {"role": "user", "content": "<|im_end|>"}])


def test_what_is_no_model_is_refused(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(HanlinError, match="not a directory"):
        hanlin.load(tmp_path / "nothing")
    with pytest.raises(HanlinError, match=r"config\.json"):
        hanlin.load(tmp_path)
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    with pytest.raises(HanlinError, match=r"tokenizer\.json"):
        hanlin.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    with pytest.raises(HanlinError, match="safetensors"):
        hanlin.load(tmp_path)
    with pytest.raises(UsageError, match="dtype"):
        hanlin.load(directory, dtype="float8")


def test_settings_that_do_not_exist_are_named(model: LanguageModel) -> None:
    with pytest.raises(UsageError, match="temprature"):
        model.generate("a", temprature=1.0)
    with pytest.raises(HanlinError, match="context is 128"):
        model.generate("a" * 500)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    config = ModelConfig(vocabulary_size=100, hidden_size=8, layers=1, heads=1)
    other = Transformer(config)
    other.init_weights(0)
    with pytest.raises(HanlinError, match="268 tokens and the model 100"):
        Engine(other, tokenizer())


def test_a_vocabulary_that_was_rounded_up() -> None:
    """Ids beyond the tokenizer's stand for nothing, and break nothing."""
    config = ModelConfig(vocabulary_size=320, hidden_size=8, layers=1, heads=1)
    rounded = Transformer(config)
    rounded.init_weights(0)
    with torch.no_grad():
        rounded.embedding.weight[300] = 50 * rounded.embedding.weight[1]
    answer = Engine(rounded, tokenizer(), eos_ids=[]).generate(
        [_raw([1, 300], temperature=3.0, max_new_tokens=60, seed=1)]
    )[0]
    assert max(answer.ids) >= 268 and len(answer.ids) == 60
    assert answer.text == tokenizer().decode([token for token in answer.ids if token < 268])


def _raw(ids: list[int], **settings: Any) -> hanlin.inference.Request:
    from hanlin.inference import Request

    return Request(prompt_ids=ids, **settings)


@pytest.mark.parametrize(("value", "expected"), [(5, [5]), ([5, 7], [5, 7])])
def test_end_tokens_of_generation_config(value: Any, expected: list[int], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 1}))
    assert end_ids(tmp_path) == [1]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    assert end_ids(tmp_path) == expected
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": "x"}))
    with pytest.raises(HanlinError, match="eos_token_id"):
        end_ids(tmp_path)


def test_prefix_of_tokenizers_that_put_one(directory: Path, tmp_path: Path) -> None:
    """The post-processor's tokens before a text count, those after it do not; foreign vocabularies get no other."""
    value = json.loads((directory / "tokenizer.json").read_text())
    sign = {"id": "<|im_start|>", "ids": [258], "tokens": ["<|im_start|>"]}
    parts: list[dict[str, Any]] = [
        {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    for single, expected in ((parts, [258]), (parts[::-1], [])):
        value["post_processor"] = {
            "type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<|im_start|>": sign},
        }  # fmt: skip
        (tmp_path / "tokenizer.json").write_text(json.dumps(value))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
        assert prompt_prefix(tmp_path, Tokenizer.load(tmp_path)) == expected


def test_bfloat16(directory: Path) -> None:
    exact, rounded = hanlin.load(directory, device="cpu"), hanlin.load(directory, dtype="bfloat16", device="cpu")
    pairs = [([256, *range(40)], list(range(50, 90)))]
    a, b = exact.engine.score(pairs)[0], rounded.engine.score(pairs)[0]
    assert a != b and sum(abs(x - y) for x, y in zip(a, b)) / 40 < 0.3


def test_an_engine_of_a_directory(directory: Path) -> None:
    engine = hanlin.Engine(directory, dtype="float32", deterministic=True, max_batch=4)
    assert engine.deterministic and engine.frozen
    request = hanlin.Request(prompt_ids=[65, 66, 67], max_new_tokens=6)

    async def streamed() -> str:
        return "".join([piece.text async for piece in engine.stream(request)])

    try:
        whole = engine.generate([request])[0]
        assert whole.ids == hanlin.load(directory).engine.generate([request])[0].ids
        assert asyncio.run(streamed()) == whole.text
    finally:
        engine.close()

"""GGUF files as llama.cpp reads them (its own Python package), beside the model they were made of."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.artifacts import HanlinError, UsageError, hash_file
from hanlin.models.adapter_files import save_adapter
from hanlin.models.hub import save_model
from hanlin.models.lora import add_lora, merge_lora
from hanlin.models.lora_settings import LoraSettings
from hanlin.models.transformer import ACTIVATIONS
from hanlin.serving.export.export import export_model
from hanlin.serving.export.gguf_tokenizer import PRE_TOKENIZERS, without_marks
from hanlin.tokenization import Conversation, Message, Tokenizer
from hanlin.tokenization.vocabulary import tokenizer_config
from tests.processes import hanlin
from tests.serving.exported import PADDING, TEXT, VARIANTS, ids, saved, trained

CHAT = [("user", "What is 3 * 4?"), ("assistant", "12."), ("user", "翰林是什么？ it's a\n\n  test")]


@functools.cache
def llama_cpp() -> Any:
    return pytest.importorskip("llama_cpp")


def opened(path: Path, **settings: Any) -> Any:
    """The file in llama.cpp, with a float32 cache. (-1: nothing of the file's own is overridden.)"""
    library = llama_cpp()
    own = dict.fromkeys(("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"), -1.0)
    exact = {"type_k": 0, "type_v": 0, "flash_attn": False, "n_threads": 1, "n_threads_batch": 1, **own}
    return library.Llama(str(path), n_ctx=0, logits_all=True, verbose=False, **{**exact, **settings})


def logits(model: Any, tokens: torch.Tensor) -> np.ndarray:
    """llama.cpp's, of the first row: a prompt, then two single steps upon its cache."""
    row = tokens[0].tolist()
    model.reset()
    model.eval(row[:-2])
    model.eval(row[-2:-1])
    model.eval(row[-1:])
    return np.array(model.scores[: len(row)])


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields and tensors of the file, by `gguf`'s reader."""
    file = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in file.fields.items()}, {one.name: one for one in file.tensors}


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_logits_are_llama_cpps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(tmp_path / "model", **VARIANTS[name])
    path = export_model(tmp_path / "model", "gguf", tmp_path / "model.gguf")
    if VARIANTS[name]["family"] == "gpt2":
        # llama.cpp looks GELU up in a table over float16.
        exact = ACTIVATIONS["gelu_new"]
        for block in model.blocks:
            monkeypatch.setattr(block.mlp, "activation", lambda x: exact(x.half().float()).half().float())
    tokens = ids(100)
    expected = model(tokens)[0].numpy()
    assert np.abs(expected).max() > 1
    difference = np.abs(logits(opened(path), tokens) - expected)
    # A value next to a border of the table falls on its other side now and then.
    assert difference.max() < (3e-3 if "gpt2" in name else 1e-4)
    assert difference.mean() < (2e-4 if "gpt2" in name else 1e-5)


@torch.no_grad()
def test_a_sliding_window_bounds_the_context(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", **VARIANTS["mistral"], sliding_window=40)
    path = export_model(tmp_path / "model", "gguf", tmp_path / "model.gguf")
    assert read(path)[0]["llama.context_length"] == 40
    tokens = ids(40)
    assert np.abs(logits(opened(path), tokens) - model(tokens)[0].numpy()).max() < 2e-5
    saved(tmp_path / "wide", **VARIANTS["mistral"], sliding_window=500)
    path = export_model(tmp_path / "wide", "gguf", tmp_path / "wide.gguf")
    assert read(path)[0]["llama.context_length"] == 128


@pytest.mark.parametrize(("dtype", "bits"), [("f16", 11), ("bf16", 8), ("q8_0", 8)])
@torch.no_grad()
def test_precisions(dtype: str, bits: int, tmp_path: Path) -> None:
    model = saved(tmp_path / "model", **VARIANTS["llama"])
    path = export_model(tmp_path / "model", "gguf", tmp_path / "model.gguf", dtype)
    _, tensors = read(path)
    assert tensors["blk.0.attn_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    one = tensors["blk.1.ffn_down.weight"]
    assert one.tensor_type.name == dtype.upper()
    weight = model.blocks[1].mlp.down.weight
    found = torch.from_numpy(gguf.dequantize(one.data, one.tensor_type).reshape(weight.shape).copy())
    if dtype == "q8_0":
        scale = weight.unflatten(1, (-1, 32)).abs().amax(-1, keepdim=True) / 127
        # Half a step, and the scale itself is rounded to float16.
        assert ((found - weight).unflatten(1, (-1, 32)).abs() <= scale * (0.5 + 127 / 2048)).all()
    else:
        assert torch.equal(found, weight.to({"f16": torch.float16, "bf16": torch.bfloat16}[dtype]).float())
    tokens = ids(50)
    expected = model(tokens)[0].numpy()
    difference = np.abs(logits(opened(path), tokens) - expected).mean() / np.abs(expected).mean()
    # llama.cpp rounds what goes into a product as it does the weights: some roundings of 2^-bits a layer.
    assert 2.0**-bits < difference < 16 * 2.0**-bits


def test_the_precision_is_the_models_unless_given(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", **VARIANTS["qwen3"])
    save_model(tmp_path / "model", model, trained(), dtype="bfloat16")
    fields, tensors = read(export_model(tmp_path / "model", "gguf", tmp_path / "model.gguf"))
    assert tensors["token_embd.weight"].tensor_type == gguf.GGMLQuantizationType.BF16
    assert fields["general.file_type"] == gguf.LlamaFileType.MOSTLY_BF16
    # Rows of 80 are no whole number of blocks.
    _, tensors = read(export_model(tmp_path / "model", "gguf", tmp_path / "q8.gguf", "q8_0"))
    assert tensors["blk.0.attn_output.weight"].tensor_type == gguf.GGMLQuantizationType.F16
    assert tensors["blk.0.ffn_down.weight"].tensor_type == gguf.GGMLQuantizationType.Q8_0


@torch.no_grad()
def test_an_adapter_is_folded_in(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", **VARIANTS["llama"])
    add_lora(model, LoraSettings(rank=4, alpha=8.0), seed=1)
    for name, parameter in model.named_parameters():
        if "adapters" in name:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.05)
    save_adapter(tmp_path / "adapter", model)
    merge_lora(model)
    path = export_model(tmp_path / "model", "gguf", tmp_path / "model.gguf", adapter=tmp_path / "adapter")
    assert np.abs(logits(opened(path), ids(30)) - model(ids(30))[0].numpy()).max() < 2e-5


# ---------------------------------------------------------------- tokenizers


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("vocabulary")
    saved(folder / "model", **VARIANTS["llama"], hidden_size=32, layers=1)
    path = export_model(folder / "model", "gguf", folder / "model.gguf")
    return opened(path), path


def same(model: Any, tokenizer: Tokenizer, text: str) -> bool:
    return model.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text)


def test_tokens_are_hanlins(vocabulary: tuple[Any, Path]) -> None:
    model, path = vocabulary
    tokenizer = trained()
    for text in (TEXT, *TEXT.splitlines(), "<|im_end|> spelled", "a", " ", "\n"):
        assert same(model, tokenizer, text), text
    rendered = tokenizer.encode_rendered(f"<|im_start|>user\n{TEXT}<|im_end|>\n<tool_call>")
    text = f"<|im_start|>user\n{TEXT}<|im_end|>\n<tool_call>".encode()
    assert model.tokenize(text, add_bos=False, special=True) == rendered
    assert model.detokenize(tokenizer.encode(TEXT)).decode() == TEXT
    assert model.n_vocab() == tokenizer.vocabulary_size + PADDING
    fields, _ = read(path)
    kinds = fields["tokenizer.ggml.token_type"]
    assert kinds[tokenizer.special["<|im_end|>"]] == gguf.TokenType.CONTROL
    assert kinds[tokenizer.special["<tool_call>"]] == gguf.TokenType.USER_DEFINED
    assert kinds[-PADDING:] == [gguf.TokenType.UNUSED] * PADDING


LETTERS = st.characters(codec="utf-8", max_codepoint=0x24F, exclude_categories=["Cc", "Cn"])
PIECES = st.one_of(
    st.sampled_from(
        ["'s", "'LL", "\n", "\r\n", "\t", "  ", " ", "12", "3.5", "你好", "，", "。", "🚀", "é", "def f(x):"]
    ),
    st.text(LETTERS, max_size=8),
    st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), max_size=5),
)


@given(st.lists(PIECES, max_size=12).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_has_the_same_tokens(vocabulary: tuple[Any, Path], text: str) -> None:
    assert same(vocabulary[0], trained(), text)


def test_special_tokens_and_where_an_answer_ends(vocabulary: tuple[Any, Path]) -> None:
    model, path = vocabulary
    special = trained().special
    assert model.token_bos() == special["<|endoftext|>"] and model.token_eos() == special["<|im_end|>"]
    # As hanlin begins raw prompts.
    assert model.tokenize(b"a") == [special["<|endoftext|>"], *trained().encode("a")]
    library = llama_cpp()
    pointer = library.llama_model_get_vocab(model.model)
    ends = {index for index in range(model.n_vocab()) if library.llama_vocab_is_eog(pointer, index)}
    assert ends == {special["<|endoftext|>"], special["<|im_end|>"]}
    assert read(path)[0]["tokenizer.ggml.padding_token_id"] == special["<|pad|>"]


def test_a_chat_has_the_same_tokens(vocabulary: tuple[Any, Path]) -> None:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    model, path = vocabulary
    template = read(path)[0]["tokenizer.chat_template"]
    assert "generation %}" not in template
    form = Jinja2ChatFormatter(template, eos_token="<|im_end|>", bos_token="<|endoftext|>")
    text = form(messages=[{"role": role, "content": content} for role, content in CHAT]).prompt
    conversation = Conversation([Message(role, content) for role, content in CHAT])
    expected = trained().render_tokens(conversation, add_generation_prompt=True).ids
    assert model.tokenize(text.encode(), add_bos=False, special=True) == expected


def test_marks_leave_the_template_and_nothing_else() -> None:
    source = "{% generation %}a{%- endgeneration -%} b {{ generation }} {%- generation -%}c{% endgeneration %}"
    assert without_marks(source) == "{% if true %}a{%- endif -%} b {{ generation }} {%- if true -%}c{% endif %}"


def pre_tokenizer(patterns: tuple[str, ...]) -> dict[str, Any]:
    parts = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]
    end = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [*parts, end]}


def export_vocabulary(folder: Path, tokenizer: Tokenizer) -> Path:
    saved(folder / "model", **VARIANTS["llama"], hidden_size=32, layers=1, vocabulary_size=tokenizer.vocabulary_size)
    (folder / "model/chat_template.jinja").unlink()
    tokenizer.save(folder / "model")
    return export_model(folder / "model", "gguf", folder / "model.gguf")


@pytest.mark.parametrize("patterns", PRE_TOKENIZERS, ids=PRE_TOKENIZERS.values())
def test_every_known_pre_tokenizer(patterns: tuple[tuple[str, ...], bool], tmp_path: Path) -> None:
    llama_cpp()
    regexes, whole = patterns
    value = json.loads(trained(json.dumps(pre_tokenizer(regexes)), 600).json)
    value["model"]["ignore_merges"] = whole
    if whole:  # a token that no merge makes
        value["model"]["merges"] = value["model"]["merges"][:200]
    tokenizer = Tokenizer(json.dumps(value), tokenizer_config())
    path = export_vocabulary(tmp_path, tokenizer)
    assert read(path)[0]["tokenizer.ggml.pre"] == PRE_TOKENIZERS[patterns]
    model = opened(path)
    for text in (TEXT, *TEXT.splitlines()):
        assert same(model, tokenizer, text), text


def test_gpt2s_own_pre_tokenizer(tmp_path: Path) -> None:
    own = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = trained(json.dumps(own), 600)
    path = export_vocabulary(tmp_path, tokenizer)
    assert read(path)[0]["tokenizer.ggml.pre"] == "gpt-2"
    assert same(opened(path), tokenizer, TEXT)


def test_what_llama_cpp_would_split_otherwise_is_refused(tmp_path: Path) -> None:
    value = json.loads(trained().json)
    for change, said in (
        ({"pre_tokenizer": pre_tokenizer((r"\w+|\W+",))}, r"splits text by \\w\+\|\\W\+: no name of llama.cpp's"),
        ({"model": {**value["model"], "ignore_merges": True}}, r"\(ignore_merges\): no name"),
        ({"normalizer": {"type": "Lowercase"}}, "normalises by .*Lowercase"),
    ):
        with pytest.raises(HanlinError, match=said):
            export_vocabulary(tmp_path, Tokenizer(json.dumps({**value, **change}), tokenizer_config()))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def sentencepiece(metaspace: str | None, gap: bool = False) -> Tokenizer:
    """A tokenizer as Llama 2 and Mistral have it: every split of a token is a merge, in the order of the tokens."""
    words = [word for word in TEXT.replace(" ", "▁").split("▁") if word]
    letters = sorted({*TEXT.replace(" ", "▁"), "▁"} - set("🚀翰"))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    counts: dict[str, int] = {}
    for word in words:
        for start in range(len(word)):
            for end in range(start + 1, min(len(word), start + 6) + 1):
                piece = ("▁" if start == 0 else "") + word[start:end]
                counts[piece] = counts.get(piece, 0) + 1
    longer = sorted((piece for piece in counts if len(piece) > 1), key=lambda piece: (len(piece), -counts[piece]))
    known = set(letters)
    merges: list[tuple[str, str]] = []
    for piece in longer:
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        splits = [(left, right) for left, right in splits if left in known and right in known]
        if splits and counts[piece] > 1:
            known.add(piece)
            tokens.append(piece)
            merges += splits
    tokens += letters
    if gap:
        merges = [pair for pair in merges if "".join(pair) != "ing" or pair[0] == "in"]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    value: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "post_processor": None,
        "added_tokens": [
            {"id": number, "content": name, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False}
            for number, name in enumerate(tokens[:3])
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
            "vocab": {token: index for index, token in enumerate(tokens)}, "merges": [list(pair) for pair in merges],
        },
    }  # fmt: skip
    if metaspace is not None:
        value["normalizer"] = None
        value["pre_tokenizer"] = {
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": metaspace, "split": False,
        }  # fmt: skip
    return Tokenizer(json.dumps(value), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


@pytest.mark.parametrize("metaspace", [None, "first", "never"])
def test_a_sentencepiece_tokenizer(metaspace: str | None, tmp_path: Path) -> None:
    tokenizer = sentencepiece(metaspace)
    path = export_vocabulary(tmp_path, tokenizer)
    model = opened(path)
    for text in (TEXT, *TEXT.splitlines(), "singing in the town", "🚀 bread", " x", "ing ing"):
        if metaspace != "first" or text[:1] not in (" ", "▁"):
            assert same(model, tokenizer, text), text
    assert read(path)[0]["tokenizer.ggml.model"] == "llama"


def test_a_chat_of_a_sentencepiece_tokenizer(tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
    tokenizer = sentencepiece("first").with_chat_template(template)
    model = opened(export_vocabulary(tmp_path, tokenizer))
    text = tokenizer.render([{"role": "user", "content": TEXT}])
    assert model.tokenize(text.encode(), add_bos=False, special=True) == tokenizer.encode_rendered(text)


def test_a_sentencepiece_tokenizer_that_llama_cpp_would_merge_otherwise(tmp_path: Path) -> None:
    with pytest.raises(HanlinError, match="does not merge 'i' with 'ng', though 'ing' is a token"):
        export_vocabulary(tmp_path, sentencepiece(None, gap=True))
    with pytest.raises(HanlinError, match=r"prepares a text by .*always"):
        export_vocabulary(tmp_path / "other", sentencepiece("always"))


# ---------------------------------------------------------------- what a GGUF can't hold


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"family": "gpt2", "activation": "gelu"}, "hidden_act is 'gelu', and llama.cpp's 'gpt2' computes 'gelu_new'"),
        ({"family": "llama", "activation": "relu"}, "hidden_act is 'relu'"),
        ({"family": "qwen3", "attention_bias": True}, "attention_bias is true"),
        ({"family": "qwen3", "rope_scaling": VARIANTS["llama-biases-llama3"]["rope_scaling"]}, "of the type 'llama3'"),
        (
            {"family": "llama", "rope_scaling": {**VARIANTS["llama-yarn"]["rope_scaling"], "truncate": False}},
            "truncate false",
        ),
        (
            {"family": "qwen3", "rope_scaling": {**VARIANTS["llama-yarn"]["rope_scaling"], "beta_fast": 16}},
            "has beta_fast or beta_slow",
        ),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    saved(tmp_path / "model", **changes)
    with pytest.raises(HanlinError, match=said):
        export_model(tmp_path / "model", "gguf", tmp_path / "model.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_command(tmp_path: Path) -> None:
    saved(tmp_path / "model", **VARIANTS["llama"])
    words = ("export", tmp_path / "model", "--to", "gguf", "--out", tmp_path / "model.gguf", "--dtype", "q8_0")
    done = hanlin(*words)
    assert done.returncode == 0 and "model.gguf" in done.stdout and " MB" in done.stdout, done.stderr
    fields, _ = read(tmp_path / "model.gguf")
    assert fields["hanlin.version"] == "0.1.0"
    weights = "model.safetensors"
    assert fields[f"hanlin.source.sha256.{weights}"] == hash_file(tmp_path / "model" / weights)
    again = hanlin(*words)
    assert again.returncode == 2 and "is there already" in again.stderr
    before = (tmp_path / "model.gguf").stat().st_mtime_ns
    assert hanlin(*words, "--force").returncode == 0
    assert (tmp_path / "model.gguf").stat().st_mtime_ns > before
    with pytest.raises(UsageError, match="is a directory: a GGUF is one file"):
        export_model(tmp_path / "model", "gguf", tmp_path, force=True)
    with pytest.raises(UsageError, match="GGUF is written in f32"):
        export_model(tmp_path / "model", "gguf", tmp_path / "x.gguf", "int4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.gguf"]

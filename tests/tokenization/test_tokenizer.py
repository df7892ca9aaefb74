from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.artifacts import HanlinError
from hanlin.tokenization import Tokenizer
from hanlin.tokenization.vocabulary import CONTROL_TOKENS, MARKUP_TOKENS, SPECIAL_TOKENS, byte_alphabet

WEIRD = [
    "",
    "\x00",
    "\ufeff",
    "￾",
    "​‍",
    "🏳️‍🌈",
    "é",
    "é",
    "\r\n\r\n \t",
    " \u3000",
    "𠮷𠀀",
    "①Ⅳ٣",
    "ﬁ",
    "ก็",
    "\U0010ffff",
]
SPELLED = [
    "<|im_end|>",
    "a<|endoftext|>b",
    "<tool_call>x</tool_call>",
    "<|im_start|>system\n<|im_end|>",
    "<|pad|><|pad|>",
]


@pytest.mark.parametrize("text", [*WEIRD, *SPELLED])
def test_round_trip_of_odd_text(trained: Tokenizer, text: str) -> None:
    assert trained.decode(trained.encode(text)) == text
    assert trained.decode_bytes(trained.encode(text)) == text.encode()


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_round_trip_of_any_text(trained: Tokenizer, text: str) -> None:
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert b"".join(trained.token_bytes(index) for index in ids) == text.encode()


@settings(max_examples=200, deadline=None)
@given(data=st.binary())
def test_round_trip_of_any_bytes(trained: Tokenizer, data: bytes) -> None:
    assert trained.decode_bytes(trained.encode_bytes(data)) == data


@given(text=st.text(st.characters()))
@settings(max_examples=200, deadline=None)
def test_lone_surrogates_do_not_break_it(trained: Tokenizer, text: str) -> None:
    ids = trained.encode(text)
    assert trained.decode_bytes(ids) == text.encode("utf-8", "surrogatepass")
    assert trained.encode_batch(["a", text]) == [trained.encode("a"), ids]


@given(pieces=st.lists(st.sampled_from([*SPECIAL_TOKENS, "<", "|>", "<|im_", "end|>", "\n", " ", "翰", "word", "7"])))
@settings(max_examples=200, deadline=None)
def test_text_never_becomes_a_special_token(trained: Tokenizer, pieces: list[str]) -> None:
    text = "".join(pieces)
    ids = trained.encode(text)
    assert not {*trained.special.values()} & {*ids}
    assert trained.decode(ids) == text


def test_bytes_are_the_first_ids() -> None:
    tokenizer = Tokenizer.bytes()
    assert tokenizer.vocabulary_size == 256 + len(SPECIAL_TOKENS)
    assert [tokenizer.token_bytes(index) for index in range(256)] == [bytes([index]) for index in range(256)]
    assert tokenizer.encode("翰a") == [*"翰a".encode()]


def test_the_byte_alphabet_is_that_of_the_tokenizers_library() -> None:
    assert set(byte_alphabet()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    for byte in range(128):  # one character of UTF-8 is one byte there
        shown = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(chr(byte))
        assert shown[0][0] == byte_alphabet()[byte]


def test_special_tokens(trained: Tokenizer) -> None:
    assert trained.special["<|endoftext|>"] == trained.end_of_text_id == trained.vocabulary_size - len(SPECIAL_TOKENS)
    assert trained.pad_id == trained.special["<|pad|>"] != trained.end_of_text_id
    assert trained.end_of_turn_id == trained.special["<|im_end|>"]
    ids = [trained.special[name] for name in SPECIAL_TOKENS]
    assert trained.decode(ids) == "".join(MARKUP_TOKENS)
    assert trained.decode(ids, skip_special=False) == "".join(SPECIAL_TOKENS)
    assert trained.encode_rendered("".join(SPECIAL_TOKENS)) == ids
    assert [trained.token_bytes(trained.special[name]) for name in CONTROL_TOKENS] == [b""] * len(CONTROL_TOKENS)
    assert trained.token_bytes(trained.special["<tool_call>"]) == b"<tool_call>"
    with pytest.raises(HanlinError, match="is not a token id"):
        trained.token_bytes(trained.vocabulary_size)


def test_batch_equals_single(trained: Tokenizer) -> None:
    texts = [*WEIRD, *SPELLED]
    assert trained.encode_batch(texts) == [trained.encode(text) for text in texts]


def test_save_and_load_keep_every_byte(trained: Tokenizer, directory: Path, tmp_path: Path) -> None:
    again = Tokenizer.load(directory)
    again.save(tmp_path)
    names = ["chat_template.jinja", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()
    assert again.special == trained.special
    assert again.chat_template == trained.chat_template
    assert Tokenizer.load(directory / "tokenizer.json").encode("a river") == trained.encode("a river")


def test_load_explains_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(HanlinError, match=r"holds no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(HanlinError, match="can't be read"):
        Tokenizer.load(tmp_path)


def test_a_vocabulary_that_holds_its_special_tokens() -> None:
    """As GPT-2's does; and with `ignore_merges` even ordinary text reaches them."""
    value = json.loads(Tokenizer.bytes().json)
    vocabulary = value["model"]["vocab"]
    value["model"]["ignore_merges"] = True
    value["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    for token in value["added_tokens"]:
        vocabulary[token["content"]] = token["id"]
    tokenizer = Tokenizer(json.dumps(value), {"eos_token": "<|endoftext|>"})
    # The library alone gives the special id for the plain text.
    assert tokenizer._plain.encode("<|endoftext|>").ids == [tokenizer.end_of_text_id]
    assert tokenizer.encode("<|endoftext|>") == [*b"<|endoftext|>"]
    assert tokenizer.encode_batch(["<|endoftext|>", "a"]) == [[*b"<|endoftext|>"], [97]]


def sentencepiece_like() -> tokenizers.Tokenizer:
    """A tokenizer in the style of Llama 2: ▁ for spaces, one before the text, bytes where the vocabulary ends."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for token in ["▁", "a", "b", "▁a", "[", "]", "I", "N", "S", "T", "/"]:
        vocabulary[token] = len(vocabulary)
    model = tokenizers.models.BPE(vocab=vocabulary, merges=[("▁", "a")], byte_fallback=True, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    decoders = tokenizers.decoders
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def test_a_sentencepiece_like_tokenizer() -> None:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    tokenizer = Tokenizer(sentencepiece_like().to_str(), config, template)
    assert tokenizer.end_of_text_id == 1
    assert tokenizer.end_of_turn_id == 2
    assert tokenizer.decode(tokenizer.encode("a b翰\n")) == "a b翰\n"
    assert tokenizer.token_bytes(tokenizer.encode("翰")[-1]) == "翰".encode()[-1:]
    assert not {1, 2} & {*tokenizer.encode("<s>a</s>")}
    assert tokenizer.encode_bytes(b"\xff") == [3 + 255]
    from hanlin.tokenization import Conversation, Message

    rendered = tokenizer.render_tokens(Conversation([Message("user", "a"), Message("assistant", "b a")]))
    assert rendered.ids == tokenizer.encode_rendered("<s>[INST]a[/INST]b a</s>")
    assert tokenizer.decode([i for i, on in zip(rendered.ids, rendered.trained) if on], False) == "b a</s>"

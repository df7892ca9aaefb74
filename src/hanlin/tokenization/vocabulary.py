"""What hanlin's own vocabularies are made of: bytes, pre-tokenizer patterns, special tokens, and the files they go in.

Token ids: 0-255 are the bytes in their order, then the merges in the order they were learned, then the special tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pre-tokenizer pattern, kept to the letter because llama.cpp and others know it by name ("qwen2"). Digits are
split one by one."""

TRAINING_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{Han}+|[^\r\n\p{L}\p{N}]?(?:(?!\p{Han})\p{L})+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The same, with runs of Han apart from other letters and from the sign before them, as DeepSeek-V3 and Kimi K2 split.

Merges are learned under this finer pattern, so no token joins Han with another script or with punctuation, although the
tokenizer.json itself holds `PATTERN`: where a merge does not exist, a coarser pattern cannot make it."""

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
START_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
CONTROL_TOKENS = (END_OF_TEXT, PAD, START_OF_TURN, END_OF_TURN, *(f"<|reserved_{number}|>" for number in range(6)))
MARKUP_TOKENS = ("<tool_call>", "</tool_call>")
"""One token each, but no control: they are part of an answer's text and stay in it when it is decoded, as in Qwen."""
SPECIAL_TOKENS = (*CONTROL_TOKENS, *MARKUP_TOKENS)


def chatml_template() -> str:
    """The source of hanlin's default chat template."""
    return (Path(__file__).parent / "templates" / "chatml.jinja").read_text(encoding="utf-8")


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte in a byte-level tokenizer.json, by byte (Radford et al. 2019).

    Bytes that Latin-1 prints stand for themselves; the others are numbered from U+0100 on, in their order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + hidden.index(byte)) for byte in range(256)]


def tokenizer_json(tokens: Sequence[str], merges: Sequence[Sequence[str]]) -> str:
    """A Hugging Face tokenizer.json. `tokens` (in the byte alphabet) begin with the 256 bytes; specials come behind."""
    added = [
        {
            "id": len(tokens) + index,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": content in CONTROL_TOKENS,
        }
        for index, content in enumerate(SPECIAL_TOKENS)
    ]
    value: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer(PATTERN),
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [list(pair) for pair in merges],
        },
    }
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def pre_tokenizer(pattern: str) -> dict[str, Any]:
    """The pre-tokenizer part of a tokenizer.json: split by `pattern`, then write bytes in the byte alphabet."""
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        ],
    }


def tokenizer_config() -> dict[str, Any]:
    """`tokenizer_config.json` for hanlin's vocabularies, as `transformers` 4 and 5 read it.

    `<|endoftext|>` begins a document and ends the one before, so it is bos and eos; nothing is put before a text
    unasked (the chat template writes its own). That an answer ends generation too is for generation_config.json to say.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "unk_token": None,
        "additional_special_tokens": [name for name in CONTROL_TOKENS if name not in (END_OF_TEXT, PAD)],
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "model_max_length": 1_000_000_000,
    }

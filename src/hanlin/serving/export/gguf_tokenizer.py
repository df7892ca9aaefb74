"""A tokenizer.json as llama.cpp's vocabulary: tokens, their types, merges, and the pre-tokenizer by its name there."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, cast

import gguf

from hanlin.artifacts import HanlinError, Progress
from hanlin.serving.export.source import Source
from hanlin.tokenization import Tokenizer
from hanlin.tokenization.vocabulary import PATTERN

_THREE_DIGITS = PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
_WORD_CASES = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+SUFFIX"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*SUFFIX"
    r"|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = _WORD_CASES.replace("SUFFIX", "").replace("DIGITS", r"\p{N}")
_GPT4O = _WORD_CASES.replace("SUFFIX", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?").replace("DIGITS", r"\p{N}{1,3}")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DIGITS = r"\p{N}"

PRE_TOKENIZERS: dict[tuple[tuple[str, ...], bool], str] = {
    ((PATTERN,), False): "qwen2",
    ((_THREE_DIGITS,), True): "llama-bpe",
    ((_THREE_DIGITS,), False): "smaug-bpe",
    ((_TEKKEN,), True): "tekken",
    ((_GPT4O,), False): "gpt-4o",
    ((_GPT2,), False): "gpt-2",
    ((_DIGITS, _GPT2), False): "smollm",
}
"""llama.cpp's name for the patterns by which a text is split, one after the other, and whether a piece that is a token
is taken whole (`ignore_merges`), which llama.cpp decides by the name as well"""


def add_tokenizer(writer: gguf.GGUFWriter, source: Source, progress: Progress) -> None:
    """Write the vocabulary of `source`, its special tokens and its chat template.

    Raises HanlinError for a tokenizer that llama.cpp has no name for.
    """
    tokenizer = source.tokenizer
    value: dict[str, Any] = json.loads(tokenizer.json)
    model: dict[str, Any] = value["model"]
    if model.get("type") != "BPE":
        raise HanlinError(f"The tokenizer is of the type {model.get('type')!r}: only BPE can be written as GGUF")
    tokens, types = _tokens(value, source.config.vocabulary_size)
    if tokenizer.byte_level:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer(value))
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        # llama.cpp refuses a vocabulary without merges, such as one of bytes alone: this one joins what is never there.
        writer.add_token_merges([" ".join(pair) for pair in _merges(model)] or ["[none] [none]"])
    else:
        prefix = _space_prefix(value, tokenizer.chat_template is not None, progress)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(_scores(model, tokens))
        writer.add_token_types(types)
        writer.add_add_space_prefix(prefix)
    _add_special(writer, source, progress)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(without_marks(tokenizer.chat_template))


def without_marks(template: str) -> str:
    """The chat template without the marks of what is trained (`generation`), which not every reader of it knows."""
    return re.sub(
        r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})",
        lambda found: found[1] + ("endif" if found[2] else "if true") + found[3],
        template,
    )


def pre_tokenizer(value: dict[str, Any]) -> str:
    """llama.cpp's name for how a byte-level tokenizer.json splits a text.

    Raises HanlinError naming the patterns when it has none, and for a normaliser that llama.cpp would leave out.
    """
    normaliser = value.get("normalizer")
    # Qwen's own tokenizer puts a text into NFC, which llama.cpp leaves out too under its name.
    if normaliser is not None and normaliser.get("type") != "NFC":
        raise HanlinError(f"The tokenizer normalises by {json.dumps(normaliser)}, which llama.cpp does not do")
    patterns = _patterns(value.get("pre_tokenizer"))
    whole = bool(value["model"].get("ignore_merges"))
    name = PRE_TOKENIZERS.get((patterns, whole))
    if name is None:
        shown = " then ".join(patterns) or "nothing"
        known = ", ".join(sorted(PRE_TOKENIZERS.values()))
        raise HanlinError(
            f"The tokenizer splits text by {shown}{' (ignore_merges)' if whole else ''}: no name of llama.cpp's for it "
            f"is known here (known: {known}), and it would make other tokens. Export to ONNX instead."
        )
    return name


def _patterns(node: Any) -> tuple[str, ...]:
    """The patterns of a byte-level pre-tokenizer in their order, or a description of what is none."""
    match node:
        case {"type": "Sequence", "pretokenizers": list() as parts}:
            return tuple(one for part in cast("list[Any]", parts) for one in _patterns(part))
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return (_GPT2,) if node.get("use_regex", True) else ()
        case {"type": "Digits", "individual_digits": True}:
            return (_DIGITS,)
        case {"type": "Split", "pattern": {"Regex": str() as regex}, "behavior": "Isolated", "invert": False}:
            return (regex,)
        case _:
            return (json.dumps(node, ensure_ascii=False),)


def _tokens(value: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Text and type of each of the model's `size` tokens. Rows of the embedding that are no token are UNUSED."""
    vocabulary: dict[str, int] = value["model"]["vocab"]
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [int(gguf.TokenType.UNUSED)] * size
    for token, index in vocabulary.items():
        byte = value["model"].get("byte_fallback") and re.fullmatch(r"<0x[0-9A-F]{2}>", token)
        tokens[index], types[index] = token, int(gguf.TokenType.BYTE if byte else gguf.TokenType.NORMAL)
    for added in value.get("added_tokens") or []:
        # What the chat template writes as text (<tool_call>) is no control token: it must come out when it is decoded.
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], int(kind)
    unknown = value["model"].get("unk_token")
    if unknown is not None and unknown in tokens:
        types[tokens.index(unknown)] = int(gguf.TokenType.UNKNOWN)
    twice = len(tokens) - len(set(tokens))
    if twice:
        raise HanlinError(f"The tokenizer gives {twice} texts to several ids: GGUF has one id for a text")
    return tokens, types


def _merges(model: dict[str, Any]) -> list[Sequence[str]]:
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]


def _add_special(writer: gguf.GGUFWriter, source: Source, progress: Progress) -> None:
    tokenizer = source.tokenizer
    begin = tokenizer.end_of_text_id
    writer.add_bos_token_id(begin)
    turn = tokenizer.end_of_turn_id
    ends: list[int] = source.end_ids or ([begin] if turn is None else [turn])
    # Generation ends at each of eos, eot and eom; where there are more, llama.cpp must know the others by their text.
    writer.add_eos_token_id(ends[0])
    rest = [index for index in ends[1:] if index not in (turn, ends[0])]
    if turn is not None:
        writer.add_eot_token_id(turn)
    if rest:
        writer.add_eom_token_id(rest[0])
    if rest[1:]:
        progress.say(
            f"GGUF names three tokens that end an answer: {rest[1:]} are left to what llama.cpp knows of them."
        )
    if tokenizer.pad_id is not None:
        writer.add_pad_token_id(tokenizer.pad_id)
    begins = source.prefix == [begin]
    if source.prefix and not begins:
        progress.say(f"A raw prompt begins with the tokens {source.prefix} here: llama.cpp puts none before it.")
    if begins and tokenizer.chat_template is not None and not _chat_begins(tokenizer, begin):
        progress.say("Raw prompts begin with a token that the chat template does not write: llama.cpp puts none there.")
        begins = False
    writer.add_add_bos_token(begins)
    writer.add_add_eos_token(False)


def _chat_begins(tokenizer: Tokenizer, token: int) -> bool:
    """Whether the chat template writes `token` first, as llama.cpp expects of one that stands before raw prompts."""
    text = tokenizer.render([{"role": "user", "content": "1"}], add_generation_prompt=True)
    return tokenizer.encode_rendered(text)[:1] == [token]


# ---------------------------------------------------------------- SentencePiece


def _space_prefix(value: dict[str, Any], chats: bool, progress: Progress) -> bool:
    """Whether llama.cpp is to put ▁ before a text, and behind each control token.

    Raises HanlinError unless a text is only split into characters, with ▁ for spaces and bytes for what is unknown.
    """
    normaliser: dict[str, Any] = value.get("normalizer") or {}
    splitter: dict[str, Any] = value.get("pre_tokenizer") or {}
    steps: list[Any] = normaliser["normalizers"] if normaliser.get("type") == "Sequence" else [normaliser]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    bytes_there = all(f"<0x{byte:02X}>" in value["model"]["vocab"] for byte in range(256))
    scheme = None
    if not splitter and steps in ([{"type": "Prepend", "prepend": "▁"}, replace], [replace]):
        scheme = "always" if len(steps) == 2 else "never"
    elif not normaliser and splitter.get("type") == "Metaspace" and splitter.get("split") is False:
        known = splitter["replacement"] == "▁" and splitter["prepend_scheme"] in ("first", "never")
        scheme = splitter["prepend_scheme"] if known else None
    if scheme is None or not bytes_there or not value["model"].get("byte_fallback"):
        shown = json.dumps({"normalizer": normaliser, "pre_tokenizer": splitter}, ensure_ascii=False)
        raise HanlinError(
            f"The tokenizer prepares a text by {shown}: llama.cpp knows no such tokenizer without byte-level tokens. "
            "Export to ONNX instead."
        )
    if scheme == "first":
        # llama.cpp treats the start of a text and what follows a control token alike, with the prefix or without.
        what = "raw prompts begin without that space" if chats else "so does what follows a control token"
        progress.say(f"The tokenizer begins a text, unless it begins with a space, with one: in llama.cpp {what}.")
    return scheme == "always" or (scheme == "first" and not chats)


def _scores(model: dict[str, Any], tokens: list[str]) -> list[float]:
    """A score of each token by which llama.cpp merges as the merges' order does: minus the first rank that makes it.

    llama.cpp joins any two neighbours that are a token together, the one with the highest score first. That is the same
    only if every such pair is among the merges, which is checked here.
    """
    ranks: dict[str, int] = {}
    pairs = {(left, right) for left, right in _merges(model)}
    for rank, (left, right) in enumerate(_merges(model)):
        ranks.setdefault(left + right, rank)
    vocabulary = model["vocab"]
    for token in ranks:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary and (left, right) not in pairs:
                raise HanlinError(
                    f"The tokenizer does not merge {left!r} with {right!r}, though {token!r} is a token: llama.cpp "
                    "would, and make other tokens. Export to ONNX instead."
                )
    return [-float(ranks.get(token, len(ranks))) if token in vocabulary else 0.0 for token in tokens]

"""What an engine needs, out of a Hugging Face directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import tokenizers

from hanlin.artifacts import HanlinError, UsageError
from hanlin.inference.adapters import LoraSet
from hanlin.inference.precision import DTYPES, load_for_generation
from hanlin.models import Transformer
from hanlin.models.device import choose_device
from hanlin.models.hub import WeightReader
from hanlin.tokenization import Tokenizer
from hanlin.tokenization.vocabulary import CONTROL_TOKENS, END_OF_TEXT


class Opened(NamedTuple):
    """A model that is ready to answer."""

    directory: Path
    model: Transformer
    tokenizer: Tokenizer
    eos_ids: list[int] | None

    def adapters(self, directories: Mapping[str, Path]) -> LoraSet:
        """LoRA adapters for it, by name. Raises HanlinError for what is no adapter of this model."""
        device = next(self.model.final_norm.parameters()).device
        found = LoraSet(self.model.config, device, WeightReader(self.directory))
        for name, path in directories.items():
            found.load(name, path)
        return found


def open_directory(directory: Path | str, dtype: str, device: str) -> Opened:
    """The model, its weights in the form of `dtype` in which they generate fastest (`precision`), its tokenizer, and
    what ends its answers.

    Raises HanlinError saying what is missing when the directory holds no model or no tokenizer, and UsageError for
    another dtype and for a device that is not there.
    """
    directory = Path(directory)
    if dtype not in DTYPES:
        raise UsageError(f"dtype is {dtype!r}: it must be one of {', '.join(DTYPES)}")
    place = choose_device(device)
    if not directory.is_dir():
        raise HanlinError(
            f"{directory} is not a directory: give that of a model (a stage of a run, or any Hugging Face model)"
        )
    if not (directory / "config.json").is_file():
        raise HanlinError(f"{directory} holds no config.json, so it is no model: give a Hugging Face model's directory")
    if not (directory / "tokenizer.json").is_file():
        raise HanlinError(f"{directory} holds no tokenizer.json: put the model's tokenizer beside its weights")
    tokenizer = Tokenizer.load(directory)
    model = load_for_generation(directory, dtype, place)
    return Opened(directory, model, tokenizer, end_ids(directory))


def end_ids(directory: Path) -> list[int] | None:
    """The tokens that end an answer: `eos_token_id` (a number or a list) of generation_config.json, else of
    config.json."""
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        if not path.is_file():
            continue
        try:
            found: Any = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        except (ValueError, AttributeError) as error:
            raise HanlinError(f"{path} can't be read as a JSON object: {error}") from None
        if found is None:
            continue
        ids = cast("list[Any]", found if isinstance(found, list) else [found])
        if not all(isinstance(token, int) and token >= 0 for token in ids):
            raise HanlinError(f"eos_token_id in {path} is {found!r}: it must be a token id or a list of them")
        return ids
    return None


def prompt_prefix(directory: Path, tokenizer: Tokenizer) -> list[int]:
    """Tokens before a raw prompt.

    What the tokenizer's own post-processor puts before a text (Llama's and Mistral's begin-of-text); and for
    vocabularies that hanlin made, `<|endoftext|>`, with which every document began in training. Otherwise none
    (GPT-2, Qwen).
    """
    whole = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    # What it adds may stand before or after a text (BERT's [SEP], an end of text): only what stands before is wanted.
    text = "a"
    bare, full = whole.encode(text, add_special_tokens=False).ids, whole.encode(text, add_special_tokens=True).ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            if start:
                return full[:start]
            break
    if tokenizer.config.get("bos_token") == END_OF_TEXT and all(name in tokenizer.special for name in CONTROL_TOKENS):
        return [tokenizer.special[END_OF_TEXT]]
    return []

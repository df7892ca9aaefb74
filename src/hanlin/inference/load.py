"""A model directory as something to talk to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import tokenizers

from hanlin.artifacts import HanlinError, UsageError
from hanlin.inference.engine import Engine
from hanlin.inference.precision import DTYPES, load_for_generation
from hanlin.inference.types import Completion, Delta, Request
from hanlin.models import ModelConfig
from hanlin.models.device import choose_device
from hanlin.tokenization import Conversation, Message, Tokenizer
from hanlin.tokenization.vocabulary import CONTROL_TOKENS, END_OF_TEXT

Messages = Sequence[Message | Mapping[str, Any]]


class LanguageModel:
    """A model, its tokenizer, and an engine that runs them."""

    def __init__(self, engine: Engine, prefix_ids: Sequence[int]) -> None:
        self.engine, self.prefix_ids = engine, list(prefix_ids)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.engine.tokenizer

    @property
    def config(self) -> ModelConfig:
        return self.engine.model.config

    def generate(self, prompt: str, *, raw: bool = False, **settings: Any) -> Completion:
        """The answer to `prompt`: as the user's turn of a chat where the model has a chat template, else (or with
        `raw`) the text's continuation. `settings` are `Request`'s fields. Raises HanlinError for a prompt longer than
        the context and UsageError for settings that mean nothing."""
        return self.engine.generate([self.request(prompt, raw=raw, **settings)])[0]

    def stream(self, prompt: str, *, raw: bool = False, **settings: Any) -> Iterator[Delta]:
        """`generate`, piece by piece."""
        return self.engine.iterate(self.request(prompt, raw=raw, **settings))

    def chat(self, messages: Messages, *, tools: list[dict[str, Any]] | None = None, **settings: Any) -> Completion:
        """The assistant's next turn. Raises HanlinError where the model has no chat template, besides what `generate`
        does."""
        return self.engine.generate([self.chat_request(messages, tools=tools, **settings)])[0]

    def stream_chat(
        self, messages: Messages, *, tools: list[dict[str, Any]] | None = None, **settings: Any
    ) -> Iterator[Delta]:
        """`chat`, piece by piece."""
        return self.engine.iterate(self.chat_request(messages, tools=tools, **settings))

    def request(self, prompt: str, *, raw: bool = False, **settings: Any) -> Request:
        """The `Request` that `generate` makes of a prompt: many of them go to `engine.generate` at once."""
        if raw or self.tokenizer.chat_template is None:
            ids = [*self.prefix_ids, *self.tokenizer.encode(prompt)]
            # An empty text still has a beginning.
            return _request(ids or [self.tokenizer.end_of_text_id], settings)
        return self.chat_request([{"role": "user", "content": prompt}], **settings)

    def chat_request(
        self, messages: Messages, *, tools: list[dict[str, Any]] | None = None, **settings: Any
    ) -> Request:
        """The `Request` that `chat` makes of messages: the rendered prompt, ending also at the end of the turn."""
        given = [message if isinstance(message, Message) else Message.from_dict(message) for message in messages]
        ids = self._prompt_ids(Conversation(given, tools))
        turn = self.tokenizer.end_of_turn_id
        if turn is not None:
            settings["stop_ids"] = [*settings.get("stop_ids", ()), turn]
        return _request(ids, settings)

    def _prompt_ids(self, conversation: Conversation) -> list[int]:
        try:
            return self.tokenizer.render_tokens(conversation, add_generation_prompt=True).ids
        except HanlinError:
            # Templates that rewrite earlier answers (Qwen3 leaves out their reasoning) cannot be trained on as they
            # are, but prompts can be made of them; what messages spell must then not be taken for the template's own
            # tokens.
            spelled = json.dumps([message.to_dict() for message in conversation.messages], ensure_ascii=False)
            if self.tokenizer.chat_template is None or any(name in spelled for name in self.tokenizer.special):
                raise
            return self.tokenizer.encode_rendered(
                self.tokenizer.render(conversation.messages, conversation.tools, add_generation_prompt=True)
            )


def _request(ids: Sequence[int], settings: Mapping[str, Any]) -> Request:
    known = set(Request.__dataclass_fields__) - {"prompt_ids"}
    for name in settings:
        if name not in known:
            raise UsageError(f"{name!r} is no setting of generation: known are {', '.join(sorted(known))}")
    return Request(prompt_ids=ids, **settings)


def load(
    directory: Path | str,
    dtype: str = "float32",
    *,
    device: str = "auto",
    max_batch: int = 64,
    cache_tokens: int | None = None,
    deterministic: bool | None = None,
) -> LanguageModel:
    """The model in a Hugging Face directory, ready to answer, its weights in `dtype` (float32, bfloat16, int8 or int4)
    on `device` (auto: the GPU where there is one; cpu; cuda). `max_batch` answers are generated at once, with keys and
    values of at most `cache_tokens` tokens (None: what half of the free memory holds).

    `deterministic`: an answer's log-probabilities have the same bits in any company (None: where that costs nothing;
    see `Engine`).

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
    model = load_for_generation(directory, dtype, place, deterministic is not False)
    engine = Engine(
        model,
        tokenizer,
        eos_ids=end_ids(directory),
        max_batch=max_batch,
        cache_tokens=cache_tokens,
        deterministic=deterministic,
        frozen=True,
    )
    return LanguageModel(engine, prompt_prefix(directory, tokenizer))


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

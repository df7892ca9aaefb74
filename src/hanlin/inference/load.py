"""A model directory as something to talk to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.artifacts import HanlinError, UsageError
from hanlin.inference.directory import prompt_prefix
from hanlin.inference.engine import Engine
from hanlin.inference.types import Completion, Delta, Request
from hanlin.models import ModelConfig
from hanlin.tokenization import Conversation, Message, Tokenizer

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
    deterministic: bool | None = None,
    **settings: Any,
) -> LanguageModel:
    """The model in a Hugging Face directory, ready to answer, its weights in `dtype` (float32, bfloat16, int8 or int4)
    on `device` (auto: the GPU where there is one; cpu; cuda). `max_batch` answers are generated at once; `settings` are
    others of `Engine`'s.

    `deterministic`: an answer's log-probabilities have the same bits in any company (None: where that costs nothing;
    see `Engine`).

    Raises HanlinError saying what is missing when the directory holds no model or no tokenizer, and UsageError for
    another dtype and for a device that is not there.
    """
    engine = Engine(directory, dtype=dtype, device=device, max_batch=max_batch, deterministic=deterministic, **settings)
    return LanguageModel(engine, prompt_prefix(Path(directory), engine.tokenizer))

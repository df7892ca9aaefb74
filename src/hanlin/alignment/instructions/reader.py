"""A model as one that reads conversations: how it is shown them, and how likely it finds an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hanlin.artifacts import HanlinError

if TYPE_CHECKING:
    from hanlin.artifacts import Artifact
    from hanlin.inference import LanguageModel

Chat = bool | Literal["auto"]
_MOST_OF_CONTEXT = 0.75
"""Share of a model's context that an answer may take; what is longer is measured by its beginning."""


class Reader:
    """A model with the decision whether it is shown a conversation through its chat template."""

    def __init__(self, model: LanguageModel, chat: bool) -> None:
        self.model, self.chat = model, chat
        self._empty = model.prefix_ids or [model.tokenizer.end_of_text_id]

    @property
    def empty(self) -> list[int]:
        """What stands before a text that nothing comes before."""
        return list(self._empty)

    def prompt(self, messages: Sequence[Mapping[str, Any]], tools: list[dict[str, Any]] | None = None) -> list[int]:
        """The tokens before an answer to `messages`: by the chat template, or as paragraphs of plain text."""
        if self.chat:
            return list(self.model.chat_request(messages, tools=tools).prompt_ids)
        return self.plain("\n\n".join(str(one["content"]) for one in messages if one["content"]) + "\n")

    def plain(self, text: str) -> list[int]:
        """The tokens of a text that begins a document."""
        return [*self._empty, *self.model.tokenizer.encode(text)]

    def fitted(self, context: Sequence[int], answer: Sequence[int]) -> tuple[list[int], list[int]]:
        """Both cut to the model's context: the answer at its end, what comes before it at its beginning."""
        limit = self.model.config.max_positions
        answer = answer[: max(1, int(_MOST_OF_CONTEXT * limit))]
        return list(context[-(limit + 1 - len(answer)) :]), list(answer)

    def logprobs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """ln p of each token of each answer, after `fitted`. Raises HanlinError when they are not numbers."""
        found = self.model.engine.score([self.fitted(context, answer) for context, answer in pairs])
        if any(value != value for row in found for value in row):
            raise HanlinError(
                "the model's probabilities are no numbers: its weights are damaged, or training diverged."
            )
        return found


def open_reader(artifact: Artifact, chat: Chat, dtype: str, device: str) -> Reader:
    """The model of a stage or directory. `auto`: through its chat template, if it has one and was trained on it, as all
    are taken to be that hanlin did not only pretrain."""
    from hanlin.inference import load

    model = load(Path(artifact.path), dtype, device=device)
    has_template = model.tokenizer.chat_template is not None
    if chat is True and not has_template:
        raise HanlinError(f"{artifact.path} has no chat template: give it one, or set chat to false.")
    return Reader(model, has_template and artifact.manifest.kind != "pretrain" if chat == "auto" else chat)

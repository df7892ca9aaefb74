"""What writes text for self-instruct: a model, or in tests anything else with `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hanlin.artifacts import HanlinError

if TYPE_CHECKING:
    from hanlin.alignment.instructions.reader import Reader


@dataclass(frozen=True)
class Ask:
    """One text to be gone on from."""

    prompt: str
    seed: int
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Said:
    """What was written."""

    text: str
    whole: bool = True
    """False when it was cut at `max_new_tokens`"""
    fits: bool = True
    """False when the prompt was too long for the model, and nothing was written"""


class Generator(Protocol):
    """Writes on from each prompt (or, as a chat model, answers it): a function of that prompt and its seed."""

    @property
    def chat(self) -> bool:
        """Whether it answers a message, rather than going on from a text."""
        ...

    def generate(self, asks: Sequence[Ask]) -> list[Said]:
        """In the order of the asks."""
        ...


class ModelGenerator:
    """A model as a Generator."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    @property
    def chat(self) -> bool:
        return self._reader.chat

    def generate(self, asks: Sequence[Ask]) -> list[Said]:
        """In the order of the asks. Raises HanlinError when the model's scores are not numbers."""
        from hanlin.inference.types import Request

        model = self._reader.model
        ends = [one for one in (model.tokenizer.end_of_text_id, model.tokenizer.end_of_turn_id) if one is not None]
        found: list[Said | None] = [None] * len(asks)
        requests: list[Request] = []
        places: list[int] = []
        for place, ask in enumerate(asks):
            if self.chat:
                ids = self._reader.prompt([{"role": "user", "content": ask.prompt}])
            else:
                ids = self._reader.plain(ask.prompt)
            if len(ids) >= model.config.max_positions:
                found[place] = Said("", fits=False)
                continue
            places.append(place)
            requests.append(
                Request(
                    prompt_ids=ids,
                    max_new_tokens=ask.max_new_tokens,
                    temperature=ask.temperature,
                    top_p=ask.top_p,
                    stop=ask.stop,
                    stop_ids=ends,
                    seed=ask.seed,
                )
            )
        for place, answer in zip(places, model.engine.generate(requests)):
            if answer.finish_reason == "error":
                raise HanlinError("the model's scores are no numbers: its weights are damaged, or training diverged.")
            found[place] = Said(answer.text, answer.finish_reason == "stop")
        return [one for one in found if one is not None]

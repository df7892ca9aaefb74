"""What answers, criticises, revises and chooses: a model, or in tests anything else with the same two methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from hanlin.alignment.instructions.reader import Chat, Reader, open_reader
from hanlin.artifacts import HanlinError

if TYPE_CHECKING:
    from hanlin.artifacts import Artifact

LEAST_LOG = -1e4
"""What stands for a log-probability of -∞"""


@dataclass(frozen=True)
class Ask:
    """A conversation that wants an answer."""

    messages: list[dict[str, Any]]
    seed: int
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    tools: list[dict[str, Any]] | None = None
    goes_on: bool = False
    """The text ends where the answer begins: a model that is no chat model goes on from there, not on a new line"""


@dataclass(frozen=True)
class Said:
    """The answer."""

    text: str
    whole: bool = True
    """False when it was cut at `max_new_tokens`"""
    fits: bool = True
    """False when the conversation was too long for the model, and nothing was written"""
    read: int = 0
    """Tokens of the conversation"""
    written: int = 0
    """Tokens of the answer"""


@dataclass(frozen=True)
class Choice:
    """How likely each of some words is to be the answer to a question."""

    logs: list[float] = field(default_factory=list[float])
    """ln p of each"""
    fits: bool = True
    """False when the question was too long for the model: there are no `logs` then"""
    read: int = 0
    """Tokens of the question"""

    @property
    def mass(self) -> float:
        """The probability that the answer is one of the words at all."""
        return sum(map(math.exp, self.logs))


class Speaker(Protocol):
    """A function of what it is asked alone."""

    def say(self, asks: Sequence[Ask]) -> list[Said]:
        """Answers, in the order of the asks."""
        ...

    def choose(self, questions: Sequence[str], words: Sequence[str]) -> list[Choice]:
        """Of each question how likely each word is to be its answer."""
        ...


class ModelSpeaker:
    """A model as a Speaker, loaded when it is first asked: not at all when everything was asked before a kill."""

    def __init__(self, artifact: Artifact, chat: Chat, dtype: str, device: str) -> None:
        self._given = artifact, chat, dtype, device
        self._opened: Reader | None = None

    @property
    def _reader(self) -> Reader:
        if self._opened is None:
            self._opened = open_reader(*self._given)
        return self._opened

    def say(self, asks: Sequence[Ask]) -> list[Said]:
        """In the order of the asks. Raises HanlinError when the model's scores are not numbers."""
        from hanlin.inference.types import Request

        model = self._reader.model
        ends = [one for one in (model.tokenizer.end_of_text_id, model.tokenizer.end_of_turn_id) if one is not None]
        found: list[Said | None] = [None] * len(asks)
        requests: dict[int, Request] = {}
        for place, ask in enumerate(asks):
            ids = self._prompt(ask)
            if len(ids) >= model.config.max_positions:
                found[place] = Said("", fits=False)
                continue
            requests[place] = Request(
                prompt_ids=ids,
                max_new_tokens=ask.max_new_tokens,
                temperature=ask.temperature,
                top_p=ask.top_p,
                stop_ids=ends,
                seed=ask.seed,
            )
        for (place, request), answer in zip(requests.items(), model.engine.generate(list(requests.values()))):
            if answer.finish_reason == "error":
                raise HanlinError("the model's scores are no numbers: its weights are damaged, or training diverged.")
            found[place] = Said(
                answer.text, answer.finish_reason == "stop", read=len(request.prompt_ids), written=len(answer.ids)
            )
        return [one for one in found if one is not None]

    def choose(self, questions: Sequence[str], words: Sequence[str]) -> list[Choice]:
        """Each word is tried as the whole beginning of the answer, with a space before it and without."""
        forms = self._forms(words)
        longest = max(len(ids) for ids in forms)
        limit = self._reader.model.config.max_positions
        asked = [self._prompt(Ask([{"role": "user", "content": text}], 0, 1, goes_on=True)) for text in questions]
        fitting = [ids for ids in asked if len(ids) + longest - 1 <= limit]
        logs = iter(self._reader.logprobs([(ids, form) for ids in fitting for form in forms]))
        found: list[Choice] = []
        for ids in asked:
            if len(ids) + longest - 1 > limit:
                found.append(Choice(fits=False))
                continue
            by_word: list[list[float]] = [[] for _ in words]
            for word in forms.values():
                by_word[word].append(max(LEAST_LOG, sum(next(logs))))
            found.append(Choice([_log_sum(one) for one in by_word], read=len(ids)))
        return found

    def _prompt(self, ask: Ask) -> list[int]:
        reader = self._reader
        if not reader.chat and ask.goes_on:
            return reader.plain(str(ask.messages[0]["content"]))
        return reader.prompt(ask.messages, ask.tools)

    def _forms(self, words: Sequence[str]) -> dict[tuple[int, ...], int]:
        """Tokens that say a word → its number."""
        encode = self._reader.model.tokenizer.encode
        found: dict[tuple[int, ...], int] = {}
        for number, word in enumerate(words):
            for ids in {tuple(encode(f"{space}{word}")): None for space in ("", " ")}:
                alike = [other for other in found if _begins(ids, other) or _begins(other, ids)]
                if any(found[other] != number for other in alike):
                    raise HanlinError(
                        f"this model's tokenizer writes {word!r} as another word begins, so that their probabilities "
                        "can't be told apart: use another judge."
                    )
                if not alike:
                    found[ids] = number
        return found


def _begins(whole: tuple[int, ...], part: tuple[int, ...]) -> bool:
    return whole[: len(part)] == part


def _log_sum(logs: Sequence[float]) -> float:
    """ln Σ exp."""
    most = max(logs)
    return most + math.log(sum(math.exp(one - most) for one in logs))

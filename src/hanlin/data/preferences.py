"""Preference data read as it is: pairs, KTO labels and ranked answers, each as `Preference`s."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hanlin.data.formats import PREFERENCE_FORMS, ReadReport, answer_messages, prompt_messages, read_forms
from hanlin.data.messages import RowError, parse_messages, parse_tools, text_of, with_system
from hanlin.tokenization import Message


@dataclass
class Preference:
    """Two answers to one prompt, one preferred; or one answer with a judgement (KTO), the other then None."""

    prompt: list[Message]
    chosen: list[Message] | None
    """The better answer's messages: those after the prompt"""
    rejected: list[Message] | None
    margin: float | None = None
    """How much better, in the data's own units, 0 or more; None when it does not say. Of 0 no lead is asked for, and
    the chosen answer is the better one all the same"""
    tools: list[dict[str, Any]] | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    """Where it came from; and, where the data says so, its `tags`, `margin` and `bayes` (see `_about`)"""
    confidence: float | None = None
    """The probability that the better answer is better, or the judgement right (a soft label, from 1/2 to 1); None
    when the data says none"""


@dataclass
class Ranking:
    """Answers to one prompt with their scores, higher is better; of one answer alone, 1 (good) or 0 (bad)."""

    prompt: list[Message]
    answers: list[list[Message]]
    scores: list[float]
    tools: list[dict[str, Any]] | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    confidence: float | None = None
    """Of a pair and of a judged answer, as of a preference; of more answers there is none"""

    @staticmethod
    def of(preference: Preference) -> Ranking:
        """A pair as a ranking of two, the better first, with its margin (or 1) and 0; a judged answer as one of one."""
        better, worse = preference.chosen, preference.rejected
        answers = [answer for answer in (better, worse) if answer is not None]
        # The better answer is the better one, also where the data's margin is 0.
        margin = preference.margin if len(answers) > 1 else None
        high = margin or 1.0
        scores = [high if answer is better else 0.0 for answer in answers]
        return Ranking(preference.prompt, answers, scores, preference.tools, preference.metadata, preference.confidence)

    def apart(self) -> list[Ranking]:
        """Each answer of a pair as one that is judged alone, as surely: what KTO makes of pairs."""
        top = max(self.scores)
        return [
            Ranking(
                self.prompt, [answer], [float(score == top and score > 0)], self.tools, self.metadata, self.confidence
            )
            for answer, score in zip(self.answers, self.scores)
        ]


_TURN = re.compile(r"\n\n(Human|Assistant):[ \n]?")


def _transcript(text: str, name: str) -> list[Message]:
    """An HH-RLHF transcript as messages."""
    pieces = _TURN.split(text)
    if pieces[0].strip() or len(pieces) < 3:
        raise RowError(f'{name} does not begin with "\\n\\nHuman:"')
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        Message(role=roles[speaker], content=content.strip()) for speaker, content in zip(pieces[1::2], pieces[2::2])
    ]


def _common(chosen: list[Message], rejected: list[Message]) -> list[Message]:
    """The messages with which both begin and that end before the assistant's last word: the implicit prompt."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if not shared:
        raise RowError("chosen and rejected do not begin with the same message, and there is no prompt")
    return chosen[:shared]


def _pair(row: dict[str, Any], form: str) -> Preference:
    if form == "hh-rlhf":
        chosen, rejected = _transcript(row["chosen"], "chosen"), _transcript(row["rejected"], "rejected")
        prompt = _common(chosen, rejected)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    else:
        chosen, rejected = answer_messages(row["chosen"], "chosen"), answer_messages(row["rejected"], "rejected")
        if form == "sharegpt-preference":
            prompt = parse_messages(row["conversations"], "conversations")
        elif row.get("prompt") is not None:
            prompt = prompt_messages(row["prompt"])
            # Some files repeat the prompt at the beginning of both answers.
            if all(answer[: len(prompt)] == prompt and len(answer) > len(prompt) for answer in (chosen, rejected)):
                chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        elif row.get("instruction") is not None:
            given = text_of(row.get("input") or "", "input")
            question = text_of(row["instruction"], "instruction")
            prompt = [Message(role="user", content=f"{question}\n{given}" if given else question)]
        elif isinstance(row["chosen"], str) or isinstance(row["rejected"], str):
            raise RowError("chosen and rejected are texts, and there is no prompt")
        else:
            prompt = _common(chosen, rejected)
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    margin = _number(row.get("margin"), "margin")
    if margin is not None and margin < 0:
        raise RowError(
            f"the margin {margin:g} is below 0, as if rejected were the better answer: swap the two, or leave it out"
        )
    return Preference(with_system(prompt, row.get("system")), chosen, rejected, margin, confidence=_confidence(row))


def _confidence(row: dict[str, Any]) -> float | None:
    """A row's `metadata.confidence`. One that stands elsewhere is some data set's own word, on a scale of its own.
    Raises RowError for what is no such probability."""
    inner = row.get("metadata")
    if not isinstance(inner, dict):
        return None
    value = _number(cast(dict[str, Any], inner).get("confidence"), "metadata.confidence")
    if value is not None and not 0.5 <= value <= 1:
        raise RowError(
            f"metadata.confidence should be the probability that the label is right, 0.5 to 1, not {value:g}"
        )
    return value


def _number(value: Any, name: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        if not isinstance(value, bool) and math.isfinite(number := float(value)):
            return number
        raise ValueError
    except (TypeError, ValueError):
        raise RowError(f"{name} should be a number, not {value!r}") from None


def _judged(row: dict[str, Any]) -> Preference:
    label = row["label"] if row.get("label") is not None else row["kto_tag"]
    good = label if isinstance(label, bool) else str(label).lower() == "true"
    if row.get("prompt") is not None and row.get("completion") is not None:
        prompt, answer = prompt_messages(row["prompt"]), answer_messages(row["completion"], "completion")
    elif row.get("instruction") is not None:
        given = text_of(row.get("input") or "", "input")
        question = text_of(row["instruction"], "instruction")
        prompt = [Message(role="user", content=f"{question}\n{given}" if given else question)]
        answer = answer_messages(row["output"], "output")
    else:
        name = "messages" if row.get("messages") is not None else "conversations"
        messages = parse_messages(row[name], name)
        prompt, answer = messages[:-1], messages[-1:]
    return Preference(
        with_system(prompt, row.get("system")),
        answer if good else None,
        None if good else answer,
        confidence=_confidence(row),
    )


def _ranking(row: dict[str, Any]) -> Ranking:
    """The answers of a ranked row with their scores."""
    if not isinstance(row["responses"], list) or not isinstance(row["scores"], list):
        raise RowError("responses and scores should be lists")
    responses, scores = cast(list[Any], row["responses"]), cast(list[Any], row["scores"])
    if len(responses) != len(scores) or len(responses) < 2:
        raise RowError(f"{len(responses)} responses with {len(scores)} scores: two or more of each are needed")
    prompt = with_system(
        prompt_messages(row["query"] if row.get("query") is not None else row["prompt"]), row.get("system")
    )
    answers = [answer_messages(value, f"responses[{index}]") for index, value in enumerate(responses)]
    values: list[float] = []
    for index, value in enumerate(scores):
        number = _number(value, f"scores[{index}]")
        if number is None:
            raise RowError("a score is missing")
        values.append(number)
    if max(values) == min(values):
        raise RowError("all scores are equal: no answer is preferred")
    sure = _confidence(row)
    if sure is not None and len(answers) > 2:
        raise RowError(
            f"metadata.confidence is a pair's, but this row ranks {len(answers)} answers: leave it out, or write pairs"
        )
    return Ranking(prompt, answers, values, confidence=sure)


def _ranked(row: dict[str, Any]) -> list[Preference]:
    """Every pair of answers with different scores; the margin is the scores' difference."""
    ranking = _ranking(row)
    rated = list(zip(ranking.answers, ranking.scores))
    return [
        Preference(ranking.prompt, better, worse, high - low, confidence=ranking.confidence)
        for better, high in rated
        for worse, low in rated
        if high > low
    ]


_TAGS = ("reason", "kind", "category", "subset", "source", "task", "language")
"""Names under which data says of what sort a row is"""
_LONGEST_TAG = 60


def _about(row: dict[str, Any]) -> dict[str, Any]:
    """What a row, or its `metadata`, says of itself: `tags` of what sort it is, for figures by sort, and `bayes`, how
    often the best possible judge would agree with such a label. Raises RowError for a `bayes` that can't be one."""
    inner = row.get("metadata")
    said = {**(cast(dict[str, Any], inner) if isinstance(inner, dict) else {}), **row}
    tags = {name: said[name] for name in _TAGS if isinstance(said.get(name), str)}
    found: dict[str, Any] = {}
    if tags := {name: text for name, text in tags.items() if 0 < len(text) <= _LONGEST_TAG}:
        found["tags"] = tags
    bayes = _number(said.get("bayes"), "bayes")
    if bayes is not None:
        if not 0.5 <= bayes <= 1:
            raise RowError(f"bayes should be a share from 0.5 to 1, not {bayes:g}")
        found["bayes"] = bayes
    return found


def to_preferences(row: dict[str, Any], form: str) -> list[Preference]:
    """A preference row as one preference, or, for a ranked one, all its pairs. Raises RowError with the reason."""
    found = _ranked(row) if form == "ranked" else [_judged(row) if form == "kto" else _pair(row, form)]
    tools = parse_tools(row.get("tools"))
    about = _about(row)
    for preference in found:
        preference.tools = tools
        margin = {} if preference.margin is None else {"margin": preference.margin}
        preference.metadata = {**preference.metadata, **about, **margin}
        if not preference.prompt:
            raise RowError("there is no prompt")
        for name, answer in (("chosen", preference.chosen), ("rejected", preference.rejected)):
            if answer is not None and (not answer or answer[0].role != "assistant"):
                raise RowError(f"{name} is not an assistant's answer")
        if preference.chosen == preference.rejected:
            raise RowError("chosen and rejected are the same")
    return found


def to_rankings(row: dict[str, Any], form: str) -> list[Ranking]:
    """A preference row as one ranking of all its answers. Raises RowError with the reason."""
    preferences = to_preferences(row, form)
    if form != "ranked":
        return [Ranking.of(one) for one in preferences]
    ranking = _ranking(row)
    ranking.tools = preferences[0].tools
    return [ranking]


def read_rankings(paths: Path | Iterable[Path]) -> tuple[list[Ranking], ReadReport]:
    """As `read_preferences`, but a ranked row stays one ranking, and every other row becomes one."""
    return read_forms([paths] if isinstance(paths, Path) else paths, PREFERENCE_FORMS, to_rankings)


def read_preferences(paths: Path | Iterable[Path]) -> tuple[list[Preference], ReadReport]:
    """Every preference in a file, a folder of files, or several of either, with the account of the reading.

    `report.read` counts rows; a ranked row gives several preferences. Raises HanlinError for a file of unknown form.
    """
    return read_forms([paths] if isinstance(paths, Path) else paths, PREFERENCE_FORMS, to_preferences)

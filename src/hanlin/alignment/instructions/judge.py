"""Scores from a judge: a model that rates each answer, as in AlpaGasus (Chen et al. 2023).

The score is the mean over the ratings, weighed by the probability that the judge gives each as its answer (G-Eval, Liu
et al. 2023, section 2): finer than the one likeliest rating, and without sampling. It counts only when the ratings
together hold enough probability: else the judge is not answering in the form that is asked for, and the row is
`unparsable`. With `by: text` the judge's own words are read instead, strictly: one whole number and nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from hanlin.alignment.instructions import prompts
from hanlin.artifacts import HanlinError, Settings

if TYPE_CHECKING:
    from hanlin.alignment.instructions.account import Account
    from hanlin.alignment.instructions.reader import Reader
    from hanlin.alignment.instructions.rows import Instruction

_RATING = re.compile(
    r"\s*(?:(?:score|rating|评分|得分|分数)\s*[:：]\s*)?(-?\d+)\s*(?:/\s*(\d+)\s*|分\s*)?[.。]?\s*", re.IGNORECASE
)


class ScoreSettings(Settings):
    """Rates each row with the model `judge` (Chen et al. 2023)."""

    complexity: bool = False
    """Rate also how hard the instruction is, by its own question, as DEITA orders rows by quality × complexity."""
    lowest: int = 1
    """The worst rating."""
    highest: int = 5
    """The best rating."""
    by: Literal["probabilities", "text"] = "probabilities"
    """The mean rating by the probabilities of all ratings; or the number that the judge writes."""
    least_mass: float = Field(default=0.5, ge=0, le=1)
    """probabilities: what the ratings must hold together for a row to count as rated."""
    least: float | None = None
    """Rows with a lower quality are dropped (reason `score`; AlpaGasus: 4.5 of 5); left out: none are."""
    unparsable: Literal["drop", "keep"] = "drop"
    """What becomes of rows that the judge did not rate."""

    @model_validator(mode="after")
    def _scale(self) -> ScoreSettings:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest ({self.lowest}) must be below highest ({self.highest})")
        if self.by == "probabilities" and not 0 <= self.lowest <= self.highest <= 9:
            raise ValueError(
                "by probabilities ratings must be single digits (0 to 9): of 1 and 10, one begins the other"
            )
        return self


class Judge:
    """A model that is asked for ratings."""

    def __init__(
        self, reader: Reader, settings: ScoreSettings, quality: str | None = None, complexity: str | None = None
    ) -> None:
        """`quality` and `complexity` are the user's prompt files; None: those that come with hanlin."""
        self.reader, self.settings = reader, settings
        self.quality = prompts.read_prompt(quality, "quality")
        self.complexity = prompts.read_prompt(complexity, "complexity") if settings.complexity else None

    def rate(self, rows: Sequence[Instruction]) -> list[dict[str, Any]]:
        """Of each row {quality, quality_mass, complexity, complexity_mass}; a rating that was not given is None."""
        found: list[dict[str, Any]] = [{} for _ in rows]
        for name, prompt in (("quality", self.quality), ("complexity", self.complexity)):
            if prompt is None:
                continue
            asked = [self._ask(prompt, row) for row in rows]
            ratings = self._by_text(asked) if self.settings.by == "text" else self._by_probabilities(asked)
            for entry, (rating, mass) in zip(found, ratings):
                entry[name] = rating
                if mass is not None:
                    entry[f"{name}_mass"] = mass
        return found

    def _ask(self, prompt: str, row: Instruction) -> list[int]:
        before, answer = row.last
        if len(before) == 1:
            question = str(before[0]["content"])
        else:
            question = "\n".join(f"{one['role']}: {one['content']}" for one in before)
        scale = {"lowest": self.settings.lowest, "highest": self.settings.highest}
        text = prompts.fill(prompt, f"the judge's prompt for row {row.id}", question=question, answer=answer, **scale)
        return self.reader.prompt([{"role": "user", "content": text}])

    def _by_probabilities(self, asked: Sequence[list[int]]) -> list[tuple[float | None, float | None]]:
        """Each rating is tried as the whole beginning of the answer, with and without a space before it."""
        values = range(self.settings.lowest, self.settings.highest + 1)
        encode = self.reader.model.tokenizer.encode
        forms = {tuple(encode(f"{space}{value}")): value for value in values for space in ("", " ")}
        _check_apart(list(forms))
        pairs = [(prompt, form) for prompt in asked for form in forms]
        likely = [math.exp(sum(one)) for one in self.reader.logprobs(pairs)]
        found: list[tuple[float | None, float | None]] = []
        for start in range(0, len(likely), len(forms)):
            part = likely[start : start + len(forms)]
            mass = sum(part)
            mean = sum(p * value for p, value in zip(part, forms.values())) / mass if mass > 0 else None
            found.append((mean if mass >= self.settings.least_mass else None, mass))
        return found

    def _by_text(self, asked: Sequence[list[int]]) -> list[tuple[float | None, float | None]]:
        from hanlin.inference.types import Request

        model = self.reader.model
        room = model.config.max_positions - 1
        ends = [one for one in (model.tokenizer.end_of_text_id, model.tokenizer.end_of_turn_id) if one is not None]
        stop = () if self.reader.chat else ("\n",)
        requests = [Request(prompt_ids=ids[-room:], max_new_tokens=16, stop_ids=ends, stop=stop) for ids in asked]
        answers = model.engine.generate(requests)
        return [(parse_rating(one.text, self.settings.lowest, self.settings.highest), None) for one in answers]


def parse_rating(text: str, lowest: int, highest: int) -> float | None:
    """The number of an answer that is one whole number on the scale and nothing else (`4`, `4/5`, `Score: 4.`)."""
    match = _RATING.fullmatch(text)
    if match is None or (match[2] is not None and int(match[2]) != highest):
        return None
    value = int(match[1])
    return float(value) if lowest <= value <= highest else None


def keep_by_score(
    rows: Sequence[Instruction], ratings: Sequence[dict[str, Any]], settings: ScoreSettings, account: Account
) -> list[Instruction]:
    """The rows that were rated well enough."""
    kept: list[Instruction] = []
    for row, rating in zip(rows, ratings, strict=True):
        row.measures["score"] = rating
        quality = rating.get("quality")
        if settings.unparsable == "drop" and any(value is None for value in rating.values()):
            missing = next(name for name, value in rating.items() if value is None)
            mass = rating.get(f"{missing}_mass")
            account.drop(row, "unparsable", mass, settings.least_mass if mass is not None else None, missing)
        elif quality is not None and settings.least is not None and quality < settings.least:
            account.drop(row, "score", quality, settings.least)
        else:
            kept.append(row)
    return kept


def _check_apart(forms: list[tuple[int, ...]]) -> None:
    for one in forms:
        for other in forms:
            if one != other and other[: len(one)] == one:
                raise HanlinError(
                    "this judge's tokenizer writes one rating as the beginning of another, so their probabilities "
                    "can't be told apart: use by: text."
                )

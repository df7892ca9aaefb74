"""What is kept: each rule on its own, the cheap ones first, and those that look through a model in pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hanlin.alignment.instructions.pieces import in_pieces
from hanlin.alignment.instructions.reader import open_reader
from hanlin.alignment.instructions.text import count_units
from hanlin.artifacts import Settings, StageContext

if TYPE_CHECKING:
    from hanlin.alignment.instructions.account import Account
    from hanlin.alignment.instructions.rows import Instruction
    from hanlin.alignment.instructions.stage import InstructionSettings

PIECE = 256
"""Rows measured by a model at once, and done again when the stage is killed."""
QUANTILES = {"least": 0.0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "most": 1.0}


def quantiles(values: Sequence[float]) -> dict[str, Any]:
    """QUANTILES of some numbers; nothing of none."""
    ordered = sorted(values)
    return {name: ordered[round(share * (len(ordered) - 1))] for name, share in QUANTILES.items()} if ordered else {}


class LengthSettings(Settings):
    """Drops rows that are too short or too long, in words (Chinese: signs)."""

    least_answer: int = Field(default=1, ge=0)
    """Of all answers of a row together."""
    most_answer: int | None = Field(default=None, ge=1)
    """Of all answers of a row together; left out: no limit."""
    least_question: int = Field(default=1, ge=0)
    """Of all that the user says."""
    most_question: int | None = Field(default=None, ge=1)
    """Of all that the user says; left out: no limit."""


class NearDuplicateSettings(Settings):
    """Drops rows whose question (or question and answer) is nearly that of an earlier row."""

    of: Literal["question", "both"] = "question"
    """What is compared. Of rows made by a template, what is not the template's."""
    measure: Literal["jaccard", "rouge-l"] = "jaccard"
    """The Jaccard similarity of runs of three words, or ROUGE-L as in self-instruct."""
    threshold: float = Field(default=0.8, gt=0, le=1)
    """Rows this similar are near duplicates (self-instruct: 0.7 by ROUGE-L)."""


def without_duplicates(rows: Sequence[Instruction], account: Account) -> list[Instruction]:
    """Of rows that say the same, the first."""
    seen: dict[str, Instruction] = {}
    for row in rows:
        if row.id in seen:
            account.drop(row, "duplicate", row.id)
        else:
            seen[row.id] = row
    return list(seen.values())


def by_length(rows: Sequence[Instruction], settings: LengthSettings, account: Account) -> list[Instruction]:
    """Rows whose question and answers are neither too short nor too long."""
    kept: list[Instruction] = []
    for row in rows:
        broken = _broken_limit(row, settings)
        if broken is None:
            kept.append(row)
        else:
            account.drop(row, *broken)
    return kept


def _broken_limit(row: Instruction, settings: LengthSettings) -> tuple[str, int, int] | None:
    """(reason, measured, threshold) of the first limit that the row breaks."""
    limits = (
        ("answer", count_units(row.answer), settings.least_answer, settings.most_answer),
        ("question", count_units(row.question), settings.least_question, settings.most_question),
    )
    for name, size, least, most in limits:
        # An answer that is a tool call has no words, and is none too short for it.
        if size < least and not (name == "answer" and any(one.get("tool_calls") for one in row.messages)):
            return f"short_{name}", size, least
        if most is not None and size > most:
            return f"long_{name}", size, most
    return None


def without_near(
    rows: Sequence[Instruction], settings: NearDuplicateSettings, context: StageContext, account: Account
) -> tuple[list[Instruction], dict[str, Any]]:
    """Of rows that are nearly the same, the first."""
    from hanlin.alignment.instructions.near_duplicates import NearDuplicates

    index = NearDuplicates(settings.threshold, settings.measure)
    kept: list[Instruction] = []
    firsts: list[str] = []
    """Ids of the rows whose texts the index keeps"""
    verdicts: dict[tuple[Any, ...], tuple[int, float] | None] = {}
    for place, row in enumerate(rows):
        if row.own_text is None:
            found = index.add(row.question if settings.of == "question" else f"{row.question}\n{row.answer}")
        else:
            # One row of a set in several templates is asked for: its renderings are judged as one.
            origin = tuple(row.metadata[name] for name in ("source", "file", "row"))
            seen = origin in verdicts
            found = verdicts[origin] if seen else index.add(row.own_text)
            verdicts[origin] = found
            if seen and found is None:
                kept.append(row)
                continue
        if found is None:
            kept.append(row)
            firsts.append(row.id)
        else:
            account.drop(row, "near_duplicate", found[1], settings.threshold, f"of {firsts[found[0]]}")
        if place % 500 == 0:
            context.progress.update(place, len(rows), "near duplicates")
    return kept, {"not_all_compared": index.capped}


def by_models(
    rows: list[Instruction],
    settings: InstructionSettings,
    context: StageContext,
    account: Account,
    figures: dict[str, Any],
) -> list[Instruction]:
    """What needs a model: each is loaded when it is needed, and not at all when all was measured before a kill."""
    from hanlin.alignment.instructions.diversity import choose_diverse
    from hanlin.alignment.instructions.embedding import mean_hidden, tfidf
    from hanlin.alignment.instructions.ifd import keep_by_ifd, measure_ifd
    from hanlin.alignment.instructions.judge import Judge, keep_by_score
    from hanlin.alignment.instructions.known import Knowledge, judged, keep_known

    model = _Lazy(lambda: open_reader(context.inputs["model"], settings.chat, settings.dtype, settings.device))
    asked = _Lazy(lambda: open_reader(context.inputs["judge"], settings.judge_chat, settings.dtype, settings.device))

    def measured(name: str, of: Sequence[Any], measure: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
        return in_pieces(context.workdir, name, of, PIECE, measure, context.progress, f"{name} measured")

    if settings.known is not None:
        known = settings.known
        questions = [judged(row, known) for row in rows]
        pool = [one for one in questions if one is not None]
        knowledge = _Lazy(lambda: Knowledge(model.get(), pool, known, context.seed))
        values = measured("known", pool, lambda part: knowledge.get().measure(part))
        rows, figures["known"] = keep_known(rows, questions, values, known, account)
    if settings.ifd is not None:
        values = measured("ifd", rows, lambda part: measure_ifd(model.get(), part))
        figures["ifd"] = {"not_measured": sum(value is None for value in values), **_spread(values, "ifd")}
        rows = keep_by_ifd(rows, values, settings.ifd, account)
    if settings.score is not None:
        score = settings.score
        judge = _Lazy(lambda: Judge(asked.get(), score, settings.judge_prompt, settings.complexity_prompt))
        values = measured("score", rows, lambda part: judge.get().rate(part))
        unrated = sum(any(value is None for value in one.values()) for one in values)
        figures["score"] = {"unparsable": unrated, **_spread(values, "quality")}
        rows = keep_by_score(rows, values, score, account)
    if settings.diversity is not None and rows:
        texts = [f"{row.question}\n{row.answer}" for row in rows]
        if settings.diversity.embedding == "model":

            def tick(done: int) -> None:
                context.progress.update(done, len(texts), "rows embedded")

            vectors = mean_hidden(model.get(), texts, tick)
        else:
            vectors = tfidf(texts)
        rows = choose_diverse(rows, vectors, settings.diversity, account)
    return rows


class _Lazy:
    """Something that is made when it is first asked for."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._made = make, None

    def get(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made


def _spread(values: Sequence[dict[str, Any] | None], name: str) -> dict[str, Any]:
    """Quantiles of one measure, over the rows that have it."""
    return quantiles([float(one[name]) for one in values if one is not None and one.get(name) is not None])

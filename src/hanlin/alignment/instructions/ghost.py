"""Ghost Attention: rows that teach an instruction given once to hold for the whole conversation.

Touvron et al. 2023 (Llama 2), section 3.3: dialogues are answered with the instruction beside every question; the rows
that are trained on then have it at the start only, and only the last answer counts in the loss, as the answers before
it were not written under the instruction.

The instructions are those of `evaluation/constraints.py`; the task `persistence` examines how long they hold. Answers
under them are made from the dialogue's own (in upper case, say) where that is possible, or by a model that is given the
instruction in every turn; either way they are checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from hanlin.alignment.instructions.chance import fraction
from hanlin.alignment.instructions.rows import Instruction
from hanlin.artifacts import Settings
from hanlin.evaluation.constraints import CONSTRAINTS, Constraint, constraint

if TYPE_CHECKING:
    from hanlin.inference import LanguageModel


class GhostSettings(Settings):
    """Adds rows made of dialogues and an instruction that must hold over their turns (Touvron et al. 2023, 3.3)."""

    share: float = Field(default=0.2, gt=0, le=1)
    """Share of the dialogues (of two or more answers, without tools) that a row is made of."""
    constraints: list[str] = Field(default_factory=lambda: ["upper-case", "prefix", "suffix", "quoted", "no-commas"])
    """Which kinds of instruction, of: upper-case, lower-case, prefix, suffix, quoted, no-commas, answer-in-en,
    answer-in-zh."""
    place: Literal["system", "user"] = "system"
    """Where the instruction stands: in the system message (behind the dialogue's own), or before the first
    question."""
    by: Literal["rule", "model"] = "rule"
    """Answers are made from the dialogue's own, or asked of the model `judge`, which is given the instruction in every
    turn. The language of answers needs the model."""
    earlier: Literal["original", "obeying"] = "original"
    """The answers before the last: as they were (the paper), or under the instruction. They are never trained on."""
    turn: Literal["last", "any"] = "last"
    """The answer that is trained on: the last (the paper), or one drawn by hash, behind which the dialogue is cut."""
    tries: int = Field(default=3, ge=1)
    """by: model: how many times a turn is asked until an answer obeys."""
    temperature: float = Field(default=0.7, ge=0)
    """by: model: of the second try on; the first is greedy."""
    max_new_tokens: int = Field(default=256, ge=1)
    """by: model: longest answer."""

    @field_validator("constraints")
    @classmethod
    def _are_known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in CONSTRAINTS:
                raise ValueError(f"{name!r} is no constraint. Known: {', '.join(CONSTRAINTS)}")
        if not value:
            raise ValueError("name at least one constraint")
        return value

    @model_validator(mode="after")
    def _can_be_made(self) -> GhostSettings:
        needs = [name for name in self.constraints if self.by == "rule" and constraint(name, "en").apply is None]
        if needs:
            raise ValueError(f"{', '.join(needs)} can't be made by a rule: use by: model, or leave it out")
        return self


Answerer = Callable[[list[list[dict[str, Any]]], int], list[str]]
"""(conversations that end with the user's turn, which try) -> the answers"""


def make_ghosts(
    rows: Sequence[Instruction], settings: GhostSettings, seed: int, answer: Answerer | None = None
) -> tuple[list[Instruction], dict[str, Any]]:
    """New rows, in the order of the dialogues that they are made of, and the table of what was made and what failed.

    `answer` is needed for `by: model`.
    """
    eligible = [row for row in rows if _is_dialogue(row)]
    chosen = [row for row in eligible if fraction(seed, row.id, "ghost") < settings.share]
    drafts = [_draft(row, settings, seed) for row in chosen]
    failed: Counter[str] = Counter()
    if settings.by == "model":
        assert answer is not None
        answered = _ask(drafts, settings, answer)
    else:
        answered = [_by_rule(draft) for draft in drafts]
    made: list[Instruction] = []
    kinds: Counter[str] = Counter()
    for draft, answers in zip(drafts, answered):
        obeyed = answers is not None and draft.rule.holds(answers[-1])
        if answers is None or not obeyed:
            failed[draft.rule.name] += 1
            continue
        kinds[draft.rule.name] += 1
        made.append(_row(draft, answers, settings))
    table = {
        "dialogues": len(eligible),
        "chosen": len(chosen),
        "made": len(made),
        "constraints": dict(sorted(kinds.items())),
        "failed": dict(sorted(failed.items())),
    }
    return made, table


def answer_by(model: LanguageModel, settings: GhostSettings, seed: int) -> Answerer:
    """Answers from a chat model: greedy at the first try, sampled afterwards."""

    def answer(conversations: list[list[dict[str, Any]]], attempt: int) -> list[str]:
        requests = [
            model.chat_request(
                messages,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature if attempt else 0.0,
                seed=seed + attempt,
            )
            for messages in conversations
        ]
        return [one.text.strip() for one in model.engine.generate(requests)]

    return answer


@dataclass(frozen=True)
class _Draft:
    source: Instruction
    system: str
    questions: list[str]
    answers: list[str]
    rule: Constraint


def _is_dialogue(row: Instruction) -> bool:
    roles = [str(one["role"]) for one in row.messages]
    roles = roles[1:] if roles[0] == "system" else roles
    return (
        len(roles) >= 4
        and roles == ["user", "assistant"] * (len(roles) // 2)
        and not row.tools
        and all(one["content"] for one in row.messages)
    )


def _draft(row: Instruction, settings: GhostSettings, seed: int) -> _Draft:
    questions = [str(one["content"]) for one in row.messages if one["role"] == "user"]
    answers = [str(one["content"]) for one in row.messages if one["role"] == "assistant"]
    turns = len(answers)
    if settings.turn == "any":
        turns = 1 + int(fraction(seed, row.id, "turn") * turns)
    kind = settings.constraints[int(fraction(seed, row.id, "kind") * len(settings.constraints))]
    rule = constraint(kind, row.language, int(fraction(seed, row.id, "word") * 1_000))
    system = str(row.messages[0]["content"]) if row.messages[0]["role"] == "system" else ""
    return _Draft(row, system, questions[:turns], answers[:turns], rule)


def _by_rule(draft: _Draft) -> list[str] | None:
    return None if draft.rule.apply is None else [draft.rule.apply(answer) for answer in draft.answers]


def _ask(drafts: Sequence[_Draft], settings: GhostSettings, answer: Answerer) -> list[list[str] | None]:
    """All turns of all dialogues, turn by turn; None for a dialogue of which a turn was not obeyed in any try."""
    found: list[list[str] | None] = [[] for _ in drafts]
    for turn in range(max((len(draft.questions) for draft in drafts), default=0)):
        waiting = [n for n, draft in enumerate(drafts) if found[n] is not None and turn < len(draft.questions)]
        for attempt in range(settings.tries):
            asked = [_under_instruction(drafts[n], found[n] or [], turn) for n in waiting]
            again: list[int] = []
            for n, text in zip(waiting, answer(asked, attempt) if asked else []):
                answers = found[n]
                if answers is not None and drafts[n].rule.holds(text):
                    answers.append(text)
                else:
                    again.append(n)
            waiting = again
        for n in waiting:
            found[n] = None
    return found


def _under_instruction(draft: _Draft, answers: Sequence[str], turn: int) -> list[dict[str, Any]]:
    """The dialogue up to a question, with the instruction behind each question."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": draft.system}] if draft.system else []
    for place in range(turn + 1):
        messages.append({"role": "user", "content": f"{draft.questions[place]}\n{draft.rule.text}"})
        if place < turn:
            messages.append({"role": "assistant", "content": answers[place]})
    return messages


def _row(draft: _Draft, answers: Sequence[str], settings: GhostSettings) -> Instruction:
    system = "\n".join(filter(None, [draft.system, draft.rule.text if settings.place == "system" else ""]))
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for place, question in enumerate(draft.questions):
        given = question if place or settings.place == "system" else f"{draft.rule.text}\n{question}"
        messages.append({"role": "user", "content": given})
        if place == len(draft.questions) - 1:
            messages.append({"role": "assistant", "content": answers[place]})
        else:
            earlier = answers if settings.earlier == "obeying" else draft.answers
            messages.append({"role": "assistant", "content": earlier[place], "weight": 0})
    metadata = {**draft.source.metadata, "ghost": draft.rule.name, "ghost_of": draft.source.id}
    return Instruction(messages, metadata)

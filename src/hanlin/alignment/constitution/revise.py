"""Answers criticised and revised by principles, to be learned (Bai et al. 2022, section 3.1).

The model answers; in each round a principle is drawn, the judge criticises the answer by it, and the answer is revised.
What is learned is the question with the last revision.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hanlin.alignment.constitution.questions import Question, plain
from hanlin.alignment.constitution.speaker import Speaker
from hanlin.alignment.constitution.work import Work, spoken
from hanlin.alignment.instructions.account import Account
from hanlin.alignment.instructions.rows import Instruction

_LABEL = re.compile(
    r"\s*(?:\*\*)?(?:(?:new|revised|improved|final) (?:answer|response|version)|revision|"
    r"(?:新的|修改后的|改进后的|修订后的|重写的)回答)\s*(?:[:：]\s*(?:\*\*)?|\*\*\s*[:：])\s*",
    re.IGNORECASE,
)
_FORM = re.compile(
    r"^\s*(?:\*\*)?(?:critique|a critique of the answer|revision request|new answer|the assistant's answer|"
    r"the principle that it is to follow|批评|对这个回答的批评|新的回答|助手的回答|回答应当遵守的原则)\s*[:：]",
    re.IGNORECASE | re.MULTILINE,
)
"""What begins a line only where the model goes on with the form of the prompt"""


@dataclass
class _Draft:
    question: Question
    first: str
    answer: str
    rounds: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def shown(self) -> dict[str, Any]:
        """What is known of it, for the account."""
        return {**self.question.origin(), "initial": self.first, "rounds": self.rounds}


def revise(work: Work, answers: Sequence[tuple[Question, dict[str, Any]]], account: Account) -> list[Instruction]:
    """A row for each question whose answer could be revised in all rounds; the others are dropped in the account."""
    drafts: list[_Draft] = []
    for question, answer in answers:
        if not answer["fits"]:
            account.drop(question.origin(), "prompt_too_long")
        elif not answer["text"].strip():
            account.drop(question.origin(), "empty_answer")
        else:
            drafts.append(_Draft(question, answer["text"].strip(), answer["text"].strip()))
    for turn in range(work.settings.rounds):
        drafts = _revised(work, _criticised(work, drafts, turn, account), turn, account)
    return [_row(draft) for draft in drafts]


def _criticised(work: Work, drafts: Sequence[_Draft], turn: int, account: Account) -> list[_Draft]:
    principles = {draft.question.id: work.principle(draft.question, "revise", turn) for draft in drafts}

    def measure(part: Sequence[_Draft]) -> list[dict[str, Any]]:
        asks = [
            work.ask(one.question, "critique", turn, answer=one.answer, principle=principles[one.question.id].text)
            for one in part
        ]
        return [spoken(said) for said in work.judge.say(asks)]

    kept: list[_Draft] = []
    said = work.in_phase(f"critique-{turn}", drafts, measure, "critiques")
    for draft, critique in zip(drafts, said, strict=True):
        principle, text = principles[draft.question.id], critique["text"].strip()
        if not critique["fits"]:
            account.drop(draft.shown(), "critique_too_long", turn)
        elif not text:
            account.drop(draft.shown(), "empty_critique", turn)
        else:
            entry = {"principle": principle.text, "place": principle.place, "answer": draft.answer, "critique": text}
            draft.rounds.append(entry | {"critique_whole": critique["whole"]})
            kept.append(draft)
    return kept


def _revised(work: Work, drafts: Sequence[_Draft], turn: int, account: Account) -> list[_Draft]:
    reviser: Speaker = work.judge if work.settings.reviser == "judge" or work.model is None else work.model

    def measure(part: Sequence[_Draft]) -> list[dict[str, Any]]:
        asks = [
            work.ask(
                one.question,
                "revise",
                turn,
                answer=one.answer,
                principle=one.rounds[-1]["principle"],
                critique=one.rounds[-1]["critique"],
            )
            for one in part
        ]
        return [spoken(said) for said in reviser.say(asks)]

    kept: list[_Draft] = []
    said = work.in_phase(f"revision-{turn}", drafts, measure, "revisions")
    for draft, revision in zip(drafts, said, strict=True):
        if not revision["fits"]:
            account.drop(draft.shown(), "revision_too_long", turn)
        elif not revision["text"].strip():
            account.drop(draft.shown(), "empty_revision", turn)
        elif not revision["whole"]:
            account.drop(draft.shown(), "unfinished", turn, detail=revision["text"][-100:])
        elif (text := parse_revision(revision["text"])) is None:
            account.drop(draft.shown(), "unparsable", turn, detail=revision["text"][:200])
        else:
            draft.answer = text
            kept.append(draft)
    return kept


def parse_revision(text: str) -> str | None:
    """The answer in what a reviser wrote: without a label before it; None where nothing is left of it, or where it goes
    on with the form of the prompt (another critique, another turn), so that it can't be told where the answer ends."""
    match = _LABEL.match(text)
    rest = text[match.end() :].strip() if match else text.strip()
    return None if not rest or _FORM.search(rest) or _LABEL.match(rest) else rest


def _row(draft: _Draft) -> Instruction:
    """The question with the last revision; `metadata` has the way to it."""
    question = draft.question
    unchanged = plain(draft.answer) == plain(draft.first)
    metadata = {**question.origin(), "initial": draft.first, "rounds": draft.rounds, "unchanged": unchanged}
    messages = [*question.messages, {"role": "assistant", "content": draft.answer}]
    # Only the revision is to be learned, not what the assistant said before in the conversation.
    messages = [
        {**one, "weight": 0} if one["role"] == "assistant" and place < len(messages) - 1 else one
        for place, one in enumerate(messages)
    ]
    return Instruction(messages, metadata, question.tools)


def figures(rows: Sequence[Instruction]) -> dict[str, Any]:
    """How much revising changed."""
    same = sum(bool(row.metadata["unchanged"]) for row in rows)
    principles: dict[str, int] = {}
    for row in rows:
        for turn in row.metadata["rounds"]:
            principles[turn["place"]] = principles.get(turn["place"], 0) + 1
    return {"unchanged": same, "principles": dict(sorted(principles.items(), key=lambda one: (-one[1], one[0])))}

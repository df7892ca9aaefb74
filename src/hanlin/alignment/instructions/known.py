"""Leaving out what the base model does not know: rows that teach a fact teach the model to state what it can't know.

Gekhman et al. 2024 ("Does Fine-Tuning LLMs on New Knowledge Encourage Hallucinations?") sort question-answer pairs by
how often the base model answers them rightly, P(correct), over several few-shot prompts, at temperature 0 and above it:

    highly known   P(correct, T = 0) = 1           maybe known   0 < P(correct, T = 0) < 1
    weakly known   P(correct, T = 0) = 0 and P(correct, T > 0) > 0      unknown   P(correct, T ≥ 0) = 0

`method: answers` measures just that. `method: likelihood` is for models that can't be asked (too small to follow
few-shot prompts) and costs no generation: it compares the answer with those of the most similar questions, by
ln p(answer | question) - ln p(answer | an empty question), which takes out how likely the answer is in any case
(Holtzman et al. 2021, section 3, domain-conditional PMI). Its measure is the share of these other answers that the
model finds less fitting: 1 for a fact that it knows well, ½ on average for one that it does not know.

Only answers that come from memory are judged: those of the kinds in `types` that are short enough to be right or
wrong. Refusals, answers to a given text, and long answers are not touched; they are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from hanlin.alignment.instructions.chance import number
from hanlin.alignment.instructions.datasets import check_type
from hanlin.alignment.instructions.task_types import type_of
from hanlin.alignment.instructions.text import count_units
from hanlin.artifacts import Settings

if TYPE_CHECKING:
    from hanlin.alignment.instructions.account import Account
    from hanlin.alignment.instructions.reader import Reader
    from hanlin.alignment.instructions.rows import Instruction

Category = Literal["highly known", "maybe known", "weakly known", "unknown"]
_WORDS = {"en": ("Question: ", "\nAnswer: "), "zh": ("问题：", "\n答案：")}
"""How a question is put to a base model, by its language."""
_NEIGHBOURS = 4
"""Times as many similar questions are looked at as alternatives are wanted: some have the same answer."""


class KnownSettings(Settings):
    """Drops rows whose answer `model` does not know (Gekhman et al. 2024)."""

    method: Literal["answers", "likelihood"] = "answers"
    """Ask the model, or compare how likely it finds the answer beside those of similar questions."""
    types: list[str] = Field(default_factory=lambda: ["open question"])
    """The kinds of task that are judged: those whose answers come from memory."""
    longest_answer: int = Field(default=30, ge=1)
    """Longest answer that is judged, in words (Chinese: signs); a longer one is hardly right or wrong as a whole."""
    few_shot: int = Field(default=4, ge=0, le=32)
    """Solved examples before the question, of other rows that are judged, in the same language."""
    prompts: int = Field(default=4, ge=1)
    """answers: how many draws of examples each question is asked with, greedily. (The paper: 10.)"""
    samples: int = Field(default=4, ge=0)
    """answers: samples for each of them at `temperature`. (The paper: 16.) 0: `weakly known` is not told apart."""
    temperature: float = Field(default=0.5, gt=0)
    """answers: of the samples."""
    drop: list[Category] = Field(default_factory=lambda: ["unknown"])
    """answers: the categories that are dropped."""
    alternatives: int = Field(default=16, ge=1)
    """likelihood: answers of similar questions with which the answer is compared."""
    least: float = Field(default=0.9, ge=0, le=1)
    """likelihood: rows are dropped whose answer fits better than fewer of the alternatives than this share. Of what the
    model does not know, about 1 - `least` passes by chance."""
    max_new_tokens: int = Field(default=64, ge=1)
    """answers: longest answer of the model."""

    @field_validator("types")
    @classmethod
    def _are_known(cls, value: list[str]) -> list[str]:
        for one in value:
            check_type(one)
        return value


@dataclass(frozen=True)
class Question:
    """A row as a question with its answer."""

    id: str
    text: str
    answer: str
    language: str


def judged(row: Instruction, settings: KnownSettings) -> Question | None:
    """The row as a question from memory; None for one that is not judged: several turns, tools, another kind, too
    long."""
    before, answer = row.last
    if row.turns != 1 or row.tools or type_of(row) not in settings.types:
        return None
    if not answer or count_units(answer) > settings.longest_answer:
        return None
    asked = [str(one["content"]) for one in before if one["role"] == "user"]
    return Question(row.id, asked[-1], answer, row.language) if len(asked) == 1 else None


class Knowledge:
    """Measures what a model knows of some questions. `pool` is where examples and alternatives are drawn from."""

    def __init__(self, reader: Reader, pool: Sequence[Question], settings: KnownSettings, seed: int) -> None:
        self.reader, self.settings, self.seed = reader, settings, seed
        self._by_language: dict[str, list[Question]] = {}
        for question in pool:
            self._by_language.setdefault(question.language, []).append(question)
        self._neighbours: dict[str, list[Question]] = {}

    def measure(self, questions: Sequence[Question]) -> list[dict[str, Any]]:
        """Of each question {category, greedy, sampled} (shares of right answers), or {share} of worse alternatives."""
        return self._by_answers(questions) if self.settings.method == "answers" else self._by_likelihood(questions)

    # ------------------------------------------------------------------ answers

    def _by_answers(self, questions: Sequence[Question]) -> list[dict[str, Any]]:
        from hanlin.inference.types import Request

        settings, model = self.settings, self.reader.model
        ends = [one for one in (model.tokenizer.end_of_text_id, model.tokenizer.end_of_turn_id) if one is not None]
        stop = () if self.reader.chat else ("\n",)
        room = model.config.max_positions - 1
        requests: list[Request] = []
        for question in questions:
            for draw in range(settings.prompts):
                ids = self._prompt(question, draw, question.text)[-room:]
                requests += [
                    Request(
                        prompt_ids=ids,
                        max_new_tokens=settings.max_new_tokens,
                        temperature=settings.temperature if sample else 0.0,
                        seed=number(self.seed, question.id, draw, sample),
                        stop_ids=ends,
                        stop=stop,
                    )
                    for sample in range(settings.samples + 1)
                ]
        answers = iter(model.engine.generate(requests))
        found: list[dict[str, Any]] = []
        for question in questions:
            greedy: list[bool] = []
            sampled: list[bool] = []
            for _ in range(settings.prompts):
                for sample in range(settings.samples + 1):
                    (sampled if sample else greedy).append(is_right(next(answers).text, question.answer))
            found.append(categorise(greedy, sampled))
        return found

    def _prompt(self, question: Question, draw: int, text: str) -> list[int]:
        """The tokens before the answer to `text`, behind one draw of the examples for `question`."""
        examples = self._examples(question, draw)
        if self.reader.chat:
            turns = [turn for one in examples for turn in (("user", one.text), ("assistant", one.answer))]
            turns.append(("user", text))
            return self.reader.prompt([{"role": role, "content": content} for role, content in turns])
        ask, reply = _WORDS.get(question.language, _WORDS["en"])
        shown = "".join(f"{ask}{one.text}{reply}{one.answer}\n\n" for one in examples)
        return self.reader.plain(f"{shown}{ask}{text}{reply.rstrip(' ')}")

    def _examples(self, question: Question, draw: int) -> list[Question]:
        """Other questions of the language, drawn by hash: no question is shown its own answer."""
        pool = self._by_language.get(question.language, [])
        if not pool or not self.settings.few_shot:
            return []
        chosen: list[Question] = []
        seen = {question.text}
        for turn in range(8 * self.settings.few_shot):
            one = pool[number(self.seed, question.id, draw, "example", turn) % len(pool)]
            if one.text not in seen and one.answer != question.answer:
                seen.add(one.text)
                chosen.append(one)
            if len(chosen) == self.settings.few_shot:
                break
        return chosen

    # ------------------------------------------------------------------ likelihood

    def _by_likelihood(self, questions: Sequence[Question]) -> list[dict[str, Any]]:
        encode = self.reader.model.tokenizer.encode
        pairs: list[tuple[list[int], list[int]]] = []
        counts: list[int] = []
        for question in questions:
            context, bare = self._prompt(question, 0, question.text), self._prompt(question, 0, "")
            space = "" if self.reader.chat or question.language == "zh" else " "
            answers = [question.answer, *self._alternatives(question)]
            ids = [encode(space + answer) for answer in answers]
            pairs += [(context, one) for one in ids] + [(bare, one) for one in ids]
            counts.append(len(answers))
        sums = iter([sum(one) for one in self.reader.logprobs(pairs)])
        found: list[dict[str, Any]] = []
        for count in counts:
            given = [next(sums) for _ in range(count)]
            bare_sums = [next(sums) for _ in range(count)]
            fits = [one - other for one, other in zip(given, bare_sums)]
            if count == 1:  # nothing to compare with
                found.append({"share": None, "alternatives": 0})
                continue
            worse = sum((fits[0] > other) + 0.5 * (fits[0] == other) for other in fits[1:])
            found.append({"share": worse / (count - 1), "alternatives": count - 1, "gain": fits[0]})
        return found

    def _alternatives(self, question: Question) -> list[str]:
        """Different answers of the most similar questions of the language."""
        found: list[str] = []
        for other in self._similar(question):
            if other.answer not in (question.answer, *found):
                found.append(other.answer)
            if len(found) == self.settings.alternatives:
                break
        return found

    def _similar(self, question: Question) -> list[Question]:
        if question.id not in self._neighbours:
            self._find_neighbours(question.language)
        return self._neighbours[question.id]

    def _find_neighbours(self, language: str) -> None:
        import numpy as np

        from hanlin.alignment.instructions.embedding import tfidf

        pool = self._by_language[language]
        vectors = tfidf([one.text for one in pool])
        count = min(len(pool), 1 + _NEIGHBOURS * self.settings.alternatives)
        for start in range(0, len(pool), 512):
            likeness = vectors[start : start + 512] @ vectors.T
            nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :count]
            for row, places in enumerate(nearest.tolist()):
                self._neighbours[pool[start + row].id] = [pool[place] for place in places if place != start + row]


def is_right(output: str, answer: str) -> bool:
    """Whether the answer stands in the output's first paragraph, at word boundaries and but for case, white space and
    closing punctuation."""
    from hanlin.evaluation.answers import matches
    from hanlin.evaluation.tasks import Task

    task = Task(name="known", kind="generate", match="contains")
    return matches(task, output.strip().split("\n\n")[0], [answer])


def categorise(greedy: Sequence[bool], sampled: Sequence[bool]) -> dict[str, Any]:
    """Gekhman et al. 2024, table 1, from the answers that were right at temperature 0 and above it."""
    certain = sum(greedy) / len(greedy)
    possible = sum(sampled) / len(sampled) if sampled else 0.0
    category: Category = "unknown"
    if certain == 1:
        category = "highly known"
    elif certain > 0:
        category = "maybe known"
    elif possible > 0:
        category = "weakly known"
    return {"category": category, "greedy": certain, "sampled": possible}


def keep_known(
    rows: Sequence[Instruction],
    questions: Sequence[Question | None],
    measured: Sequence[dict[str, Any]],
    settings: KnownSettings,
    account: Account,
) -> tuple[list[Instruction], dict[str, Any]]:
    """The rows that are known or not judged, and the table. `measured` has one entry for each question that is one."""
    values = iter(measured)
    kept: list[Instruction] = []
    categories: Counter[str] = Counter()
    for row, question in zip(rows, questions, strict=True):
        if question is None:
            categories["not judged"] += 1
            kept.append(row)
            continue
        value = next(values)
        row.measures["known"] = value
        if settings.method == "answers":
            categories[value["category"]] += 1
            if value["category"] in settings.drop:
                account.drop(row, "unknown", value["category"], ", ".join(settings.drop))
                continue
        elif value["share"] is None:
            categories["nothing to compare with"] += 1
        elif value["share"] < settings.least:
            categories["unknown"] += 1
            account.drop(row, "unknown", value["share"], settings.least)
            continue
        else:
            categories["known"] += 1
        kept.append(row)
    return kept, dict(categories.most_common())

"""What annotators are asked and what they answer: the bodies, with bounds on every field."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, StringConstraints, field_validator, model_validator

from hanlin.alignment.instructions.task_types import TYPES
from hanlin.artifacts import Settings
from hanlin.serving.feedback import MOST_MESSAGES, ChatMessage, Name, Reason, Text, check_prompt

Kind = Literal["pair", "ranking", "prompt"]
"""pair: which of two answers is better; ranking: several answers in order; prompt: write a prompt, or an answer."""
KINDS: tuple[Kind, ...] = get_args(Kind)
Style = Literal["free", "few-shot", "use-case"]
"""Prompts after Ouyang et al. (2022, section 3.2): free (any task), few-shot (an instruction with examples of it),
use-case (one that fits a use that people have told)."""
MOST_RESPONSES = 9
"""As many as Ouyang et al. let rank at once"""
Filled = Annotated[Text, StringConstraints(pattern=r"\S")]


def check_type(value: str | None) -> str | None:
    """One of the known task types. Raises ValueError."""
    if value is not None and value not in TYPES:
        raise ValueError(f"task_type should be one of {', '.join(TYPES)}")
    return value


class TaskResponse(Settings):
    """An answer that is judged."""

    content: Text
    """Its text."""
    model: Name | None = None
    """Who gave it; the annotator is not told."""


class PairAnswer(Settings):
    """Which of two answers is better."""

    kind: Literal["pair"] = "pair"
    chosen: Annotated[int, Field(ge=0, le=1)] | None
    """The better one; null: neither."""
    reason: Reason | None = None
    """Why."""


class RankingAnswer(Settings):
    """Answers in order."""

    kind: Literal["ranking"] = "ranking"
    ranks: Annotated[
        list[Annotated[int, Field(ge=1, le=MOST_RESPONSES)]], Field(min_length=2, max_length=MOST_RESPONSES)
    ]
    """The place of each answer, 1 for the best; equal ones share a place."""
    reason: Reason | None = None
    """Why."""


class Example(Settings):
    """One example of a few-shot prompt."""

    query: Filled
    """What is given."""
    response: Filled
    """What should come of it."""


class PromptAnswer(Settings):
    """A prompt with an answer to it, or an answer to a prompt that was given."""

    kind: Literal["prompt"] = "prompt"
    prompt: Filled | None = None
    """The prompt; of a few-shot one, the instruction. None where the task gives it."""
    examples: Annotated[list[Example], Field(min_length=2, max_length=32)] | None = None
    """Of a few-shot prompt: two or more. The last is what is learned, those before it are its context."""
    response: Filled | None = None
    """How an assistant should answer; of a few-shot prompt, the examples say it."""
    task_type: Annotated[str, StringConstraints(max_length=64)]
    """What sort of task it is: one of those that `next` lists."""

    _check_type = field_validator("task_type")(staticmethod(check_type))


Answer = Annotated[PairAnswer | RankingAnswer | PromptAnswer, Field(discriminator="kind")]


class Prelabel(Settings):
    """What a model says of a task. It counts for nothing until a person confirms it."""

    model: Name
    """Which model."""
    answer: Answer
    """Its answer."""


class Submission(Settings):
    """The body of `POST /v1/annotation/{id}`: exactly one of the three."""

    answer: Answer | None = None
    """The annotator's own."""
    confirm: Literal[True] | None = None
    """The model's pre-label is right."""
    skip: Annotated[str, StringConstraints(min_length=1, max_length=1000)] | None = None
    """The annotator can't say, and why; somebody else is asked."""

    @model_validator(mode="after")
    def _check(self) -> Submission:
        if sum(one is not None for one in (self.answer, self.confirm, self.skip)) != 1:
            raise ValueError("give exactly one of answer, confirm and skip")
        return self


class Task(Settings):
    """One thing to ask, as a line of a file that is imported."""

    kind: Kind
    """What is asked; all tasks of a project are of one kind."""
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)] | None = None
    """The conversation up to the answers. A prompt task that has one asks for the answer only."""
    responses: Annotated[list[TaskResponse], Field(max_length=MOST_RESPONSES)] | None = None
    """The answers to judge: two for a pair, two or more for a ranking, all different."""
    style: Style = "free"
    """Of a prompt task: what sort of prompt is wanted."""
    use_case: Text | None = None
    """Of a prompt task of that style: the use that the prompt should fit."""
    task_type: Annotated[str, StringConstraints(max_length=64)] | None = None
    """What sort of task it is; unless it is given it is found by rules, and of prompts the annotator says it."""
    prelabel: Prelabel | None = None
    """What a model says of it."""

    _check_type = field_validator("task_type")(staticmethod(check_type))

    @model_validator(mode="after")
    def _check(self) -> Task:
        if self.messages is not None:
            check_prompt(self.messages)
        texts = [response.content for response in self.responses or []]
        if self.kind == "prompt":
            if texts:
                raise ValueError("a prompt task has no responses")
            if (self.style == "use-case") != (self.use_case is not None):
                raise ValueError("use_case is for prompt tasks of the style use-case, and they need it")
        elif self.messages is None or len(texts) < 2 or (self.kind == "pair" and len(texts) != 2):
            raise ValueError(
                f"a {self.kind} needs messages and {'two' if self.kind == 'pair' else 'two or more'} responses"
            )
        elif len(set(texts)) < len(texts):
            raise ValueError("two of its responses are the same: there is nothing to judge")
        if self.prelabel is not None:
            check_answer(self, self.prelabel.answer)
        return self


def check_answer(task: Task, answer: PairAnswer | RankingAnswer | PromptAnswer) -> None:
    """Raise ValueError when `answer` does not answer `task`."""
    if answer.kind != task.kind:
        raise ValueError(f"the task is a {task.kind}, the answer is for a {answer.kind}")
    if isinstance(answer, RankingAnswer) and len(answer.ranks) != len(task.responses or []):
        raise ValueError(f"{len(answer.ranks)} ranks for {len(task.responses or [])} responses")
    if isinstance(answer, PromptAnswer):
        few_shot = task.style == "few-shot" and task.messages is None
        if (answer.prompt is None) != (task.messages is not None):
            raise ValueError("the task gives the prompt" if task.messages is not None else "prompt is missing")
        if few_shot != (answer.examples is not None) or few_shot == (answer.response is not None):
            wanted = "examples and no response" if few_shot else "a response and no examples"
            raise ValueError(f"the answer to this task should have {wanted}")

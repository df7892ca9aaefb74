"""What a task is: one YAML file that says where its items come from, how they are asked, and how they are marked."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from hanlin.artifacts import Settings, UsageError
from hanlin.artifacts.written import nearest, read_settings
from hanlin.evaluation import templates

Kind = Literal["choice", "generate", "bits_per_byte", "persistence"]
ARTIFACTS = ("world", "corpus", "feedback")
"""Kinds of artifact from which a task's items may come"""
RULES = ("upper-case", "prefix", "suffix", "quoted", "no-commas")
"""Instructions that `persistence` gives where the task does not say."""


class FewShot(Settings):
    """Solved examples shown before the question: the same ones, in the same order, for every item."""

    count: int = Field(ge=1, le=64)
    """How many examples."""
    file: str | None = None
    """JSONL file of the examples, in the folder of the task's data; none: drawn from the task's own items. An item is
    never among its own examples: the next one of the draw takes its place."""
    seed: int = Field(default=0, ge=0)
    """Which examples are drawn."""


class Normalise(Settings):
    """What is made equal before an answer is compared."""

    strip: bool = True
    """White space at both ends, and runs of it inside, count as one space."""
    casefold: bool = True
    """Letter case does not count."""
    punctuation: bool = True
    """Punctuation at the end does not count (. , ; : ! ? and 。，；：！？、 and closing quotes and brackets that stand
    alone)."""
    commas: bool = False
    """Commas between digits do not count (1,000 = 1000)."""


class Task(Settings):
    """One task of an exam."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?$")
    """How it is called in results, such as `world/facts`."""
    about: str = ""
    """One line for people: what it measures."""
    kind: Kind
    """`choice`: which of the choices the model finds likeliest. `generate`: the model answers, and the answer is
    compared. `bits_per_byte`: how well the model predicts held-out text. `persistence`: over how many turns of a
    dialogue an instruction that was given once is obeyed."""
    data: str | None = None
    """JSONL file of the items, relative to this YAML file. A task of the library that needs one is given it as
    NAME=PATH."""
    world: str | None = None
    """Name of an exam of the miniature world: its `exams/<name>.jsonl`."""
    corpus: Literal["validation", "cloze"] | None = None
    """From a corpus artifact: its held-out documents (bits_per_byte), or questions made from them (choice)."""
    feedback: Literal["pairs"] | None = None
    """From exported feedback: the pairs of answers that were held out, in its `exams/<name>.jsonl`."""
    prompt: str = "{{ prompt }}"
    """Template of the question over the item's fields."""
    plain: str | None = None
    """Template of the text that the model goes on from where no chat template is used; none: the `prompt`."""
    messages: str | None = None
    """Field that holds a whole conversation ([{role, content}…], the last one the user's); items without it use
    `prompt`. persistence: the user's turns of it are the script, where an item has no `turns`."""
    rules: tuple[str, ...] = RULES
    """persistence: the instructions, of: upper-case, lower-case, prefix, suffix, quoted, no-commas, answer-in-en,
    answer-in-zh. Each script is played under each."""
    place: Literal["system", "user"] = "system"
    """persistence: the instruction is the system message, or stands before the first question."""
    answer: str = "answer"
    """Expression for the right choice: its index from 0, or its text."""
    choices: str = "choices"
    """Expression for the list of choices."""
    contexts: str | None = None
    """Expression for a list of contexts, one a choice, where it is the text before a common continuation that
    differs."""
    continuation: str | None = None
    """Template of that common continuation."""
    answers: str = "answers"
    """Expression for the accepted answer, or the list of accepted answers, of a generate task."""
    shown: str | None = None
    """Template of what few-shot examples show as their answer; none: the right choice, or the first accepted answer."""
    delimiter: str = " "
    """Template of what stands between a question and a choice or a shown answer. Not used with a chat template."""
    separator: str = "\n\n"
    """Stands between few-shot examples. Not used with a chat template."""
    few_shot: FewShot | None = None
    """Solved examples before the question."""
    chat: bool | Literal["auto"] = "auto"
    """Ask through the model's chat template; `auto`: when the model has one."""
    max_new_tokens: int = Field(default=64, ge=1, le=8192)
    """A generated answer ends here at the latest."""
    stop: tuple[str, ...] = ()
    """Without a chat template, a generated answer ends before any of these strings (besides at the end of text). With
    one, the end of its turn is the end."""
    extract: str | None = None
    """Regular expression that finds the answer in what was generated (its first group, if it has one); none: all of
    it."""
    take: Literal["first", "last"] = "first"
    """Which match of `extract`."""
    match: Literal["exact", "prefix", "contains", "judge"] = "exact"
    """Whether the normalised output must equal an accepted answer, begin with it, or contain it (at word
    boundaries). `judge`: the miniature world's judge (`hanlin.world.judge`) gives each whole output a score from 0 to
    1; each item then needs a field `kind` (fact, sum, unknown or improper)."""
    refusals: bool = False
    """Also measure how often the model says that it does not know, or declines, and gives no answer (`refused`). Of
    questions that have an answer it is over-refusal. With `match: judge` that is measured anyway."""
    normalise: Normalise = Normalise()
    """What is made equal before comparing."""
    max_items: int | None = Field(default=None, ge=1)
    """At most this many items, drawn by a hash of their ids."""
    max_bytes: int | None = Field(default=500_000, ge=1)
    """bits_per_byte: at most this much text, shared evenly among the sources; null: all of it."""
    max_context: int = Field(default=2048, ge=8)
    """bits_per_byte: the longest context used, in tokens, if the model can take so much."""
    overlap: float = Field(default=0.25, ge=0, lt=1)
    """bits_per_byte: a document longer than the context is scored in windows; this share of each repeats the text
    before it, unscored, so that no token but a document's first ones is predicted from less."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured, the first one first in every table."""
        if self.kind == "choice":
            # Between contexts the continuation is the same, and so its length.
            return ("accuracy",) if self.contexts else ("accuracy", "accuracy_per_byte", "accuracy_per_token")
        if self.kind == "bits_per_byte":
            return ("bits_per_byte",)
        if self.kind == "persistence":
            return ("held", "last", "first", "chance")
        if self.match == "judge":
            return ("score", "accuracy", "refused_answerable", "complied", "invented")
        return ("accuracy", "refused") if self.refusals else ("accuracy",)

    @field_validator("prompt", "plain", "continuation", "shown", "delimiter")
    @classmethod
    def _is_template(cls, value: str | None) -> str | None:
        if value is not None:
            templates.check(value, expression=False)
        return value

    @field_validator("answer", "choices", "contexts", "answers")
    @classmethod
    def _is_expression(cls, value: str | None) -> str | None:
        if value is not None:
            templates.check(value, expression=True)
        return value

    @field_validator("rules")
    @classmethod
    def _are_rules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from hanlin.evaluation.constraints import CONSTRAINTS

        for name in value:
            if name not in CONSTRAINTS:
                raise ValueError(
                    f"there is no rule {name!r}{nearest(name, CONSTRAINTS)}. Known: {', '.join(CONSTRAINTS)}"
                )
        if not value or len(set(value)) < len(value):
            raise ValueError("name at least one rule, and none twice")
        return value

    @field_validator("extract")
    @classmethod
    def _is_pattern(cls, value: str | None) -> str | None:
        if value is not None:
            import regex

            try:
                regex.compile(value)
            except regex.error as error:
                raise ValueError(f"{value!r} is not a regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _fits(self) -> Task:
        if sum(bool(one) for one in (self.data, self.world, self.corpus, self.feedback)) > 1:
            raise ValueError("a task's items come from one of `data`, `world`, `corpus` and `feedback`")
        if (self.kind == "bits_per_byte") != (self.corpus == "validation"):
            raise ValueError("`kind: bits_per_byte` goes with `corpus: validation`, and neither without the other")
        if self.corpus == "cloze" and self.kind != "choice":
            raise ValueError("`corpus: cloze` makes choice questions: `kind: choice`")
        if (self.contexts is None) != (self.continuation is None):
            raise ValueError("`contexts` and `continuation` go together")
        if self.kind == "persistence" and self.few_shot is not None:
            raise ValueError("`kind: persistence` has no solved examples: leave out `few_shot`")
        if (self.match == "judge" or self.refusals) and self.kind != "generate":
            raise ValueError("`match: judge` and `refusals` mark what a model says: they go with `kind: generate`")
        if self.match == "judge" and (self.extract is not None or self.refusals):
            raise ValueError("`match: judge` marks the whole output: leave out `extract` and `refusals`")
        return self


LIBRARY = resources.files("hanlin.evaluation") / "library"


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task together with where its data was found to lie."""

    task: Task
    data: Path | None
    """The JSONL file (None: the world's, corpus's or feedback's, whose place is known when the exam is held)."""
    label: str
    """The file that describes the task, for messages."""

    @property
    def source(self) -> str:
        """The kind of artifact (`world`, `corpus`, `feedback`) that the items must yet be taken from; "" for none."""
        if self.data is not None:
            return ""
        return next((name for name in ARTIFACTS if getattr(self.task, name) is not None), "")


def library() -> list[str]:
    """Names of the tasks that come with hanlin."""
    return sorted(entry.name[:-5].replace(".", "/", 1) for entry in LIBRARY.iterdir() if entry.name.endswith(".yaml"))


def plan_task(spec: str, fallback: Path | None = None) -> PlannedTask:
    """The task that `spec` names: a name of the library, the path of a YAML file, or one of these followed by `=PATH`.

    PATH is the task's data: a JSONL file, or for a task on a world, a corpus or feedback that artifact's folder.
    `fallback` is the JSONL file of a task that has none of its own and was given none. Raises UsageError for a task or
    file that does not exist, HanlinError (file, line, key) for a malformed YAML file.
    """
    name, equals, given = spec.partition("=")
    path = Path(name)
    folder: Path | None = None
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(f"there is no task file {name}.")
        text, label, folder = path.read_text(encoding="utf-8"), name, path.parent
    else:
        entry = LIBRARY / f"{name.replace('/', '.')}.yaml"
        if not entry.is_file():
            raise UsageError(
                f"there is no task {name!r}{nearest(name, library())}. The library has: {', '.join(library())}; "
                "or give the path of a .yaml file."
            )
        text, label = entry.read_text(encoding="utf-8"), entry.name
    task = parse_task(text, label)
    if equals:
        data = Path(given).expanduser()
        if not data.exists():
            raise UsageError(f"{spec}: there is no file or folder {given}.")
        return PlannedTask(task, data, label)
    if task.data is not None:
        data = Path(task.data).expanduser()
        # What a task of the library comes with lies beside it.
        data = (folder or Path(str(LIBRARY))) / data
        if not data.is_file():
            raise UsageError(f"task {task.name}: there is no file {data}. Say where its items are: {name}=PATH.")
        return PlannedTask(task, data, label)
    if all(getattr(task, name) is None for name in ARTIFACTS):
        if fallback is not None and fallback.is_file():
            return PlannedTask(task, fallback, label)
        raise UsageError(f"task {task.name} needs a file of items ({task.about or 'JSONL'}): give it as {name}=PATH.")
    return PlannedTask(task, None, label)


def parse_task(text: str, label: str) -> Task:
    """A task from YAML text; `label` names the file in messages."""
    return read_settings(text, label, Task, "a task")

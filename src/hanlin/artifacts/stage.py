"""What a stage is: a function of (settings, input artifacts, seed) to one output artifact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from hanlin.artifacts.progress import Progress, Silent
from hanlin.artifacts.store import Artifact

POLICY_KINDS = ("pretrain", "sft", "preference", "rrhf", "ppo", "grpo", "rloo")
"""Kinds of stage that make a model which answers: what may be examined, trained further and talked to."""


class Settings(BaseModel):
    """Base of every settings model: unknown keys are refused, types are not coerced, fields are fixed once made.

    Every field has a docstring below it: `hanlin recipe schema` prints it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


S = TypeVar("S", bound=Settings)


@dataclass
class StageContext:
    """What a stage is given beside its settings."""

    workdir: Path
    """Where the artifact is built. It survives an interruption: what is found there was left by the same settings,
    inputs and seed, and may be continued. When the stage returns, the whole folder becomes the artifact."""
    inputs: dict[str, Artifact]
    """Input artifacts by the name of the setting that refers to them (`corpus`, `tokenizer`, `data`, `model`)."""
    seed: int = 0
    progress: Progress = field(default_factory=Silent)
    seconds_left: float | None = None
    """What is left of the recipe's `minutes` when a stage's settings are resolved; None: no limit was given."""
    later_seconds: float = 0.0
    """What beside it is kept free for the stages that train after this one."""
    later_bytes: float | None = None
    """The most text that they will read, each pass over it counted; None: not known."""


@dataclass(frozen=True)
class Stage(Generic[S]):
    """A kind of stage, as recipes know it."""

    kind: str
    settings: type[S]
    run: Callable[[S, StageContext], dict[str, Any]]
    """Builds the artifact in `context.workdir` and returns its figures (JSON-able numbers and small tables)."""
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Settings fields that name another stage (or the path of an artifact, or of a Hugging Face directory), each with
    the kinds accepted there. The artifact is handed over in `context.inputs` under the field's name; a field that is
    None is left out."""
    paths: tuple[str, ...] = ()
    """Settings fields that hold paths of the user's files: what is in the files counts (`fingerprint`), not where."""
    fingerprint: Callable[[S], Any] | None = None
    """What of the outside world (input files) the result depends on; it goes into the artifact's id."""
    looks: dict[str, Callable[[S], None]] = field(default_factory=dict[str, Callable[[S], None]])
    """For some of `paths`: a quick look at the files, which raises HanlinError when they are of another kind than the
    stage reads. It is taken before anything is made, when the stage's own turn may be hours away."""
    resolve: Callable[[S, StageContext], S] | None = None
    """Replaces every `auto` by a number before the stage runs, by measuring the machine if need be. It is called once:
    the answer is kept in the run's directory and in its recipe.yaml, so that a run that is resumed or repeated does
    the same. What it leaves in its `context.workdir` is there when `run` begins on those settings."""
    settle: Callable[[S, dict[str, Any]], S] | None = None
    """From the settings and the figures of work that is done: the settings with which it is the same work again, for a
    stage that decided one of them on the way (how many steps fitted the time). The artifact is known by them."""
    reads: Callable[[S, dict[str, Artifact]], float | None] | None = None
    """The most bytes of text that a stage that trains will read, each pass counted, from its settings and those of its
    inputs that are made already; None where it can't be known. What a small stage leaves of its time goes to others."""
    version: int = 1
    """Raised when the same settings begin to give another result."""
    transient: tuple[str, ...] = ()
    """Folders of `workdir` that serve resuming only (checkpoints) and are no part of the artifact."""
    journal: tuple[str, ...] = ()
    """Files that tell how the work went (speeds, times), and so differ between runs that make the same thing. They are
    kept and hashed, but are no part of the artifact's content."""
    trains: bool = False
    """True for a stage that makes a model: a recipe must then have an exam for it."""
    examines_itself: bool = False
    """True for one that makes a model which answers no questions, and whose figures are its exam: `gates` among them,
    each {task, text, passed, …}, stop the run as an exam's do."""

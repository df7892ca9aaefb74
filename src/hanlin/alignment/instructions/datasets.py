"""Labelled data sets as instructions: one YAML file a set says where its rows are and how they are asked.

As in FLAN (Wei et al. 2022) and PromptSource (Bach et al. 2022) a task has several templates; which of them a row is
put into depends on the row and the seed alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from hanlin.alignment.instructions.task_types import TYPES
from hanlin.artifacts import Settings, UsageError
from hanlin.artifacts.written import nearest, read_settings
from hanlin.evaluation import templates

LIBRARY = resources.files("hanlin.alignment.instructions") / "library"


class PromptTemplate(Settings):
    """One way to ask."""

    name: str = Field(min_length=1)
    """How it is called in the rows' metadata."""
    prompt: str
    """Template of what the user says, over the row's fields."""
    answer: str
    """Template of what the assistant answers."""
    system: str | None = None
    """Template of a system message before it."""
    type: str | None = None
    """The kind of task that the instruction is, where it is not that of the set."""

    @field_validator("prompt", "answer", "system")
    @classmethod
    def _is_template(cls, value: str | None) -> str | None:
        if value is not None:
            templates.check(value, expression=False)
        return value

    @field_validator("type")
    @classmethod
    def _is_known(cls, value: str | None) -> str | None:
        return check_type(value)


class Labels(Settings):
    """The field that holds a class, and what the classes are called."""

    field: str = "label"
    """The row's field."""
    names: list[str] | dict[str, str] = Field(min_length=2)
    """Names in the order of the numbers 0, 1, …, or each value's name. A row with another value is dropped. Templates
    have the row's as `label_name`, and all as `label_names`."""


class LabelledSet(Settings):
    """One labelled data set."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """How it is called in results."""
    about: str = ""
    """One line for people."""
    language: str | None = None
    """ISO 639-1 code of what the templates ask in; left out: found row by row."""
    type: str
    """The kind of task that it is."""
    data: str | list[str] | None = None
    """Its file or files, relative to this YAML file. A set of the library is given them as NAME=PATH."""
    splits: dict[str, list[str]] = Field(default_factory=lambda: {"train": ["*train*"]})
    """Of a folder: which of its files are which split, as patterns of their names."""
    format: Literal["auto", "tsv"] = "auto"
    """tsv: cells between tabs, with no quotes; auto: JSON, JSON lines, CSV, parquet or arrow, by looking at it."""
    columns: list[str] | None = None
    """tsv: the names of the columns where the file has no header."""
    fields: dict[str, str] = Field(default_factory=dict)
    """More fields, as expressions over the row's own (`answers.text[0]`)."""
    where: str | None = None
    """Expression; a row for which it is false is dropped."""
    labels: Labels | None = None
    """The class of a row, and its name."""
    templates: list[PromptTemplate] = Field(min_length=1)
    """The ways to ask."""

    @field_validator("type")
    @classmethod
    def _is_known(cls, value: str) -> str:
        return check_type(value) or value

    @field_validator("where")
    @classmethod
    def _is_expression(cls, value: str | None) -> str | None:
        if value is not None:
            templates.check(value, expression=True)
        return value

    @field_validator("fields")
    @classmethod
    def _are_expressions(cls, value: dict[str, str]) -> dict[str, str]:
        for expression in value.values():
            templates.check(expression, expression=True)
        return value

    @model_validator(mode="after")
    def _fits(self) -> LabelledSet:
        if self.columns is not None and self.format != "tsv":
            raise ValueError("`columns` names the columns of a `format: tsv` file; other files name their own")
        names = [template.name for template in self.templates]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two templates are called {twice!r}")
        return self


@dataclass(frozen=True)
class PlannedSet:
    """A set with its files."""

    set: LabelledSet
    files: list[Path]


def check_type(value: str | None) -> str | None:
    """`value`, if it is None or one of TYPES. Raises ValueError otherwise."""
    if value is not None and value not in TYPES:
        raise ValueError(f"{value!r} is no kind of task{nearest(value, TYPES)}. Known: {', '.join(TYPES)}")
    return value


def library() -> list[str]:
    """Names of the sets that come with hanlin."""
    return sorted(entry.name[:-5] for entry in LIBRARY.iterdir() if entry.name.endswith(".yaml"))


def plan_set(spec: str, split: str = "train") -> PlannedSet:
    """The set that `spec` names: a name of the library or the path of a YAML file, either followed by `=PATH`.

    PATH is a file, or a folder of which the files of `split` are taken. Raises UsageError for a set or file that does
    not exist, HanlinError (file, line, key) for a malformed YAML file.
    """
    name, equals, given = spec.partition("=")
    found, folder = _load(name)
    if equals:
        roots = [Path(given).expanduser()]
    else:
        data = [found.data] if isinstance(found.data, str) else found.data or []
        if folder is None or not data:
            raise UsageError(f"the set {found.name} needs its files ({found.about or 'rows'}): give {name}=PATH.")
        roots = [folder / Path(one).expanduser() for one in data]
    files: list[Path] = []
    for root in roots:
        if not root.exists():
            raise UsageError(f"the set {found.name}: there is no file or folder {root}.")
        files += [root] if root.is_file() else _of_split(found, root, split)
    return PlannedSet(found, files)


def _of_split(found: LabelledSet, folder: Path, split: str) -> list[Path]:
    patterns = found.splits.get(split)
    if patterns is None:
        raise UsageError(f"the set {found.name} has no split {split!r}. Its splits: {', '.join(found.splits)}.")
    matched = {path for pattern in patterns for path in folder.rglob(pattern)}
    files = sorted(path for path in matched if path.is_file() and not path.name.startswith("."))
    if not files:
        seen = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise UsageError(
            f"the set {found.name}: no file in {folder} is called {' or '.join(patterns)} (split {split}). It holds "
            f"{seen}. Name the file itself, or say in a YAML file which files are which split: "
            f"splits: {{{split}: [PATTERN]}}."
        )
    return files


def _load(name: str) -> tuple[LabelledSet, Path | None]:
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(f"there is no file {name} that describes a set.")
        return parse_set(path.read_text(encoding="utf-8"), name), path.parent
    entry = LIBRARY / f"{name}.yaml"
    if not entry.is_file():
        raise UsageError(
            f"there is no labelled set {name!r}{nearest(name, library())}. The library has: {', '.join(library())}; "
            "or give the path of a .yaml file."
        )
    return parse_set(entry.read_text(encoding="utf-8"), entry.name), None


def parse_set(text: str, label: str) -> LabelledSet:
    """A set from YAML text; `label` names the file in messages."""
    return read_settings(text, label, LabelledSet, "a labelled set")

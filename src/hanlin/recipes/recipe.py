"""A recipe: its YAML file, what the command line changes in it, and the checks before anything runs."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hanlin.artifacts import HanlinError, Settings, Stage, UsageError
from hanlin.recipes.registry import get_stage, nearest

TOP_KEYS = ("name", "about", "seed", "minutes", "stages", "exam")
RESERVED = ("kind", "when", "seed")


@dataclass(frozen=True)
class Step:
    """One stage of a recipe, checked: what will run, and on what."""

    name: str
    stage: Stage[Any]
    settings: Settings
    seed: int
    inputs: dict[str, str]
    """Settings field → name of the recipe's stage that it refers to."""
    outside: dict[str, Path]
    """Settings field → path of an artifact or model directory that the recipe did not make."""


@dataclass
class Recipe:
    """A recipe as written, with the command line's changes laid over it."""

    name: str
    about: str
    seed: int
    minutes: float | None
    stages: dict[str, dict[str, Any]]
    exam: dict[str, dict[str, Any]]
    origin: dict[str, str] = field(default_factory=dict)
    """Dotted key → where its value came from ("world.yaml:12", "command line", "measured")."""

    def where(self, key: str) -> str:
        """Where the value of a dotted key, or of the nearest key above it, came from."""
        while key:
            if key in self.origin:
                return self.origin[key]
            key = key.rpartition(".")[0]
        return "default"

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain data, in the form of its YAML file."""
        return {
            "name": self.name,
            "about": self.about,
            "seed": self.seed,
            "minutes": self.minutes,
            "stages": copy.deepcopy(self.stages),
            "exam": copy.deepcopy(self.exam),
        }

    def active(self) -> dict[str, dict[str, Any]]:
        """The stages that take part: one whose `when: KEY` names a setting that is not given is left out."""
        return {name: body for name, body in self.stages.items() if not ("when" in body and not body.get(body["when"]))}

    def set(self, key: str, value: Any, origin: str) -> None:
        """Set a dotted key. Raises UsageError for a key that no recipe or stage has."""
        first, _, rest = key.partition(".")
        if first == "stages":
            return self.set(rest, value, origin)
        if not rest:
            if first not in ("seed", "minutes", "name", "about"):
                known = [*self.stages, "seed", "minutes"]
                raise UsageError(
                    f"{key}: the recipe {self.name!r} has no such key{nearest(first, known)}. "
                    f"Keys: {', '.join(known)}; a stage's setting is written STAGE.KEY=VALUE."
                )
            setattr(self, first, value)
            self.origin[first] = origin
            return None
        if first == "exam":
            target: dict[str, Any] = self.exam
        elif first in self.stages:
            target = self.stages[first]
        else:
            raise UsageError(
                f"{key}: no stage {first!r}{nearest(first, self.stages)}. Stages: {', '.join(self.stages)}."
            )
        *path, last = rest.split(".")
        for part in path:
            inner = target.get(part)
            if not isinstance(inner, dict):
                inner = target[part] = {}
            target = inner
        target[last] = value
        self.origin[("exam." if first == "exam" else f"stages.{first}.") + rest] = origin
        return None


def load_recipe(name_or_file: str, assignments: Sequence[str] = ()) -> Recipe:
    """Read a recipe from the library by name, or from a file, and lay `key=value` assignments over it.

    Raises UsageError for a recipe or key that does not exist, HanlinError (file, line) for one that is malformed.
    """
    text, label = _read(name_or_file)
    recipe = _parse(text, label)
    for assignment in assignments:
        key, equals, raw = assignment.partition("=")
        if not equals or not key:
            raise UsageError(
                f"{assignment!r} is not an assignment: write key=value, such as seed=2 or corpus.inputs=texts."
            )
        recipe.set(key, parse_value(raw), "command line")
    _check_top(recipe, label)
    return recipe


def library() -> list[str]:
    """Names of the recipes that come with hanlin."""
    folder = resources.files("hanlin.recipes") / "library"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def parse_value(raw: str) -> Any:
    """The value of `key=value`: YAML for numbers, booleans, null, [lists] and {maps}; anything else is text."""
    try:
        value = yaml.safe_load(raw) if raw else ""
    except yaml.YAMLError:
        return raw
    if isinstance(value, dict):
        return value if raw.lstrip().startswith("{") else raw
    return value if isinstance(value, str | int | float | bool | list | None) else raw


def steps(recipe: Recipe) -> list[Step]:
    """The stages in the order in which they run, each exam right after the stage it examines; everything is checked.

    Raises HanlinError naming file and line for unknown keys, wrong types, unknown stages, cycles, and a training stage
    without an exam.
    """
    bodies = _with_exams(recipe)
    made = {name: _step(recipe, name, body, bodies) for name, body in bodies.items()}
    ordered: list[Step] = []
    state: dict[str, str] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if state.get(name) == "done":
            return
        if state.get(name) == "open":
            raise HanlinError(f"the recipe's stages form a circle: {' → '.join([*trail, name])}.")
        state[name] = "open"
        for other in made[name].inputs.values():
            visit(other, (*trail, name))
        state[name] = "done"
        ordered.append(made[name])

    for name in made:
        visit(name, ())
    return ordered


def _read(name_or_file: str) -> tuple[str, str]:
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml") or "/" in name_or_file:
        if not path.is_file():
            raise UsageError(f"there is no recipe file {name_or_file}.")
        return path.read_text(encoding="utf-8"), name_or_file
    entry = resources.files("hanlin.recipes") / "library" / f"{name_or_file}.yaml"
    if not entry.is_file():
        raise UsageError(
            f"there is no recipe {name_or_file!r}{nearest(name_or_file, library())}. "
            f"The library has: {', '.join(library())}; or give the path of a .yaml file."
        )
    return entry.read_text(encoding="utf-8"), f"{name_or_file}.yaml"


def _parse(text: str, label: str) -> Recipe:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise HanlinError(f"{label}{line}: not valid YAML: {getattr(error, 'problem', None) or error}.") from None
    if not isinstance(data, dict) or not isinstance(node, yaml.MappingNode):
        raise HanlinError(f"{label}: a recipe is a mapping with the keys {', '.join(TOP_KEYS)}.")
    origin: dict[str, str] = {}
    _walk(node, "", label, origin)
    for key in data:
        if key not in TOP_KEYS:
            raise HanlinError(f"{origin[key]}: unknown key {key!r}{nearest(str(key), TOP_KEYS)}.")
    name = data.get("name")
    if not isinstance(name, str) or not name:
        raise HanlinError(f"{label}: a recipe needs a `name:`.")
    stages = data.get("stages")
    if not isinstance(stages, dict) or not stages or not all(isinstance(body, dict) for body in stages.values()):
        raise HanlinError(f"{origin.get('stages', label)}: `stages:` maps each stage's name to its kind and settings.")
    exam = data.get("exam") or {}
    if not isinstance(exam, dict):
        raise HanlinError(f"{origin['exam']}: `exam:` maps each training stage's name to its tasks and gates.")
    return Recipe(
        name=name,
        about=str(data.get("about") or ""),
        seed=data.get("seed", 0),
        minutes=data.get("minutes"),
        stages=stages,
        exam=exam,
        origin=origin,
    )


def _walk(node: yaml.Node, prefix: str, label: str, origin: dict[str, str]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        name = str(key.value)
        line = key.start_mark.line + 1
        if name in seen:
            raise HanlinError(f"{label}:{line}: the key {name!r} stands twice.")
        seen.add(name)
        path = f"{prefix}{name}"
        origin[path] = f"{label}:{line}"
        _walk(value, f"{path}.", label, origin)


def _check_top(recipe: Recipe, label: str) -> None:
    if not isinstance(recipe.seed, int) or isinstance(recipe.seed, bool) or not 0 <= recipe.seed < 2**63:
        raise UsageError(f"{recipe.where('seed')}: seed must be a whole number from 0, not {recipe.seed!r}.")
    if recipe.minutes is not None and (
        isinstance(recipe.minutes, bool) or not isinstance(recipe.minutes, int | float) or not recipe.minutes > 0
    ):
        raise UsageError(f"{recipe.where('minutes')}: minutes must be a number above 0, not {recipe.minutes!r}.")
    if not recipe.exam:
        raise HanlinError(
            f"{label}: the recipe has no `exam:`. A stage that trains must be examined: add, for example,\n"
            f"exam:\n  {next(iter(recipe.stages))}:\n    tasks: [corpus/bits-per-byte]"
        )


def _with_exams(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The active stages, and for each training stage an exam stage `<name>-exam` made from the recipe's `exam:`."""
    active = recipe.active()
    for name in recipe.exam:
        if name not in recipe.stages:
            raise HanlinError(
                f"{recipe.where('exam.' + name)}: `exam:` names {name!r}, which is no stage"
                f"{nearest(name, recipe.stages)}."
            )
    bodies: dict[str, dict[str, Any]] = {}
    for name, body in active.items():
        kind = body.get("kind")
        if not isinstance(kind, str):
            raise HanlinError(f"{recipe.where('stages.' + name)}: the stage {name!r} has no `kind:`.")
        bodies[name] = body
        if not get_stage(kind).trains:
            continue
        if name not in recipe.exam:
            raise HanlinError(
                f"{recipe.where('stages.' + name)}: the stage {name!r} trains a model, but `exam:` has no entry "
                f"for it. Add one, such as\nexam:\n  {name}:\n    tasks: [corpus/bits-per-byte]"
            )
        plan = dict(recipe.exam[name])
        parent = body.get("model")
        if isinstance(parent, str) and "before" not in plan and (parent in active or Path(parent).is_dir()):
            plan["before"] = parent
        for role in ("world", "corpus"):
            made = [other for other, settings in active.items() if settings.get("kind") == role]
            if role not in plan and made:
                plan[role] = made[0]
        bodies[f"{name}-exam"] = {"kind": "exam", "model": name, **plan}
    return bodies


def _step(recipe: Recipe, name: str, body: dict[str, Any], bodies: dict[str, dict[str, Any]]) -> Step:
    stage = get_stage(body["kind"])
    own = {key: value for key, value in body.items() if key not in RESERVED}
    exam_of = name.removesuffix("-exam") if stage.kind == "exam" and name not in recipe.stages else None
    prefix = f"exam.{exam_of}" if exam_of else f"stages.{name}"
    try:
        settings = stage.settings.model_validate_json(json.dumps(own))
    except (ValidationError, TypeError) as error:
        raise HanlinError(_explain(error, recipe, prefix, stage)) from None
    inputs: dict[str, str] = {}
    outside: dict[str, Path] = {}
    for key, kinds in stage.inputs.items():
        value = getattr(settings, key)
        if value is None:
            continue
        at = f"{recipe.where(f'{prefix}.{key}')}: {prefix}.{key}"
        if value in bodies:
            if bodies[value]["kind"] not in kinds:
                raise HanlinError(
                    f"{at}: {value!r} is a stage of kind {bodies[value]['kind']}, not {' or '.join(kinds)}."
                )
            inputs[key] = value
        elif Path(value).is_dir():
            outside[key] = Path(value)
        else:
            fitting = [other for other, settings_ in bodies.items() if settings_["kind"] in kinds]
            raise HanlinError(
                f"{at}: {value!r} is neither a stage of this recipe nor a folder{nearest(value, bodies)}. "
                f"It takes a stage of kind {' or '.join(kinds)}" + (f": {', '.join(fitting)}." if fitting else ".")
            )
    return Step(name, stage, settings, int(body.get("seed", recipe.seed)), inputs, outside)


def _explain(error: ValidationError | TypeError, recipe: Recipe, prefix: str, stage: Stage[Any]) -> str:
    """Pydantic's findings as lines a person can act on: where, key, what, nearest known key."""
    if isinstance(error, TypeError):
        return f"{recipe.where(prefix)}: {prefix}: {error}"
    lines: list[str] = []
    for finding in error.errors():
        path = [str(part) for part in finding["loc"]]
        key = ".".join([prefix, *path])
        if finding["type"] == "extra_forbidden":
            known = _fields(stage.settings, path[:-1])
            what = f"unknown key{nearest(path[-1], known)}. Known here: {', '.join(known)}"
        elif finding["type"] == "missing":
            what = f"is required: give it in the recipe, or as {key.removeprefix('stages.')}=VALUE"
        else:
            what = f"{finding['msg'].removeprefix('Value error, ')} (it is {finding.get('input')!r})"
        lines.append(f"{recipe.where(key)}: {key.removeprefix('stages.')}: {what}.")
    return "\n".join(dict.fromkeys(lines))


def _fields(model: Any, path: list[str]) -> list[str]:
    """Names of the fields at a path inside a settings model (through Optional and union types)."""
    for part in path:
        if not (isinstance(model, type) and issubclass(model, Settings)) or part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next((one for one in options if isinstance(one, type) and issubclass(one, Settings)), model)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, Settings) else []

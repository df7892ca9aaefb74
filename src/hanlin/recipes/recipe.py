"""A recipe: its YAML file, what the command line changes in it, and the checks before anything runs."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hanlin.artifacts import HanlinError, Settings, Stage, UsageError
from hanlin.artifacts.written import findings, nearest, parse_value, read_mapping
from hanlin.recipes.registry import KINDS, get_stage
from hanlin.recipes.schema import with_absolute_files

TOP_KEYS = ("name", "about", "seed", "minutes", "stages", "exam")
RESERVED = ("kind", "when", "seed")
COMMAND_LINE = "command line"


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

    def places(self, key: str) -> str:
        """As `where`; what the command line changed below the key counts as well."""
        where = self.where(key)
        below = any(at == COMMAND_LINE and other.startswith(f"{key}.") for other, at in self.origin.items())
        if not below or where == COMMAND_LINE:
            return where
        return f"{where} and {COMMAND_LINE}" if key in self.origin else COMMAND_LINE

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
        """The stages that take part: one whose `when: KEY` names a setting that is not given, or a stage that is left
        out, is left out."""
        active = dict(self.stages)
        while True:
            out = [name for name, body in active.items() if "when" in body and not _given(body, self.stages, active)]
            if not out:
                return active
            for name in out:
                del active[name]

    def set(self, key: str, value: Any, origin: str) -> None:
        """Set a dotted key. Raises UsageError for a key that no recipe or stage has."""
        first, _, rest = key.partition(".")
        if first == "stages" and rest:
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
        whole = ("exam." if first == "exam" else f"stages.{first}.") + rest
        for other in [other for other in self.origin if other.startswith(f"{whole}.")]:
            del self.origin[other]
        self._remember(whole, value, origin)
        return None

    def _remember(self, key: str, value: Any, origin: str) -> None:
        self.origin[key] = origin
        if isinstance(value, dict):
            for name, inner in value.items():
                self._remember(f"{key}.{name}", inner, origin)


def _given(body: dict[str, Any], stages: dict[str, Any], active: dict[str, Any]) -> bool:
    """Whether a stage's `when` holds, as far as it is known which stages take part."""
    value = body.get(body["when"])
    return bool(value) and not (isinstance(value, str) and value in stages and value not in active)


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
        recipe.set(key, raw if key in ("name", "about") else parse_value(raw), COMMAND_LINE)
    _check_top(recipe, label)
    return recipe


def library() -> list[str]:
    """Names of the recipes that come with hanlin."""
    folder = resources.files("hanlin.recipes") / "library"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


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
    written = read_mapping(text, label, f"a recipe is a mapping with the keys {', '.join(TOP_KEYS)}")
    data, origin = written.data, written.places()
    for key in data:
        if key not in TOP_KEYS:
            raise HanlinError(f"{origin[key]}: unknown key {key!r}{nearest(str(key), TOP_KEYS)}.")
    name = data.get("name")
    if not isinstance(name, str) or not name:
        raise HanlinError(f"{label}: a recipe needs a `name:`.")
    stages = data.get("stages")
    if not stages or not _has_names(stages) or not all(isinstance(body, dict) for body in stages.values()):
        raise HanlinError(f"{origin.get('stages', label)}: `stages:` maps each stage's name to its kind and settings.")
    exam = data.get("exam") or {}
    if not _has_names(exam):
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


def _has_names(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _fault(recipe: Recipe, *found: tuple[str, str]) -> HanlinError:
    """The error for (dotted key, what is wrong with it) pairs, with where each value came from.

    It is the request that was wrong (UsageError) when the command line gave one of them.
    """
    placed = [(recipe.places(key), message) for key, message in found]
    given = any(place.endswith(COMMAND_LINE) for place, _ in placed)
    return (UsageError if given else HanlinError)("\n".join(f"{place}: {message}" for place, message in placed))


def _check_seed(recipe: Recipe, key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        shown = key.removeprefix("stages.")
        raise _fault(recipe, (key, f"{shown} must be a whole number from 0, not {value!r}."))
    return value


def _check_top(recipe: Recipe, label: str) -> None:
    if not recipe.name:
        raise _fault(recipe, ("name", "a recipe needs a name."))
    _check_seed(recipe, "seed", recipe.seed)
    if recipe.minutes is not None and (
        isinstance(recipe.minutes, bool) or not isinstance(recipe.minutes, int | float) or not recipe.minutes > 0
    ):
        raise _fault(recipe, ("minutes", f"minutes must be a number above 0, not {recipe.minutes!r}."))
    if recipe.exam:
        return
    for name, body in recipe.stages.items():
        # Whether it takes part in this run or not.
        if _is_examined(body):
            raise HanlinError(
                f"{label}: the recipe has no `exam:`. A stage that trains must be examined: add, for example,\n"
                f"exam:\n  {name}:\n    tasks: [corpus/bits-per-byte]"
            )


def _is_examined(body: dict[str, Any]) -> bool:
    """Whether a stage's model must be examined by an exam of the recipe's."""
    kind = body.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        return False
    stage = get_stage(kind)
    return stage.trains and not stage.examines_itself


def _with_exams(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The active stages, and for each training stage an exam stage `<name>-exam` made from the recipe's `exam:`."""
    for name, body in recipe.stages.items():
        if not isinstance(body.get("when", ""), str):
            raise _fault(recipe, (f"stages.{name}.when", f"{name}.when names one setting, not {body['when']!r}."))
    active = recipe.active()
    for name, plan in recipe.exam.items():
        _check_plan(recipe, name, plan)
    bodies: dict[str, dict[str, Any]] = {}
    for name, body in active.items():
        kind, key = body.get("kind"), f"stages.{name}.kind"
        if not isinstance(kind, str):
            raise _fault(recipe, (key, f"the stage {name!r} has no `kind:`."))
        try:
            stage = get_stage(kind)
        except HanlinError as error:
            raise _fault(recipe, (key, f"{name}.kind: {error}")) from None
        bodies[name] = body
        if stage.examines_itself and name in recipe.exam:
            message = f"the stage {name!r} of kind {kind} examines itself: its gates are settings of its own."
            raise _fault(recipe, (f"exam.{name}", f"exam.{name}: {message} Leave this out."))
        if not _is_examined(body):
            continue
        if name not in recipe.exam:
            message = (
                f"the stage {name!r} trains a model, but `exam:` has no entry for it. Add one, such as\n"
                f"exam:\n  {name}:\n    tasks: [corpus/bits-per-byte]"
            )
            raise HanlinError(f"{recipe.where('stages.' + name)}: {message}")
        plan = dict(recipe.exam[name])
        parent = body.get("start", body.get("model"))
        if isinstance(parent, str) and "before" not in plan and (parent in active or Path(parent).is_dir()):
            plan["before"] = parent
        for role in ("world", "corpus", "feedback"):
            made = [other for other, settings in active.items() if settings.get("kind") == role]
            if role not in plan and made:
                plan[role] = made[0]
        bodies[f"{name}-exam"] = {"kind": "exam", "model": name, **plan}
    return bodies


def _check_plan(recipe: Recipe, name: str, plan: Any) -> None:
    key = f"exam.{name}"
    if name not in recipe.stages:
        raise _fault(recipe, (key, f"`exam:` names {name!r}, which is no stage{nearest(name, recipe.stages)}."))
    if not _has_names(plan):
        tasks = plan if isinstance(plan, list) else [plan or "corpus/bits-per-byte"]
        example = f"{{tasks: [{', '.join(map(str, tasks))}]}}"
        message = f"`exam.{name}:` maps to tasks and gates, not {plan!r}. Write `{name}: {example}`."
        raise _fault(recipe, (key, message))
    for word in ("kind", "when"):
        if word in plan:
            raise _fault(recipe, (f"{key}.{word}", f"{key}.{word}: unknown key: an exam has none. Leave it out."))


def _step(recipe: Recipe, name: str, body: dict[str, Any], bodies: dict[str, dict[str, Any]]) -> Step:
    stage = get_stage(body["kind"])
    own = {key: value for key, value in body.items() if key not in RESERVED}
    exam_of = name.removesuffix("-exam") if stage.kind == "exam" and name not in recipe.stages else None
    prefix = f"exam.{exam_of}" if exam_of else f"stages.{name}"
    shown = prefix.removeprefix("stages.")
    try:
        settings = stage.settings.model_validate_json(json.dumps(with_absolute_files(stage.kind, own)))
    except (TypeError, HanlinError) as error:
        raise _fault(recipe, (prefix, f"{shown}: {str(error).rstrip('.')}.")) from None
    except ValidationError as error:
        found = findings(
            error, stage.settings, lambda key: f"is required: give it in the recipe, or as {shown}.{key}=VALUE"
        )
        wrong = [(f".{key}" if key else "", what) for key, what in found]
        raise _fault(recipe, *((f"{prefix}{key}", f"{shown}{key}: {what}.") for key, what in wrong)) from None
    inputs: dict[str, str] = {}
    outside: dict[str, Path] = {}
    for key, kinds in stage.inputs.items():
        value = getattr(settings, key)
        if value is None:
            continue
        if value in bodies:
            if bodies[value]["kind"] not in kinds:
                what = f"{value!r} is a stage of kind {bodies[value]['kind']}, not {' or '.join(kinds)}."
                raise _fault(recipe, (f"{prefix}.{key}", f"{shown}.{key}: {what}"))
            inputs[key] = value
        elif Path(value).is_dir():
            outside[key] = Path(value)
        elif value in recipe.stages:
            # It has a `when`, or it would be among the stages that take part.
            needed = f"{value}.{recipe.stages[value]['when']}"
            what = (
                f"the stage {value!r} is left out, because {needed} is not given. Give {needed}, or a directory here."
            )
            raise _fault(recipe, (f"{prefix}.{key}", f"{shown}.{key}: {what}"))
        else:
            fitting = [other for other, settings_ in bodies.items() if settings_["kind"] in kinds]
            what = (
                f"{value!r} is neither a stage of this recipe nor a folder{nearest(value, bodies)}. "
                f"It takes a stage of kind {' or '.join(kinds)}" + (f": {', '.join(fitting)}." if fitting else ".")
            )
            raise _fault(recipe, (f"{prefix}.{key}", f"{shown}.{key}: {what}"))
    seed = _check_seed(recipe, f"{prefix}.seed", body.get("seed", recipe.seed))
    return Step(name, stage, settings, seed, inputs, outside)

"""The settings of a stage: described for people, what is wrong with those that were given, the files they name."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined

from hanlin.artifacts import Settings, Stage
from hanlin.recipes.registry import nearest


def describe(stage: Stage[Any]) -> str:
    """A stage kind's settings as indented text: key, type, default, meaning."""
    lines = [f"kind: {stage.kind}"]
    if stage.settings.__doc__:
        lines.append(textwrap.indent(textwrap.dedent(stage.settings.__doc__).strip(), "  "))
    _describe(stage.settings, stage, 1, lines)
    return "\n".join(lines) + "\n"


def findings(error: ValidationError, model: type[Settings], prefix: str) -> list[tuple[str, str]]:
    """What pydantic found wrong with settings of `model`: (dotted key, what is wrong and what to do), each key once.

    `prefix` is the dotted key of the settings themselves. Where a value may be one of several types, pydantic reports
    what each of them says against it: that is one finding, or, when a part of the value is to blame, the part's.
    """
    wrong: dict[tuple[str, ...], list[ErrorDetails]] = {}
    refused_whole: set[tuple[str, ...]] = set()
    for finding in error.errors():
        path, _, by_member = _follow(model, finding["loc"])
        wrong.setdefault(path, []).append(finding)
        if by_member:
            refused_whole.add(path)
    found: list[tuple[str, str]] = []
    for path, reasons in wrong.items():
        if path in refused_whole and any(other != path and other[: len(path)] == path for other in wrong):
            continue
        key = ".".join((prefix, *path))
        found.append((key, _reason(reasons, model, key)))
    return found


def with_absolute_files(kind: str, own: dict[str, Any]) -> dict[str, Any]:
    """Settings whose lists hold files beside names (an exam's tasks, labelled sets, a tokenizer's references,
    principles), the files absolute.

    `Stage.paths` can't say which is which, and the run's recipe.yaml must be the same run from every folder.
    """
    makers = {
        "exam": ("tasks", _task),
        "instructions": ("sets", _task),
        "tokenizer": ("references", _absolute),
        "constitution": ("principles", _absolute),
    }
    key, make = makers.get(kind, ("", _absolute))
    values = own.get(key)
    if not isinstance(values, list):
        return own
    return {**own, key: [make(value) if isinstance(value, str) else value for value in values]}


def _task(spec: str) -> str:
    """A task as NAME or NAME=PATH, where NAME is the library's or a task file."""
    name, equals, data = spec.partition("=")
    file = _absolute(name) if name.endswith((".yaml", ".yml")) else name
    # In a folder with = in its name the absolute path would be read as NAME=PATH.
    return (name if "=" in file else file) + equals + _absolute(data)


def _absolute(text: str) -> str:
    """The path of what is there, else the text. Links are kept: a file's neighbours are sought beside the link."""
    path = Path(text)
    return str(path.absolute()) if text and path.exists() else text


def _reason(reasons: list[ErrorDetails], model: type[Settings], key: str) -> str:
    # A value that has the form of one type and fails its check is meant to be that type.
    reasons = [reason for reason in reasons if reason["type"] == "value_error"] or reasons
    first = reasons[0]
    if first["type"] == "extra_forbidden":
        _, members, _ = _follow(model, first["loc"][:-1])
        known = [name for one in members if _is_settings(one) for name in one.model_fields]
        return f"unknown key{nearest(str(first['loc'][-1]), known)}. Known here: {', '.join(known)}"
    if first["type"] == "missing":
        return f"is required: give it in the recipe, or as {key.removeprefix('stages.')}=VALUE"
    said = list(dict.fromkeys(reason["msg"].removeprefix("Value error, ") for reason in reasons))
    what = " or ".join([said[0], *(other.removeprefix("Input should be ") for other in said[1:])])
    # A check of several settings together is given all of them: printing that would bury what it says.
    together = first["type"] == "value_error" and isinstance(first["input"], dict)
    return what if together else f"{what} (it is {first['input']!r})"


def _follow(model: type[Settings], location: Sequence[str | int]) -> tuple[tuple[str, ...], list[Any], bool]:
    """A pydantic location as the user's path, the types that may stand there, and whether one of several refused it.

    After a field of several types pydantic puts the name it has for the type (`list[str]`, `function-after[…]`) into
    the location, which no user has written.
    """
    path: list[str] = []
    members: list[Any] = [model]
    several = named = False
    for part in location:
        if several:
            several, named = False, True
            continue
        path.append(str(part))
        inside = [annotation for one in members for annotation in _inside(one, part)]
        several, named = any(len(_members(annotation)) > 1 for annotation in inside), False
        members = [member for annotation in inside for member in _members(annotation)]
    return tuple(path), members, named


def _members(annotation: Any) -> list[Any]:
    """The types of a union but None; of anything else itself."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for one in get_args(annotation) if one is not type(None) for member in _members(one)]
    return [annotation]


def _inside(kind: Any, part: str | int) -> list[Any]:
    """The type of a value's part: a model's field, an element of a list or map; empty where there is none."""
    if _is_settings(kind):
        field = kind.model_fields.get(str(part))
        return [field.annotation] if field else []
    arguments = [one for one in get_args(kind) if one is not Ellipsis]
    return arguments[-1:] if get_origin(kind) in (list, dict, tuple, set, frozenset) else []


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def _describe(model: type[Settings], stage: Stage[Any] | None, depth: int, lines: list[str]) -> None:
    indent = "  " * depth
    for name, field in model.model_fields.items():
        kind = _type_name(field.annotation)
        if stage and name in stage.inputs:
            kind = f"a stage of kind {' or '.join(stage.inputs[name])}"
        if field.default is not PydanticUndefined:
            kind += f", default {_default(field.default)}"
        elif field.default_factory is None:
            kind += ", required"
        lines.append(f"{indent}{name}: {kind}")
        if field.description:
            text = " ".join(field.description.split())
            lines += textwrap.wrap(
                text, 110 - len(indent), initial_indent=indent + "    ", subsequent_indent=indent + "    "
            )
        inner = _nested(field.annotation)
        if inner:
            _describe(inner, None, depth + 2, lines)


def _nested(annotation: Any) -> type[Settings] | None:
    for one in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(one, type) and issubclass(one, Settings):
            return one
    return None


def _type_name(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if getattr(annotation, "__origin__", None) is not None and str(annotation).startswith("typing.Literal"):
        return " | ".join(json.dumps(value) for value in annotation.__args__)
    arguments = getattr(annotation, "__args__", None)
    if arguments and (
        "UnionType" in type(annotation).__name__ or "Union" in str(getattr(annotation, "__origin__", ""))
    ):
        return " | ".join(_type_name(one) for one in arguments)
    if arguments:
        return str(annotation).replace("typing.", "")
    return getattr(annotation, "__name__", str(annotation))


def _default(value: Any) -> str:
    if isinstance(value, Settings):
        return "as below"
    return json.dumps(value, ensure_ascii=False, default=str)

"""The settings of a stage: described for people, and the files they name."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from hanlin.artifacts import Settings, Stage


def describe(stage: Stage[Any]) -> str:
    """A stage kind's settings as indented text: key, type, default, meaning."""
    lines = [f"kind: {stage.kind}"]
    if stage.settings.__doc__:
        lines.append(textwrap.indent(textwrap.dedent(stage.settings.__doc__).strip(), "  "))
    _describe(stage.settings, stage, 1, lines)
    return "\n".join(lines) + "\n"


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

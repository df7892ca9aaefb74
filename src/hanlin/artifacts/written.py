"""Settings as people write them: YAML with the line of every key, and what is wrong with it said in the user's words.

Recipes, tasks and labelled sets are all read by this. It is not among what `hanlin.artifacts` exports: whoever reads no
file does not wait for yaml.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hanlin.artifacts.errors import HanlinError
from hanlin.artifacts.stage import Settings

S = TypeVar("S", bound=Settings)


class Loader(yaml.SafeLoader):
    """YAML as people write settings: `1e-3` is a number (YAML 1.1 wants `1.0e-3`), and a date is text."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


@dataclass(frozen=True)
class Written:
    """A mapping from a YAML file."""

    data: dict[str, Any]
    label: str
    """The file, for messages"""
    lines: dict[str, int]
    """Dotted key (of a list's element: its number from 0) → the line that it stands in, from 1"""

    def places(self) -> dict[str, str]:
        """`lines` as `file:line`."""
        return {key: f"{self.label}:{line}" for key, line in self.lines.items()}

    def where(self, key: str) -> str:
        """`file:line` of a dotted key, or of the nearest above it that is written; of "", the file's first line."""
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return f"{self.label}:{self.lines.get(key, 1)}"


def read_mapping(text: str, label: str, meant: str) -> Written:
    """The mapping of a YAML text. Raises HanlinError, with file and line, for what is no YAML, for a key that stands
    twice, and for what is no mapping, which `meant` then explains ("a recipe is a mapping with the keys …")."""
    try:
        node = yaml.compose(text, Loader=Loader)
        data: Any = yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise HanlinError(f"{label}{line}: not valid YAML: {getattr(error, 'problem', None) or error}.") from None
    if not isinstance(data, dict) or not isinstance(node, yaml.MappingNode):
        raise HanlinError(f"{label}: {meant}.")
    lines: dict[str, int] = {}
    _walk(node, "", label, lines)
    return Written(data, label, lines)


def read_settings(text: str, label: str, model: type[S], name: str) -> S:
    """Settings from YAML text; `name` is what they are called ("a task"). Raises HanlinError naming file, line and key
    for everything that is wrong with them."""
    written = read_mapping(text, label, f"{name} is a mapping with the keys {', '.join(model.model_fields)}")
    try:
        return model.model_validate_json(json.dumps(written.data, default=str))
    except ValidationError as error:
        wrong = findings(error, model)
        lines = [f"{written.where(key)}: {key}: {what}." if key else f"{label}:1: {what}." for key, what in wrong]
        raise HanlinError("\n".join(lines)) from None


def parse_value(raw: str) -> Any:
    """The value of `key=value`: YAML for numbers, booleans, null, [lists] and {maps}; anything else is text.

    Nothing of it is a comment: `my dir #1` is the name of a folder.
    """
    try:
        node = yaml.compose(raw, Loader=Loader)
        value = yaml.load(raw, Loader=Loader)
    except (yaml.YAMLError, ValueError):
        return raw
    if node is None or (isinstance(node, yaml.ScalarNode) and node.end_mark.index < len(raw.rstrip())):
        return raw
    if isinstance(value, dict):
        return value if raw.lstrip().startswith("{") else raw
    return value if isinstance(value, str | int | float | bool | list | None) else raw


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when a known word is close to `word`, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.55)
    return f"; did you mean {close[0]!r}?" if close else ""


def findings(
    error: ValidationError, model: type[Settings], missing: Callable[[str], str] = lambda key: "is required"
) -> list[tuple[str, str]]:
    """What pydantic found wrong with settings of `model`: (dotted key, what is wrong and what to do), each key once.

    The key is "" for what is wrong with several settings together; `missing` says what to do about a key that has to be
    there. Where a value may be one of several types, pydantic
    reports what each of them says against it: that is one finding, or, when a part of the value is to blame, the
    part's.
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
        key = ".".join(path)
        found.append((key, missing(key) if reasons[0]["type"] == "missing" else _reason(reasons, model)))
    return found


def _walk(node: yaml.Node, prefix: str, label: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            lines[f"{prefix}{place}"] = value.start_mark.line + 1
            _walk(value, f"{prefix}{place}.", label, lines)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in seen:
            raise HanlinError(f"{label}:{line}: the key {name!r} stands twice.")
        seen.add(name)
        lines[f"{prefix}{name}"] = line
        _walk(value, f"{prefix}{name}.", label, lines)


def _reason(reasons: list[ErrorDetails], model: type[Settings]) -> str:
    # A value that has the form of one type and fails its check is meant to be that type.
    reasons = [reason for reason in reasons if reason["type"] == "value_error"] or reasons
    first = reasons[0]
    if first["type"] == "extra_forbidden":
        _, members, _ = _follow(model, first["loc"][:-1])
        known = [name for one in members if _is_settings(one) for name in one.model_fields]
        return f"unknown key{nearest(str(first['loc'][-1]), known)}. Known here: {', '.join(known)}"
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

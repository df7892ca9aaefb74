"""Small, strict templates over an item's fields: a prompt is a template, a field mapping is an expression."""

from __future__ import annotations

from functools import cache
from typing import Any

import jinja2
import jinja2.sandbox
from markupsafe import Markup

from hanlin.artifacts import HanlinError

FILTERS = (
    "trim",
    "lower",
    "upper",
    "title",
    "first",
    "last",
    "length",
    "join",
    "replace",
    "list",
    "int",
    "string",
    "round",
)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """No globals, a dozen filters, and `range` nowhere: nothing here can run long or reach outside the item."""

    def __init__(self) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)
        known: dict[str, Any] = self.filters
        self.filters = {name: known[name] for name in FILTERS}
        self.globals = {}


@cache
def _environment() -> _Environment:
    return _Environment()


@cache
def _template(source: str) -> jinja2.Template:
    return _environment().from_string(source)


@cache
def _expression(source: str) -> Any:
    return _environment().compile_expression(source, undefined_to_none=False)


def check(source: str, expression: bool) -> None:
    """Raise ValueError when `source` is no template (or expression)."""
    try:
        _expression(source) if expression else _template(source)
    except jinja2.TemplateError as error:
        what = "an expression" if expression else "a template"
        raise ValueError(f"{source!r} is not {what}: {error.message}") from None


def render(source: str, fields: dict[str, Any], where: str) -> str:
    """The template `source` filled from `fields`. Raises HanlinError naming `where` (task and item) for an unknown
    field."""
    try:
        return _template(source).render(fields)
    except (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        AttributeError,
        KeyError,
        IndexError,
        ZeroDivisionError,
    ) as error:
        raise HanlinError(_explain(source, error, fields, where)) from None


def evaluate(source: str, fields: dict[str, Any], where: str) -> Any:
    """The value of the expression `source` (`gold`, `answer.split("####")[-1]`). Raises HanlinError as `render`
    does."""
    try:
        value = _expression(source)(fields)
        if isinstance(value, jinja2.Undefined):
            str(value)  # a strict undefined raises here, naming the field
    except (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        AttributeError,
        KeyError,
        IndexError,
        ZeroDivisionError,
    ) as error:
        raise HanlinError(_explain(source, error, fields, where)) from None
    return str(value) if isinstance(value, Markup) else value


def _explain(source: str, error: Exception, fields: dict[str, Any], where: str) -> str:
    return f"{where}: {source!r} can't be filled: {error}. The item's fields are {', '.join(sorted(fields)) or 'none'}."

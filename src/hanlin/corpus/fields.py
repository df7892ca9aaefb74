"""Which fields of an object (JSON, or a row of a table) make the document's text.

The rule, where the settings name no fields:

1. The first field of `BODY` that the object has makes the text. Names match in any case.
2. `text` is taken as complete. Before any other body, `author` and `title`, where they are strings, go as lines of
   their own, title first: {"title": "靜夜思", "author": "李白", "paragraphs": ["床前明月光，", "疑是地上霜。"]} is
   "靜夜思\\n李白\\n床前明月光，\\n疑是地上霜。".
3. A list is one line an entry; an entry that is an object is read by this same rule.
4. An object with none of the fields has no text, and is quarantined with the names of the fields that it has.

Where the settings name fields (`text_fields`), those that are there are joined in that order, a line each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

BODY = (
    "text",
    "content",
    "contents",
    "body",
    "markdown",
    "article",
    "document",
    "paragraphs",
    "passage",
    "raw_content",
    "code",
)
HEADING = ("title", "author")
KEPT = ("id", "title", "author", "url", "date", "timestamp", "language", "lang", "license", "source", "path")
LONGEST_KEPT = 512
LONGEST_METADATA = 4_096


class NoTextError(ValueError):
    """The object has no text by the rule of this module."""


def _value(value: Any, depth: int = 0) -> str | None:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list) and depth < 8:
        lines: list[str] = []
        for entry in cast(list[Any], value):
            if isinstance(entry, dict):
                line: str | None = object_text(cast(dict[str, Any], entry), None, depth + 1)
            else:
                line = _value(entry, depth + 1)
            if line is None:
                return None
            lines.append(line)
        return "\n".join(lines)
    return None


def text_names(names: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """Of an object's or a table's field names, those that can make the text: the body first, then the headings.

    Raises NoTextError when there is no body among them.
    """
    if wanted is not None:
        chosen = [name for name in wanted if name in names]
    else:
        folded = {name.casefold(): name for name in reversed(names)}
        bodies = [folded[name] for name in BODY if name in folded]
        headings = [folded[name] for name in HEADING if name in folded]
        chosen = bodies[:1] + (headings if bodies and bodies[0].casefold() != "text" else [])
    if not chosen:
        asked = f"none of the fields {', '.join(wanted)}" if wanted else "no text field"
        listed = ", ".join(list(names)[:20]) or "none"
        raise NoTextError(f"{asked} (fields: {listed}); name the fields that hold text in corpus.text_fields")
    return chosen


def object_text(value: dict[str, Any], wanted: Sequence[str] | None, depth: int = 0) -> str:
    """The text of an object, by the rule of this module. Raises NoTextError."""
    names = text_names(list(value), wanted)
    if wanted is None:
        names = [name for name in names[1:] if isinstance(value[name], str) and value[name]] + names[:1]
    parts: list[str] = []
    for name in names:
        part = _value(value[name], depth)
        if part is None:
            raise NoTextError(f"field {name} holds a {type(value[name]).__name__}, not text")
        parts.append(part)
    return "\n".join(parts)


def any_text(value: Any, wanted: Sequence[str] | None) -> str:
    """The text of a JSON value: an object by the rule, or a string as it is. Raises NoTextError."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return object_text(cast(dict[str, Any], value), wanted)
    raise NoTextError(f"a {type(value).__name__}, where an object with text or a string was expected")


def kept_metadata(value: Any) -> dict[str, Any]:
    """What is carried along of an object beside its text: a few well-known fields where they are short and simple, and
    its own
    `metadata` object where that is small."""
    if not isinstance(value, dict):
        return {}
    fields, found = cast(dict[str, Any], value), dict[str, Any]()
    for name in KEPT:
        entry = fields.get(name)
        if isinstance(entry, bool | int) or (isinstance(entry, str) and 0 < len(entry) <= LONGEST_KEPT):
            found[name] = entry
    about = fields.get("metadata")
    if isinstance(about, dict) and about and len(json.dumps(about, default=str)) <= LONGEST_METADATA:
        found["metadata"] = json.loads(json.dumps(about, default=str))
    return found

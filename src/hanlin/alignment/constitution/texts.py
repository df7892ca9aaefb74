"""What a model is asked: templates in text files, those that come with hanlin or the user's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from hanlin.artifacts import HanlinError, UsageError
from hanlin.evaluation import templates

FIELDS = {
    "critique": ("conversation", "answer", "principle"),
    "revise": ("conversation", "answer", "principle", "critique"),
    "choose": ("conversation", "first", "second", "principle"),
    "rate": ("conversation", "answer", "principle", "lowest", "highest"),
}
"""What each template is given. Without one of these a model would be asked for something else, but `revise` may leave
out the principle."""
NAMES = tuple(f"{name}{ending}" for name in FIELDS for ending in ("", "-zh"))
_FOLDER = resources.files("hanlin.alignment.constitution") / "prompts"
_SPEAKERS = {
    "en": {"system": "System: ", "user": "Person: ", "assistant": "Assistant: ", "tool": "Tool: "},
    "zh": {"system": "系统：", "user": "用户：", "assistant": "助手：", "tool": "工具："},
}


def own_files(folder: str | None) -> dict[str, Path]:
    """The user's templates by their names. Raises UsageError for a folder with none of them."""
    if folder is None:
        return {}
    root = Path(folder).expanduser()
    found = {name: root / f"{name}.txt" for name in NAMES if (root / f"{name}.txt").is_file()}
    if not found:
        raise UsageError(f"the folder {folder} replaces no prompt: it has none of {', '.join(NAMES)} (.txt).")
    return found


class Texts:
    """The templates of one run."""

    def __init__(self, folder: str | None = None) -> None:
        """`folder` may have files that replace some. Raises HanlinError for one that does not show what it must."""
        own = own_files(folder)
        self._sources: dict[str, str] = {}
        for name in NAMES:
            source = own[name].read_text(encoding="utf-8") if name in own else _read(name)
            self._sources[name] = source.removesuffix("\n")
            _check(name, self._sources[name], str(own.get(name, f"{name}.txt")))

    def fill(self, name: str, language: str, **fields: Any) -> str:
        """A template in a language, filled in."""
        name = f"{name}-zh" if language == "zh" else name
        return templates.render(self._sources[name], fields, f"{name}.txt")


def as_text(messages: Sequence[Mapping[str, Any]], language: str) -> str:
    """A conversation as a judge is shown it."""
    names = _SPEAKERS[language]
    return "\n\n".join(names[str(one["role"])] + said(one) for one in messages)


def said(message: Mapping[str, Any]) -> str:
    """What a message says, its tool calls as JSON."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls") or []]
    return "\n".join([*([message["content"]] if message["content"] else []), *calls])


def _read(name: str) -> str:
    return (_FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def _check(name: str, source: str, where: str) -> None:
    kind = name.removesuffix("-zh")
    try:
        templates.check(source, expression=False)
    except ValueError as error:
        raise HanlinError(f"{where}: {error}.") from None
    marks = {field: f"\x02{field}\x03" for field in FIELDS[kind]}
    shown = templates.render(source, marks, where)
    for field, mark in marks.items():
        if mark not in shown and (kind, field) != ("revise", "principle"):
            raise HanlinError(f"{where} does not show the {field}: write {{{{ {field} }}}} where it should stand.")

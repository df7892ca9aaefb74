"""Rows of a labelled set put into its templates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hanlin.alignment.instructions.account import Account
from hanlin.alignment.instructions.chance import number
from hanlin.alignment.instructions.datasets import LabelledSet, PlannedSet, PromptTemplate
from hanlin.alignment.instructions.rows import Instruction
from hanlin.artifacts import HanlinError
from hanlin.corpus.stream import ByteStream
from hanlin.data.rows import BadRow, Row, read_rows
from hanlin.evaluation import templates


def read_set(
    planned: PlannedSet, account: Account, seed: int, per_row: int, most_rows: int | None
) -> list[Instruction]:
    """Instructions of the set's rows, each put into `per_row` of its templates (all, when it has fewer).

    Of more than `most_rows` rows those with the smallest hashes are taken, so that a larger number holds a smaller.
    What can't be used is dropped in the account: one entry a row of the data. Raises HanlinError when nothing can.
    """
    described = planned.set
    usable: list[tuple[Row, dict[str, Any]]] = []
    first = ""
    for file in planned.files:
        for row in _rows(described, file):
            account.enter(described.name)
            place = {"set": described.name, "file": row.file, "row": row.number, "line": row.line}
            if isinstance(row, BadRow):
                account.drop(place, "unreadable", detail=row.reason)
                first = first or row.reason
                continue
            try:
                fields = _fields(described, row)
            except _Dropped as dropped:
                account.drop({**place, "fields": row.value}, dropped.reason, detail=str(dropped))
                first = first or str(dropped)
                continue
            usable.append((row, fields))
    if most_rows is not None and len(usable) > most_rows:
        ranked = sorted(
            range(len(usable)), key=lambda index: number(seed, described.name, repr(usable[index][0].value))
        )
        chosen = set(ranked[:most_rows])
        for index, (row, _) in enumerate(usable):
            if index not in chosen:
                place = {"set": described.name, "file": row.file, "row": row.number, "line": row.line}
                account.drop(place, "most_rows", len(usable), most_rows)
        usable = [pair for index, pair in enumerate(usable) if index in chosen]
    made = [one for row, fields in usable for one in _render(described, row, fields, account, seed, per_row)]
    if not made:
        files = ", ".join(map(str, planned.files))
        raise HanlinError(f"the set {described.name} makes no instruction of {files}; the first row: {first or 'none'}")
    return made


_LONGEST_LINE = 1 << 30


class _Dropped(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def _fields(described: LabelledSet, row: Row) -> dict[str, Any]:
    """What the templates see. Raises _Dropped for a row that the set leaves out, or that does not fit."""
    where = f"{row.file}, row {row.number}: set {described.name}"
    fields = dict(row.value)
    try:
        for name, expression in described.fields.items():
            fields[name] = templates.evaluate(expression, fields, where)
        if described.where is not None and not templates.evaluate(described.where, fields, where):
            raise _Dropped("where", f"`where: {described.where}` is false")
    except HanlinError as error:
        raise _Dropped("fields", str(error)) from None
    if described.labels is not None:
        names, value = described.labels.names, fields.get(described.labels.field)
        table = names if isinstance(names, dict) else {str(index): name for index, name in enumerate(names)}
        spelled = str(int(value)) if isinstance(value, bool | float) and value == int(value) else str(value)
        if spelled not in table:
            known = ", ".join(table)
            raise _Dropped("label", f"`{described.labels.field}` is {value!r}, which is no class ({known})")
        fields |= {"label_name": table[spelled], "label_names": list(dict.fromkeys(table.values()))}
    return fields


def _render(
    described: LabelledSet, row: Row, fields: dict[str, Any], account: Account, seed: int, per_row: int
) -> Iterator[Instruction]:
    said = repr(row.value)
    ordered = sorted(described.templates, key=lambda one: number(seed, described.name, one.name, said))
    for turn, template in enumerate(ordered[:per_row]):
        if turn:  # the row itself came in when it was read
            account.enter(described.name)
        where = f"{row.file}, row {row.number}: set {described.name}, template {template.name}"
        place = {"set": described.name, "template": template.name, "file": row.file, "row": row.number}
        try:
            messages = _messages(template, fields, where)
        except HanlinError as error:
            account.drop({**place, "fields": row.value}, "template", detail=str(error))
            continue
        if broken := next((one for one in messages if not _encodes(one["content"])), None):
            account.drop({**place, "role": broken["role"], "fields": row.value}, "surrogate")
            continue
        if not messages[-1]["content"] or not messages[-2]["content"]:
            account.drop({**place, "messages": messages}, "empty", 0, 1)
            continue
        metadata: dict[str, Any] = {"source": described.name, "template": template.name, "file": row.file}
        metadata |= {"row": row.number, "line": row.line, "type": template.type or described.type}
        if described.language is not None:
            metadata["language"] = described.language
        yield Instruction(messages, metadata, own_text=_text(row.value))


def _messages(template: PromptTemplate, fields: dict[str, Any], where: str) -> list[dict[str, Any]]:
    parts = [("system", template.system), ("user", template.prompt), ("assistant", template.answer)]
    return [
        {"role": role, "content": templates.render(source, fields, where).strip()}
        for role, source in parts
        if source is not None
    ]


def _encodes(text: str) -> bool:
    """False for a text with half a surrogate pair, which UTF-8 can't hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: Any) -> str:
    """All texts of a row, one a line: what it says, whatever the template."""
    if isinstance(value, dict):
        return "\n".join(filter(None, map(_text, value.values())))
    if isinstance(value, list):
        return "\n".join(filter(None, map(_text, value)))
    return value if isinstance(value, str) else ""


def _rows(described: LabelledSet, file: Path) -> Iterator[Row | BadRow]:
    if described.format == "auto":
        yield from read_rows(file)[1]
        return
    names, count, line = described.columns, 0, 0
    with ByteStream(file) as stream:
        while raw := stream.readline(_LONGEST_LINE):
            line += 1
            raw = (raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw).rstrip(b"\r\n")
            if not raw:
                continue
            try:
                cells = raw.decode().split("\t")
            except UnicodeDecodeError as error:
                count += 1
                yield BadRow(file.name, count, line, f"not UTF-8 at byte {error.start} of the line")
                continue
            if names is None:
                names = [name.strip() for name in cells]
                continue
            count += 1
            if len(cells) == len(names):
                yield Row(dict(zip(names, cells)), file.name, count, line)
            else:
                yield BadRow(file.name, count, line, f"{len(cells)} cells where {len(names)} are named")
        if stream.damage is not None:
            yield BadRow(file.name, count + 1, None, f"{stream.damage}; nothing after it can be read")

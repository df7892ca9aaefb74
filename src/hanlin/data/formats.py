"""Instruction data read as it is: Alpaca, ShareGPT, OpenAI messages, prompt/completion, plain text.

What a row is, is found by looking at its keys (`detect`), row by row: a file may mix them. A row that can't be
understood is quarantined with its place and the reason, and counted; it never stops the reading. So is a file of a
folder in which there is no such row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from hanlin.data.messages import (
    RowError,
    check_answered,
    parse_messages,
    parse_tools,
    text_of,
    untrained_answers,
    with_system,
)
from hanlin.data.rows import BadRow, Row, UnknownFormError, data_files, read_rows
from hanlin.tokenization import Conversation, Message

INSTRUCTION_FORMS = {
    "alpaca": "instruction, output (and input, system, history)",
    "sharegpt": "conversations: a list of {from, value} (and system, tools)",
    "messages": "messages: a list of {role, content} (and tools)",
    "prompt-completion": "prompt and completion (or response), each text or a list of messages",
    "text": "text, trained on whole",
}
PREFERENCE_FORMS = {
    "preference": "chosen and rejected, each text or a list of messages (and prompt, margin)",
    "sharegpt-preference": "conversations, chosen, rejected (and system, tools)",
    "hh-rlhf": 'chosen and rejected, each a transcript of "\\n\\nHuman:" and "\\n\\nAssistant:" turns',
    "kto": "prompt and completion, or messages, with a true/false label",
    "ranked": "query (or prompt), responses and their scores",
}
_GIVE_UP = 100
"""Rows that can't be used, with none of a known form before, after which a file is refused."""


@dataclass
class PlainText:
    """A row of text that is trained on whole."""

    text: str
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class ReadReport:
    """What was read. `rows` = `read` + len(`quarantined`), always."""

    files: dict[str, str] = field(default_factory=dict[str, str])
    """Each file's container ("JSON lines, gzip"), or "left out" for one that is quarantined whole"""
    forms: Counter[str] = field(default_factory=Counter[str])
    """Rows read, by form"""
    rows: int = 0
    """A file that is quarantined whole counts as one row"""
    read: int = 0
    quarantined: list[BadRow] = field(default_factory=list[BadRow])

    def add(self, other: ReadReport) -> None:
        """Count what another report counts, too."""
        self.files |= other.files
        self.forms += other.forms
        self.rows += other.rows
        self.read += other.read
        self.quarantined += other.quarantined

    def figures(self, examples: int = 20) -> dict[str, Any]:
        """Counts for a manifest, with the first `examples` quarantined rows spelt out."""
        return {
            "files": self.files,
            "forms": dict(self.forms),
            "rows": self.rows,
            "read": self.read,
            "quarantined": len(self.quarantined),
            "quarantined_rows": [str(bad) for bad in self.quarantined[:examples]],
        }


def detect(row: dict[str, Any]) -> str | None:
    """The name of a row's form (a key of INSTRUCTION_FORMS or PREFERENCE_FORMS), or None when it has none of them."""
    keys = {name for name, value in row.items() if value is not None}
    if {"chosen", "rejected"} <= keys:
        if "conversations" in keys:
            return "sharegpt-preference"
        texts = [row["chosen"], row["rejected"]]
        if not keys & {"prompt", "instruction"} and all(isinstance(t, str) and "\n\nAssistant:" in t for t in texts):
            return "hh-rlhf"
        return "preference"
    if {"responses", "scores"} <= keys and keys & {"query", "prompt"}:
        return "ranked"
    talks = (
        keys & {"messages", "conversations"} or {"prompt", "completion"} <= keys or {"instruction", "output"} <= keys
    )
    if talks and any(is_label(row[name]) for name in ("label", "kto_tag") if name in keys):
        return "kto"
    if "messages" in keys:
        return "messages"
    if "conversations" in keys:
        turns = row["conversations"]
        first: Any = cast(list[Any], turns)[0] if isinstance(turns, list) and turns else None
        return "messages" if isinstance(first, dict) and "role" in first else "sharegpt"
    if {"instruction", "output"} <= keys:
        return "alpaca"
    if "prompt" in keys and keys & {"completion", "response"}:
        return "prompt-completion"
    return "text" if "text" in keys else None


def is_label(value: Any) -> bool:
    """True for a KTO label: a boolean, or a CSV file's word for one."""
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in ("true", "false"))


def _alpaca(row: dict[str, Any]) -> list[Message]:
    messages: list[Message] = []
    for index, pair in enumerate(row.get("history") or []):
        if not isinstance(pair, list) or len(cast(list[Any], pair)) != 2:
            raise RowError(f"history[{index}] should be a pair [question, answer]")
        messages += _exchange(text_of(pair[0], f"history[{index}][0]"), text_of(pair[1], f"history[{index}][1]"))
    question, given = text_of(row["instruction"], "instruction"), text_of(row.get("input") or "", "input")
    return [*messages, *_exchange(f"{question}\n{given}" if given else question, text_of(row["output"], "output"))]


def _exchange(question: str, answer: str) -> list[Message]:
    return [Message(role="user", content=question), Message(role="assistant", content=answer)]


def prompt_messages(value: Any) -> list[Message]:
    """A prompt: a list of messages, or text that the user says."""
    if isinstance(value, list):
        return parse_messages(value, "prompt")
    return [Message(role="user", content=text_of(value, "prompt"))]


def answer_messages(value: Any, name: str) -> list[Message]:
    """An answer: a list of messages, one message, or text that the assistant says."""
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        return parse_messages(value, name)
    return [Message(role="assistant", content=text_of(value, name))]


def to_example(row: dict[str, Any], form: str) -> list[Conversation | PlainText]:
    """An instruction row as the one example to train on. Raises RowError with the reason when it can't be."""
    metadata: dict[str, Any] = {"id": row["id"]} if isinstance(row.get("id"), str | int) else {}
    if form == "text":
        text = text_of(row["text"], "text")
        if not text.strip():
            raise RowError("text is empty: there is nothing to train on")
        return [PlainText(text, metadata)]
    if form == "alpaca":
        messages = _alpaca(row)
    elif form == "prompt-completion":
        name = "completion" if row.get("completion") is not None else "response"
        messages = prompt_messages(row["prompt"]) + answer_messages(row[name], name)
    else:
        name = "messages" if row.get("messages") is not None else "conversations"
        messages = parse_messages(row[name], name)
        if untrained := untrained_answers(row[name]):
            metadata["untrained_answers"] = untrained
    messages = check_answered(with_system(messages, row.get("system")))
    return [Conversation(messages=messages, tools=parse_tools(row.get("tools")), metadata=metadata)]


class Example(Protocol):
    """What a row is made into: anything that remembers where it came from."""

    @property
    def metadata(self) -> dict[str, Any]: ...


T = TypeVar("T", bound=Example)


def read_forms(
    paths: Iterable[Path],
    forms: dict[str, str],
    convert: Callable[[dict[str, Any], str], list[T]],
    form_of: Callable[[dict[str, Any]], str | None] = detect,
) -> tuple[list[T], ReadReport]:
    """All rows of some files that are of one of `forms`, converted; the rest is quarantined in the report.

    Each example's `metadata` is given file, row and line. A file with rows of which none is of these forms is refused
    (UnknownFormError, a HanlinError, saying what was seen) when it is given by its path, or when its folder has no file
    that can be used; beside one that can (as README.md and dataset_info.json are) it is quarantined whole.
    """
    report = ReadReport()
    return list(_examples(paths, forms, convert, form_of, report)), report


def nothing_usable(
    paths: Iterable[Path],
    forms: dict[str, str],
    convert: Callable[[dict[str, Any], str], list[T]],
    form_of: Callable[[dict[str, Any]], str | None] = detect,
    usable: Callable[[T], bool] = lambda example: True,
) -> ReadReport | None:
    """None when `read_forms` would give an example that is `usable`; otherwise the account of the whole reading.

    Of each path no more is read than up to the first such example, so it costs next to nothing to ask early. Raises
    what `read_forms` would for a path with no row of these forms.
    """
    report, found = ReadReport(), False
    for root in paths:
        found = any(usable(example) for example in _examples([root], forms, convert, form_of, report)) or found
    return None if found else report


def _examples(
    paths: Iterable[Path],
    forms: dict[str, str],
    convert: Callable[[dict[str, Any], str], list[T]],
    form_of: Callable[[dict[str, Any]], str | None],
    report: ReadReport,
) -> Iterator[T]:
    """What `read_forms` reads, as it is asked for; `report` is complete at the end."""
    for root in paths:
        files, refused = data_files(root), list[UnknownFormError]()
        for path in files:
            name = path.name if path == root else path.relative_to(root).as_posix()
            name = str(path) if name in report.files else name
            part = ReadReport()
            try:
                yield from _examples_of_file(path, name, forms, convert, form_of, part)
            except UnknownFormError as error:
                if len(files) == 1:
                    raise
                refused.append(error)
                part = ReadReport({name: "left out"}, rows=1, quarantined=[BadRow(name, None, None, error.reason)])
            report.add(part)
        if len(refused) == len(files):
            shown = [f"\n  {error.file}: {error.reason}" for error in refused[:10]] + ["\n  …"] * (len(refused) > 10)
            raise UnknownFormError(root, f"none of its {len(files)} files can be used{''.join(shown)}", _known(forms))


def _examples_of_file(
    path: Path,
    name: str,
    forms: dict[str, str],
    convert: Callable[[dict[str, Any], str], list[T]],
    form_of: Callable[[dict[str, Any]], str | None],
    report: ReadReport,
) -> Iterator[T]:
    """`_examples` of one file, which is called `name`; it is refused before the first, or not at all."""
    container, rows = read_rows(path)
    report.files[name] = container
    known = 0
    for found_row in rows:
        row = replace(found_row, file=name)
        report.rows += 1
        if isinstance(row, BadRow):
            report.quarantined.append(row)
            continue
        form = form_of(row.value)
        if form not in forms:
            report.quarantined.append(_bad(row, _unknown(row.value, form)))
            if not known and len(report.quarantined) >= _GIVE_UP:
                break
            continue
        known += 1
        try:
            examples = convert(row.value, form)
        except RowError as error:
            report.quarantined.append(_bad(row, f"{form}: {error}"))
            continue
        for example in examples:
            example.metadata.update(file=row.file, row=row.number, line=row.line)
        report.read += 1
        report.forms[form] += 1
        yield from examples
    if not known:
        first = report.quarantined[0].reason if report.quarantined else "there is none"
        reason = f"no row of a known form in {report.rows} rows ({container}); the first: {first}"
        raise UnknownFormError(path, reason, _known(forms))


def _known(forms: dict[str, str]) -> str:
    return ". Known forms:\n" + "\n".join(f"  {name}: {keys}" for name, keys in forms.items())


def _bad(row: Row, reason: str) -> BadRow:
    return BadRow(row.file, row.number, row.line, reason)


def _unknown(row: dict[str, Any], form: str | None) -> str:
    if form is not None:
        other = "preference" if form in PREFERENCE_FORMS else "instruction"
        place = "reward, preference and rrhf" if form in PREFERENCE_FORMS else "sft and instructions"
        keys = (PREFERENCE_FORMS | INSTRUCTION_FORMS)[form]
        return f"this is {other} data of the form {form!r} ({keys}), which is for stages of kind {place}"
    alone = " (a prompt alone is for stages that answer: ppo, grpo, rloo, best-of-n)" if row.get("prompt") else ""
    return f"the keys {', '.join(list(row)[:12]) or '(none)'} are of no known form{alone}"


def read_instructions(paths: Path | Iterable[Path]) -> tuple[list[Conversation | PlainText], ReadReport]:
    """Every conversation and text in a file, a folder of files, or several of either, with the account of the reading.

    `metadata` of each says where it came from: file, row, line. Raises HanlinError for a file of unknown form, and for
    preference data, which is not for supervised fine-tuning, unless it lies in a folder beside what can be used.
    """
    return read_forms([paths] if isinstance(paths, Path) else paths, INSTRUCTION_FORMS, to_example)

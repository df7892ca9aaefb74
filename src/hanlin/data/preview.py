"""What was understood of a data file: its form, its rows, and the first ones token by token."""

from __future__ import annotations

import codecs
import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.data.formats import INSTRUCTION_FORMS, PREFERENCE_FORMS, PlainText, read_forms, to_example
from hanlin.data.preferences import Preference, to_preferences
from hanlin.data.rendered import render_conversations
from hanlin.tokenization import Conversation, Message, Tokenizer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


@dataclass
class PreviewToken:
    """One token as the model sees it. A character of several tokens stands with the one that completes it."""

    id: int
    text: str
    trained: bool
    special: bool


@dataclass
class PreviewRow:
    """One row, or one answer of a preference."""

    file: str
    row: int
    line: int | None
    part: str
    """"conversation", "text", or which answer of a preference: "chosen", "rejected" """
    tokens: list[PreviewToken]
    trained_tokens: int
    notes: list[str]
    """What else is known: the tools' names, a preference's margin"""


@dataclass
class Preview:
    """What was understood of a file or folder."""

    path: str
    files: dict[str, str]
    """Each file's container"""
    forms: dict[str, int]
    """Rows by form"""
    meanings: dict[str, str]
    """What each of these forms is"""
    rows: int
    read: int
    quarantined: int
    quarantined_rows: list[str]
    """The first twenty, with place and reason"""
    roles: dict[str, int]
    """Messages by role"""
    tokenizer: str
    shown: list[PreviewRow]


def preview_file(path: Path, tokenizer: Path | None = None, rows: int = 3) -> Preview:
    """Read the whole of `path` (a file or a folder) and show its first `rows` rows as tokens.

    Without a tokenizer's or model's directory each byte is a token and the chat template is ChatML. Raises HanlinError
    for a file of no known form.
    """
    examples, report = read_forms([path], INSTRUCTION_FORMS | PREFERENCE_FORMS, _convert)
    chosen = Tokenizer.load(tokenizer) if tokenizer is not None else Tokenizer.bytes()
    roles: Counter[str] = Counter()
    for example in examples:
        roles.update(message.role for message in _messages(example))
    places = list(dict.fromkeys((e.metadata["file"], e.metadata["row"]) for e in examples))[:rows]
    shown = [e for e in examples if (e.metadata["file"], e.metadata["row"]) in places]
    return Preview(
        path=str(path),
        files=report.files,
        forms=dict(report.forms),
        meanings={form: (INSTRUCTION_FORMS | PREFERENCE_FORMS)[form] for form in report.forms},
        rows=report.rows,
        read=report.read,
        quarantined=len(report.quarantined),
        quarantined_rows=report.figures()["quarantined_rows"],
        roles=dict(roles),
        tokenizer=str(tokenizer) if tokenizer is not None else "bytes, ChatML (give a tokenizer to see its tokens)",
        shown=[row for example in shown for row in _rows(example, chosen)],
    )


def _convert(row: dict[str, Any], form: str) -> list[Conversation | PlainText | Preference]:
    return [*to_example(row, form)] if form in INSTRUCTION_FORMS else [*to_preferences(row, form)]


def _messages(example: Conversation | PlainText | Preference) -> list[Message]:
    if isinstance(example, PlainText):
        return []
    if isinstance(example, Conversation):
        return example.messages
    return [*example.prompt, *(example.chosen or []), *(example.rejected or [])]


def _rows(example: Conversation | PlainText | Preference, tokenizer: Tokenizer) -> list[PreviewRow]:
    notes: list[str] = []
    if not isinstance(example, PlainText) and example.tools:
        notes.append(f"tools: {', '.join(tool['function']['name'] for tool in example.tools)}")
    if not isinstance(example, Preference):
        part = "text" if isinstance(example, PlainText) else "conversation"
        return [_row(example, part, tokenizer, notes, 0)]
    if example.margin is not None:
        notes.append(f"margin: {example.margin:g}")
    found: list[PreviewRow] = []
    prompt = Conversation(messages=example.prompt, tools=example.tools, metadata=example.metadata)
    length = len(tokenizer.render_tokens(prompt).ids)
    for part, answer in (("chosen", example.chosen), ("rejected", example.rejected)):
        if answer is not None:
            messages = [*example.prompt, *answer]
            whole = Conversation(messages=messages, tools=example.tools, metadata=example.metadata)
            # What an assistant said within the prompt is not what the two answers are compared on.
            found.append(_row(whole, part, tokenizer, notes, length))
    return found


def _row(
    example: Conversation | PlainText, part: str, tokenizer: Tokenizer, notes: list[str], trained_from: int
) -> PreviewRow:
    rendered = render_conversations([example], tokenizer)
    names = {number: name for name, number in tokenizer.special.items()}
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    tokens: list[PreviewToken] = []
    for place, (token, trained) in enumerate(zip(rendered.ids.tolist(), rendered.trained.tolist())):
        text = names[token] if token in names else decoder.decode(tokenizer.token_bytes(token))
        # The first token is never a label: nothing comes before it.
        tokens.append(PreviewToken(token, text, trained and place >= max(1, trained_from), token in names))
    where = example.metadata
    count = sum(token.trained for token in tokens)
    return PreviewRow(where["file"], where["row"], where["line"], part, tokens, count, notes)


def render_preview(preview: Preview, console: Console, tokens: int = 400) -> None:
    """Print a preview; of each row about `tokens` tokens, with some of each trained and untrained piece.

    What is trained on is green, and boxed in ⟦ ⟧, so that it can be told where there is no colour; · is a border
    between tokens.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for file, container in list(preview.files.items())[:10]:
        table.add_row("file", Text(f"{file} ({container})"))
    if len(preview.files) > 10:
        table.add_row("", f"and {len(preview.files) - 10} more")
    for form, count in preview.forms.items():
        table.add_row("form", Text(f"{form}: {count:,} rows ({preview.meanings[form]})"))
    table.add_row("rows", f"{preview.rows:,} = {preview.read:,} read + {preview.quarantined:,} quarantined")
    if preview.roles:
        table.add_row("messages", ", ".join(f"{role} {count:,}" for role, count in preview.roles.items()))
    table.add_row("tokenizer", Text(preview.tokenizer))
    console.print(table)
    for reason in preview.quarantined_rows:
        console.print(Text(f"  quarantined: {reason}", style="yellow"))
    if preview.quarantined > len(preview.quarantined_rows):
        console.print(f"  … and {preview.quarantined - len(preview.quarantined_rows):,} more")
    for row in preview.shown:
        place = f"row {row.row}" if row.line is None else f"row {row.row}, line {row.line}"
        counts = f"{len(row.tokens):,} tokens, {row.trained_tokens:,} trained on"
        console.rule(Text("; ".join([f"{row.file}, {place}: {row.part}", counts, *row.notes])), align="left")
        console.print(_marked(row.tokens, tokens))
    console.print(Text("⟦trained on⟧ · borders between tokens", style="dim"))


def _marked(tokens: list[PreviewToken], limit: int) -> Text:
    from rich.text import Text

    runs = [list(run) for _, run in itertools.groupby(tokens, key=lambda token: token.trained)]
    # So that a long question does not hide the answer, each piece is given an equal part, and its middle is left out.
    part = max(24, limit // max(1, len(runs))) if len(tokens) > limit else len(tokens)
    text = Text()
    for run in runs:
        text.append(
            "⟦" if run[0].trained else "·" if len(text) else "", style="bold green" if run[0].trained else "dim"
        )
        shown = run if len(run) <= part else [*run[: part // 2], None, *run[len(run) - part // 2 :]]
        first = True
        for token in shown:
            if token is None:
                text.append(f" … {len(run) - part // 2 * 2:,} more tokens … ", style="italic dim")
                first = True
            elif token.text:
                if not first:
                    text.append("·", style="dim")
                first = False
                colour = "green" if token.trained else "dim" if token.special else ""
                # A line break is shown and made: what follows it stands on a new line, as in the file.
                text.append(token.text.replace("\n", "⏎\n"), style=colour)
        if run[0].trained:
            text.append("⟧", style="bold green")
    return text

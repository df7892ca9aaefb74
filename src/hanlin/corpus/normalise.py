"""Unicode normalisation: one text for what looks the same, and nothing that a reader of the text could miss.

`normalise` is idempotent: normalising twice changes nothing more.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

LINE_ENDS = re.compile("\r\n|[\r\u2028\u2029\f\v]")
TERMINAL_ESCAPES = re.compile("\x1b\\[[0-9;]*[a-zA-Z]")
# C0 (but tab and line feed), delete, C1, noncharacters, and the byte order mark inside a text.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
# Formats in which a space at the end of a line says nothing (in Markdown two of them are a line break).
PLAIN = frozenset({"txt", "rst", "html", "pdf", "warc", "arc"})


@functools.cache
def _suspects() -> re.Pattern[str]:
    """Characters without which ftfy changes nothing here: what bytes from 0x80 on become in the single-byte encodings
    that text is misread in, ligatures and surrogates. Looking for them first is ten times faster on text without
    any."""
    from ftfy.chardata import CHARMAP_ENCODINGS, LIGATURES

    found = {character for encoding in CHARMAP_ENCODINGS for character in bytes(range(128, 256)).decode(encoding)}
    found |= {chr(code) for code in LIGATURES}
    found |= {"\x1a", "�"}
    return re.compile(f"[{re.escape(''.join(sorted(found)))}\ud800-\udfff]")


@functools.cache
def _ftfy_settings() -> Any:
    from ftfy import TextFixerConfig

    # Done here, and counted: control characters, escapes, line ends.
    # Left alone: full-width forms (Chinese punctuation), curly quotes, HTML entities (a text about HTML needs them).
    return TextFixerConfig(
        unescape_html=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        remove_control_chars=False,
        remove_terminal_escapes=False,
        normalization="NFC",
    )


def _repair(text: str) -> str:
    """Mojibake, ligatures and lone surrogates, line by line, as ftfy repairs them."""
    suspects = _suspects()
    if suspects.search(text) is None:
        return text
    from ftfy import fix_text

    lines = text.split("\n")
    for index, line in enumerate(lines):
        if suspects.search(line) is not None:
            lines[index] = fix_text(line, _ftfy_settings())
    return "\n".join(lines)


def _line_ends(text: str) -> str:
    if any(sign in text for sign in "\r\f\v\u2028\u2029"):  # five searches cost less than one by a character class
        return LINE_ENDS.sub("\n", text)
    return text


def _tidy(text: str, plain: bool) -> str:
    text = _line_ends(text)
    if plain and (" \n" in text or "\t\n" in text):
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    return text.lstrip("\n").rstrip(" \t\n")


def _pass(text: str, plain: bool) -> tuple[str, int]:
    if not text.isascii():
        # U+0085 ends a line only after the repair: in mojibake it is a half of another character.
        text = _repair(text).replace("\x85", "\n")
    if "\x1b" in text:
        text = TERMINAL_ESCAPES.sub("", text)
    text = text.replace("\ufeff", "")
    text, removed = CONTROLS.subn("", text)
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    return _tidy(text, plain), removed


def normalise(text: str, format: str) -> tuple[str, int]:
    """The normalised text, and how many control characters were removed from it.

    Prose: mojibake repaired (ftfy), NFC, line ends to `\\n`, control characters and terminal escapes removed, blank
    lines at both ends and, in plain formats, spaces at line ends removed. Code: line ends only, because every other
    character of a program may matter.
    """
    if format == "code":
        return text.replace("\r\n", "\n").replace("\r", "\n"), 0
    plain, removed = format in PLAIN, 0
    # Line ends first, or almost every text would need a second pass. Not the spaces: they may be halves of mojibake.
    text = _line_ends(text).strip("\n")
    while True:
        cleaned, count = _pass(text, plain)
        removed += count
        if cleaned == text:
            return cleaned, removed
        text = cleaned  # one repair may uncover another

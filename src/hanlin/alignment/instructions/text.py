"""Counting and comparing texts in English and Chinese alike."""

from __future__ import annotations

import re

from hanlin.corpus.language import HAN, KANA_OR_HANGUL, LATIN, identify

_SIGN = f"{HAN.pattern}|{KANA_OR_HANGUL.pattern}"
_UNIT = re.compile(rf"{_SIGN}|(?:(?!{_SIGN})\w)+(?:['’](?:(?!{_SIGN})\w)+)?")
_SHORT = 8
"""Words below which a language model's guess at the language of Latin text is no better than chance."""


def units(text: str) -> list[str]:
    """Words in lower case; of scripts that are written without spaces (Chinese, Japanese, Korean) each sign."""
    return _UNIT.findall(text.lower())


def count_units(text: str) -> int:
    """How many `units` a text has: its length, in a measure that means about the same in English and Chinese."""
    return sum(1 for _ in _UNIT.finditer(text))


def language_of(text: str) -> str:
    """ISO 639-1 code; a few words of plain Latin letters are taken for English."""
    if text.isascii() and LATIN.search(text) and count_units(text) < _SHORT:
        return "en"
    return identify(text)

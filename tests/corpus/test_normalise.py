"""Unicode normalisation: idempotent, safe for Chinese and for code, and equal to ftfy where ftfy is asked."""

from __future__ import annotations

import unicodedata

import ftfy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.corpus.filters import Filters
from hanlin.corpus.language import from_metadata, identify
from hanlin.corpus.normalise import _ftfy_settings, normalise

# Pieces from which mojibake, broken surrogates, escapes and mixed line ends come about.
MISREAD = ["é".encode().decode("latin-1"), "月".encode().decode("cp1252", "ignore"), "Ã©".encode().decode("latin-1")]
SIGNS = (
    "Ã|©|â€|â\x80\x99|Â |\xa0|\x85|Å| |  |\t|\n|\r|\r\n|\u2028|\x0c|e|\u0301|ﬁ|\ud83d|\ude00|\x1b[|31m|\x1b|\x00|"
    "\ufeff|中|，|ｆ|“|”|…|—|�|&amp;|가|\u1100"
)
PIECES = st.sampled_from(MISREAD + SIGNS.split("|"))
LINE_ENDS = "\n\r\x0c\x85\u2028"
MESSY = st.one_of(st.text(), st.lists(PIECES, max_size=24).map("".join))


@settings(max_examples=500, deadline=None)
@given(MESSY, st.sampled_from(["txt", "md", "jsonl", "code"]))
def test_normalising_twice_changes_nothing(text: str, format: str) -> None:
    once, _ = normalise(text, format)
    assert normalise(once, format) == (once, 0)


@settings(max_examples=200, deadline=None)
@given(MESSY)
def test_what_comes_out_is_clean(text: str) -> None:
    clean, _ = normalise(text, "txt")
    assert unicodedata.is_normalized("NFC", clean)
    assert "\r" not in clean and " \n" not in clean
    assert not any(unicodedata.category(sign) in {"Cc", "Cs"} for sign in clean if sign not in "\n\t")
    clean.encode()


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES.filter(lambda piece: not set(piece) & set(LINE_ENDS)), max_size=24).map("".join))
def test_looking_before_repairing_misses_nothing_that_ftfy_repairs(text: str) -> None:
    config = _ftfy_settings()
    assert normalise(ftfy.fix_text(text, config), "txt")[0] == normalise(text, "txt")[0]


@pytest.mark.parametrize(
    ("text", "format", "clean"),
    [
        ("donâ€™t", "txt", "don’t"),
        ("Ｆｕｌｌ，「引」！", "txt", "Ｆｕｌｌ，「引」！"),
        ("“curly” &amp; entity", "html", "“curly” &amp; entity"),
        ("line  \nend  ", "md", "line  \nend"),
        ("line  \nend  ", "txt", "line\nend"),
        ("\r\n  indented\r\nnext\rlast\u2028x", "txt", "  indented\nnext\nlast\nx"),
        ("e\u0301", "txt", "é"),
        ("e\u0301 \r\n", "code", "e\u0301 \n"),
        ("a\x00b\x07\x1b[31mred\x1b[0m\ufeff", "txt", "abred"),
        ("\ud83d\ude00 \ud83d", "jsonl", "😀 �"),
    ],
)
def test_examples(text: str, format: str, clean: str) -> None:
    assert normalise(text, format)[0] == clean


def test_the_rules_measure_what_they_say() -> None:
    filters = Filters(min_bytes=4, max_bytes=20, max_unreadable_share=0.1)
    assert filters.judge(" \x00\n", "txt").rule == "empty"
    short = filters.judge("月", "txt")
    assert (short.rule, short.measured, short.threshold) == ("min_bytes", 3, 4)
    long = filters.judge("x" * 21, "txt")
    assert (long.rule, long.measured, long.threshold) == ("max_bytes", 21, 20)
    junk = filters.judge("\x01\x02abc�d", "txt")
    assert (junk.rule, junk.measured) == ("unreadable_share", 3 / 7)
    first, second = filters.judge("a text\r\n", "txt"), filters.judge("a text", "md")
    assert (first.rule, second.rule) == (None, "duplicate")
    assert first.id == second.id


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The river was wide, and nobody had crossed it since the spring.", "en"),
        ("Der Fluss war breit, und niemand hatte ihn seit dem Frühling überquert.", "de"),
        ("這條河很寬，從春天以來沒有人渡過。", "zh"),
        ("月 = f(x)，其中 x 是 the time of day", "zh"),
        ("この川は広くて、春から誰も渡っていません。", "ja"),
        ("123 + 456", "und"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert identify(text) == language


def test_language_tags() -> None:
    tags = ["en", "zh-Hans", "pt_BR", "English", "", 3, None]
    assert [from_metadata(tag) for tag in tags] == ["en", "zh", "pt", None, None, None, None]

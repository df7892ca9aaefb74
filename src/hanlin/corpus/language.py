"""Which language a text is in, by the cheapest means that tells."""

from __future__ import annotations

import re
from typing import cast

LOOK_AT = 2_000
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
KANA_OR_HANGUL = re.compile("[\u3041-\u30ff\uac00-\ud7a3]")
LATIN = re.compile("[A-Za-z]")
TAG = re.compile(r"([A-Za-z]{2,3})(?:[-_][A-Za-z0-9]+)*")


def from_metadata(value: object) -> str | None:
    """The language of a tag such as `en`, `zh-Hans` or `pt_BR` (BCP 47), in lower case and without its region; else
    None."""
    match = TAG.fullmatch(value) if isinstance(value, str) else None
    return match[1].lower() if match else None


def han_share(text: str) -> float | None:
    """Share of Han signs among Han and Latin letters, one sign counted for about three letters; None without either."""
    han, latin = 3 * len(HAN.findall(text)), len(LATIN.findall(text))
    return han / (han + latin) if han or latin else None


def identify(text: str) -> str:
    """ISO 639-1 code of the language of the first 2,000 characters; `und` where there are no letters.

    Text in which Han characters weigh more than Latin ones (one stands for about three letters) and that has almost no
    kana or hangul is `zh`; the rest is decided by py3langid.
    """
    head = text[:LOOK_AT]
    han = len(HAN.findall(head))
    if han:
        if 3 * han > len(LATIN.findall(head)) and 20 * len(KANA_OR_HANGUL.findall(head)) < han:
            return "zh"
    elif not any(map(str.isalpha, head)):
        return "und"
    from py3langid import rank

    ranked = cast(list[tuple[str, float]], rank(head))

    # Three-letter codes are of languages with so little text that short or technical English is often taken for one.
    return next((code for code, _ in ranked if len(code) == 2), "und")

"""Bytes to text, without losing a character silently."""

from __future__ import annotations

import codecs

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
PRINTABLE = [bytes([code]) for code in (*range(32, 127), 9, 10, 13)]
# Of the characters beyond ASCII, this share may be broken for a text still to count as damaged UTF-8 (and to be
# quarantined) rather than as text in another encoding.
DAMAGED_SHARE = 0.1


class UndecodableError(ValueError):
    """The bytes are text in no encoding that could be found. `offset` is that of the first bad byte."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset


def byte_order_mark(head: bytes) -> tuple[bytes, str] | None:
    """The byte order mark that begins `head`, and the encoding that it stands for."""
    return next(((mark, encoding) for mark, encoding in BOMS if head.startswith(mark)), None)


def wide_encoding(head: bytes) -> str | None:
    """UTF-16 without a mark, known by a zero beside each printable ASCII byte (Latin script mostly), or None."""
    if b"\0" not in head:
        return None
    pairs = len(head) // 2
    for encoding, low, high in (("utf-16-le", head[0::2], head[1::2]), ("utf-16-be", head[1::2], head[0::2])):
        printable = sum(map(low.count, PRINTABLE))
        if pairs > 1 and high.count(0) > 0.4 * pairs and printable > 0.4 * pairs and low.count(0) < 0.05 * pairs:
            return encoding
    return None


def decode_utf8(data: bytes) -> str:
    """UTF-8 to text. Raises UndecodableError naming the first bad byte."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UndecodableError(error.start, f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8") from None


def decode_text(data: bytes) -> tuple[str, str]:
    """Decode by byte order mark, then as UTF-8, then by charset detection (uchardet's, through resiliparse).

    Returns the text and the name of its encoding. Raises UndecodableError when the bytes are UTF-8 but for some damage,
    or when the encoding that was detected can't decode all of them.
    """
    mark = byte_order_mark(data)
    if mark is not None:
        return _decode(data[len(mark[0]) :], mark[1], len(mark[0])), mark[1]
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError as error:
        first = error.start
    wide = wide_encoding(data[:65536])
    if wide is not None:
        return _decode(data, wide, 0), wide
    encoding = detect(data)
    if encoding in {"utf-8", "ascii"} or _is_damaged_utf8(data):
        raise UndecodableError(first, f"byte {first} (0x{data[first]:02x}) is not UTF-8, and no other encoding fits")
    return _decode(data, encoding, 0), encoding


def detect(data: bytes, html: bool = False) -> str:
    """The charset that uchardet finds (or, for HTML, the one that a meta tag names), as a name that Python knows."""
    from resiliparse.parse.encoding import detect_encoding

    name = detect_encoding(data, from_html_meta=html) or "utf-8"
    try:
        return codecs.lookup(name).name
    except LookupError:
        return "utf-8"


def decode_html(data: bytes, declared: str | None = None) -> tuple[str, str]:
    """Decode a page as browsers do (https://encoding.spec.whatwg.org): by mark, by the charset that HTTP declared, by
    the meta tag, by detection; what doesn't fit becomes U+FFFD, whose share a filter then judges."""
    mark = byte_order_mark(data)
    if mark is not None:
        return data[len(mark[0]) :].decode(mark[1], "replace"), mark[1]
    try:
        encoding = codecs.lookup(declared).name if declared else detect(data, html=True)
        return data.decode(encoding, "replace"), encoding
    except LookupError:
        return data.decode("utf-8", "replace"), "utf-8"


def _decode(data: bytes, encoding: str, skipped: int) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        first = skipped + error.start
        raise UndecodableError(first, f"byte {first} is not {encoding}, the encoding that was found") from None


def _is_damaged_utf8(data: bytes) -> bool:
    text = data.decode("utf-8", "replace")
    broken = text.count("�") - data.count("�".encode())
    beyond_ascii = sum(1 for character in text if character > "\x7f")
    return broken <= DAMAGED_SHARE * beyond_ascii

"""Personal data and secrets in text: found by form and check digits, and replaced by what they were (`[EMAIL]`).

What counts is the form, not the words around it, so that English and Chinese are read alike: beside a Chinese character
there is no word boundary, and full-width digits and signs are read as their ASCII forms. Words around it decide only
where the form is common to something harmless: a number after "order no." or 订单号 is no telephone's, one after
"tel" or 电话 is. Names and postal addresses have no form: they are not found.

Time is linear in the text, whatever is in it: every repetition is bounded, or possessive and begins only where a run of
its characters begins.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["SECRET", "CREDENTIALS", "EMAIL", "IBAN", "CARD", "ID", "IP", "PHONE"]
"""SECRET: API keys, tokens, passwords, private keys; CREDENTIALS: of a URL; ID: Chinese resident or US social security
number. Where two overlap, the one that stands here first names the whole."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` of a text are of this kind."""

    start: int
    end: int
    kind: Kind


@dataclass(frozen=True)
class Redacted:
    """A text without its private parts."""

    text: str
    counts: dict[str, int]
    """How many of each kind were replaced; kinds that were not there are left out"""


_PLAIN = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    0x3000: 0x20,
    0xA0: 0x20,
    0x2010: 0x2D,
    0x2011: 0x2D,
}
"""Full-width forms, spaces and hyphens as ASCII, one character for one: places in the text stay what they are."""

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?:[^-]|-(?!----)){0,20000}+-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"|(?:(?:\s|\\[nr])*+[A-Za-z0-9+/=]{16,}+)*+)"  # cut off before its end
)
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"(?:sk|hk|rk|pk)[-_](?:[A-Za-z0-9]+[-_])?[A-Za-z0-9_-]{20,}+"
    r"|(?:gh[pousr]|github_pat|glpat|hf|npm|pypi|xox[abeoprs]|xapp|shpat|dop_v1|whsec)[-_][A-Za-z0-9_-]{16,}+"
    r"|(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?![0-9A-Za-z])"
    r"|AIza[0-9A-Za-z_-]{35}"
    r"|(?:LTAI|AKID)[0-9A-Za-z]{12,40}+"
    r"|eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*+)?"
    r"|SG\.[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,}+"
    r")"
)
_BEARER = re.compile(
    r"\b(?:bearer|authorization[\"']?\s{0,3}[:=][\s\"']{0,3}basic)\s{1,3}([A-Za-z0-9._~+/=-]{16,}+)", re.IGNORECASE
)
_ASSIGNED = re.compile(
    r"(?:pass(?:word|wd|phrase|code)|\bpwd|secret|(?:api|access)[_ -]?key|(?:access|auth|refresh)[_ -]?token|\btoken"
    r"|密码|口令|密钥|秘钥|令牌)[\"'`]?\s{0,3}(?:[:=]|是|为|is\b)[\s\"'`]{0,3}((?:(?![\"'`,;])[!-~]){6,}+)",
    re.IGNORECASE,
)
_URL_USER = re.compile(r"(?<=://)[^\s/@:?#]{0,256}:[^\s/@?#]{1,256}@")
_EMAIL = re.compile(
    r"(?<![\w.%+'-])[\w.%+'-]++@[A-Za-z0-9-]{1,63}+(?:\.[A-Za-z0-9-]{1,63}+)+".replace(
        r"\w", "A-Za-z0-9_\u00c0-\u024f\u0370-\u04ff"
    )
)
_NO_DOMAIN = re.compile(r"[0-9]+|[A-Za-z]|png|jpe?g|gif|webp|svg|avif|bmp|ico", re.IGNORECASE)
"""Last parts of what looks like a domain but is a version (`react@18.2.0`) or a picture (`logo@2x.png`)"""
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{4}){2,7}+(?:[ -]?[A-Z0-9]{1,3}(?![A-Z0-9]))?", re.IGNORECASE
)
_CARD = re.compile(
    r"(?<![0-9])(?<![0-9][.-])(?:[0-9]{13,19}+|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{1,3})?"
    r"|3[47][0-9]{2}([ -])[0-9]{6}\2[0-9]{5})(?![0-9])(?![.-][0-9])"
)
_ISSUED = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|(?:5[1-5]|2[2-7])[0-9]{14}|3[47][0-9]{13}|3(?:0[0-5]|[689][0-9])[0-9]{11,13}"
    r"|35[0-9]{14}|6(?:011|4[4-9][0-9]|5[0-9]{2})[0-9]{12,15}|62[0-9]{14,17}|(?:50|5[6-8]|6[0-9])[0-9]{14,17}"
)
"""Numbers that a payment network gives out, by first digits and length (ISO/IEC 7812)"""
_RESIDENT = re.compile(r"(?<![0-9A-Za-z])[1-9][0-9]{16}[0-9Xx](?![0-9A-Za-z])")
_SSN = re.compile(r"(?<![0-9A-Za-z-])[0-9]{3}([- ]?)[0-9]{2}\1[0-9]{4}(?![0-9A-Za-z]|-[0-9])")
_IPV4 = re.compile(r"(?<![0-9A-Za-z.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z]|\.[0-9])")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])[0-9A-Fa-f:]{2,}+(?:\.[0-9]{1,3}){0,3}+(?![0-9A-Za-z:])")
_INTERNATIONAL = re.compile(r"(?<![0-9+])(?:\+|00(?=[1-9]))[1-9](?:[ .()/-]{0,2}[0-9]){6,14}+(?![0-9])")
_MOBILE_CN = re.compile(r"(?<![0-9A-Za-z.])1[3-9][0-9]([ -]?)[0-9]{4}\1[0-9]{4}(?![0-9A-Za-z]|[.-][0-9])")
_LANDLINE_CN = re.compile(r"(?<![0-9-])(?:\(0[0-9]{2,3}\)[ -]?|0[0-9]{2,3}[ -])[2-9][0-9]{2,3}[ -]?[0-9]{4}(?![0-9-])")
_NORTH_AMERICA = re.compile(
    r"(?<![0-9.-])(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}([ .-]))[2-9][0-9]{2}[ .-][0-9]{4}(?![0-9]|[.-][0-9])"
)
_TOLD = re.compile(
    r"(?:\b(?:tel|telephone|phone|mobile|call|fax|whatsapp|sms)\b|手机|电话|联系方式|座机|热线|传真|微信|致电|拨打)"
    r"(?: ?(?:number|no|nr|is|me|us|at|on|or|号码|号|是|为|[.:(]))*+[ \n]?"
    r"((?:\+|\()?[0-9](?:[ .()/-]{0,2}[0-9]){6,14}+)(?![0-9])",
    re.IGNORECASE,
)
_DATE = re.compile(r"(?:19|20)[0-9]{2}(?:[./-][01]?[0-9][./-][0-3]?[0-9]| ?- ?(?:19|20)[0-9]{2})(?![0-9])")
_NUMBERED = re.compile(
    r"(?:order|invoice|ticket|tracking|serial|reference|ref|item|sku|isbn|issn|doi|no|nr|number|id|case|#|№|订单|单号|编号|序号|"
    r"流水号|工单|发票|货号|快递|运单|批号|型号)[a-z]{0,6}[\s:#.号是为=]{0,4}$",
    re.IGNORECASE,
)
"""What stands before a number that numbers things"""
_VERSIONED = re.compile(
    r"(?:\bv|ver|version|release|firmware|build|版本|固件|版)[a-z号]{0,4}[\s:.是为=]{0,3}$", re.IGNORECASE
)
_ADDRESSED = re.compile(
    r"(?:\bip|address|host|server|ping|dns|地址|主机|服务器|网关)[a-z46]{0,4}[\s:.是为=]{0,4}$", re.IGNORECASE
)
_IDENTITY_CN = re.compile(r"身份证|证件号|公民身份")
_IDENTITY_US = re.compile(r"\bssn\b|social\s+security", re.IGNORECASE)


def find(text: str) -> list[Span]:
    """Every private part of a text, in order, none overlapping another."""
    plain = text if text.isascii() else text.translate(_PLAIN)
    spans = sorted((span for finder in _FINDERS for span in finder(plain)), key=lambda span: (span.start, -span.end))
    merged: list[Span] = []
    for span in spans:
        last = merged[-1] if merged else None
        if last is None or span.start >= last.end:
            merged.append(span)
        else:
            named = min(last, span, key=lambda one: KINDS.index(one.kind))
            merged[-1] = Span(last.start, max(last.end, span.end), named.kind)
    return merged


def redact(text: str) -> Redacted:
    """The text with every private part replaced by its kind in brackets."""
    counts: Counter[str] = Counter()
    pieces: list[str] = []
    at = 0
    for span in find(text):
        pieces += [text[at : span.start], f"[{span.kind}]"]
        at = span.end
        counts[span.kind] += 1
    return Redacted("".join([*pieces, text[at:]]), dict(counts))


def _before(text: str, at: int, pattern: re.Pattern[str], characters: int = 24) -> bool:
    """Whether `pattern` fits in what stands right before `at`."""
    return pattern.search(text[max(0, at - characters) : at]) is not None


def _secrets(text: str) -> Iterator[Span]:
    if "-----BEGIN" in text:
        for found in _PRIVATE_KEY.finditer(text):
            yield Span(*found.span(), "SECRET")
    for found in _TOKEN.finditer(text):
        # A word or two with hyphens ("sk-learn-contrib-and-so-on") has no digit.
        if any(sign.isdigit() for sign in found.group()):
            yield Span(*found.span(), "SECRET")
    for pattern in (_BEARER, _ASSIGNED):
        for found in pattern.finditer(text):
            value = found.group(1)
            # "password: required" and "token = get_token()" tell nothing.
            if any(sign.isdigit() for sign in value) and any(not sign.isdigit() for sign in value) and "(" not in value:
                yield Span(*found.span(1), "SECRET")


def _credentials(text: str) -> Iterator[Span]:
    for found in _URL_USER.finditer(text):
        yield Span(found.start(), found.end() - 1, "CREDENTIALS")


def _emails(text: str) -> Iterator[Span]:
    if "@" not in text:
        return
    for found in _EMAIL.finditer(text):
        local, _, domain = found.group().partition("@")
        begin = len(local) - len(local.lstrip(".%+'-"))
        labels = domain.rstrip("-").split(".")
        if begin < len(local) and _NO_DOMAIN.fullmatch(labels[-1]) is None:
            yield Span(found.start() + begin, found.start() + len(local) + 1 + len(".".join(labels)), "EMAIL")


def _ibans(text: str) -> Iterator[Span]:
    from stdnum import iban

    for found in _IBAN.finditer(text):
        # A word of four letters after the number looks like a group of it: the longest that is one counts.
        whole = found.group()
        ends = [len(whole), *(place for place in range(len(whole) - 1, 14, -1) if whole[place] in " -")]
        end = next((end for end in ends if iban.is_valid(whole[:end])), None)
        if end is not None:
            yield Span(found.start(), found.start() + end, "IBAN")


def _cards(text: str) -> Iterator[Span]:
    from stdnum import luhn

    for found in _CARD.finditer(text):
        digits = re.sub("[ -]", "", found.group())
        if _ISSUED.fullmatch(digits) and luhn.is_valid(digits):
            yield Span(*found.span(), "CARD")


def _identities(text: str) -> Iterator[Span]:
    from stdnum.us import ssn

    for found in _RESIDENT.finditer(text):
        if _is_resident(found.group().upper()) or _before(text, found.start(), _IDENTITY_CN):
            yield Span(*found.span(), "ID")
    for found in _SSN.finditer(text):
        # Only the form with hyphens is told from other numbers by itself.
        known = found.group(1) == "-" or _before(text, found.start(), _IDENTITY_US, 40)
        if known and ssn.is_valid(re.sub("[ -]", "", found.group())):
            yield Span(*found.span(), "ID")


def _is_resident(number: str) -> bool:
    """Birth date and check digit of a Chinese resident identity number (GB 11643). Its first six digits are not looked
    up: districts come and go."""
    from stdnum.cn import ric
    from stdnum.exceptions import ValidationError

    try:
        ric.get_birth_date(number)
    except ValidationError:
        return False
    return ric.calc_check_digit(number) == number[-1]


def _addresses(text: str) -> Iterator[Span]:
    for found in _IPV4.finditer(text):
        parts = [int(part) for part in found.group().split(".")]
        if max(parts) > 255 or parts[0] in (0, 127, 255) or _before(text, found.start(), _VERSIONED):
            continue
        # Small numbers throughout are a version's or a section's, but for one address in 25,000.
        followed = re.match(r":[0-9]{2,5}|/[0-9]{1,2}", text[found.end() : found.end() + 6])
        if max(parts) >= 20 or followed or _before(text, found.start(), _ADDRESSED):
            yield Span(*found.span(), "IP")
    for found in _IPV6.finditer(text):
        whole = found.group()
        if whole.count(":") < 2 or not 6 <= len(whole) <= 45 or not any(sign.isdigit() for sign in whole):
            continue
        try:
            address = ipaddress.IPv6Address(whole.rstrip(":") if whole[-2:-1] != ":" else whole)
        except ValueError:
            continue
        if not address.is_loopback and not address.is_unspecified:
            yield Span(*found.span(), "IP")


def _phones(text: str) -> Iterator[Span]:
    import phonenumbers

    def valid(number: str, region: str | None) -> bool:
        try:
            return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
        except phonenumbers.NumberParseException:
            return False

    for found in _INTERNATIONAL.finditer(text):
        number = found.group()
        if valid(number if number[0] == "+" else f"+{number[2:]}", None):
            yield Span(*found.span(), "PHONE")
    # Every 11 digits from 13 to 19 on are a Chinese mobile's; elsewhere the plan has gaps.
    for pattern, region in ((_MOBILE_CN, None), (_LANDLINE_CN, "CN"), (_NORTH_AMERICA, "US")):
        for found in pattern.finditer(text):
            if not _before(text, found.start(), _NUMBERED) and (region is None or valid(found.group(), region)):
                yield Span(*found.span(), "PHONE")
    for found in _TOLD.finditer(text):
        if not _DATE.match(found.group(1)):
            yield Span(*found.span(1), "PHONE")


_FINDERS: tuple[Callable[[str], Iterator[Span]], ...] = (
    _secrets,
    _credentials,
    _emails,
    _ibans,
    _cards,
    _identities,
    _addresses,
    _phones,
)

"""Made-up private data with valid check digits, to be found and removed by a corpus build. None of it belongs to
anyone.
"""

from __future__ import annotations

from random import Random

from hanlin.world.hashing import below, pick

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_REGIONS = ("110101", "310115", "440106", "330106", "510104", "420111")


def _digits(rng: Random, count: int) -> str:
    return "".join(str(below(rng, 10)) for _ in range(count))


def email(rng: Random, name: str) -> str:
    """An address at a domain reserved for examples (RFC 2606)."""
    user = name.lower().replace(" ", pick(rng, (".", "_", "")))
    return f"{user}{below(rng, 100)}@{pick(rng, ('example.com', 'example.org', 'mail.example.net'))}"


def mobile(rng: Random) -> str:
    """A number of the form of a Chinese mobile phone."""
    return pick(rng, ("138", "139", "150", "186", "199")) + _digits(rng, 8)


def telephone(rng: Random) -> str:
    """A number of the range that the North American plan reserves for fiction (555-0100 to 555-0199)."""
    return f"+1 {pick(rng, ('212', '415', '617'))}-555-01{_digits(rng, 2)}"


def identity_number(rng: Random) -> str:
    """An 18-digit Chinese resident identity number, check digit after GB 11643-1999 (ISO 7064, MOD 11-2)."""
    body = (
        f"{pick(rng, _REGIONS)}{1950 + below(rng, 55)}{1 + below(rng, 12):02}{1 + below(rng, 28):02}{_digits(rng, 3)}"
    )
    total = sum(int(digit) * weight for digit, weight in zip(body, _ID_WEIGHTS, strict=True))
    return body + "10X98765432"[total % 11]


def card_number(rng: Random) -> str:
    """A 16-digit payment card number, check digit after Luhn (ISO/IEC 7812-1)."""
    body = "4" + _digits(rng, 14)
    total = 0
    for place, digit in enumerate(reversed(body)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return body + str(-total % 10)


def iban(rng: Random) -> str:
    """A German account number, check digits after ISO 13616 (MOD 97-10)."""
    body = _digits(rng, 18)
    check = 98 - int(body + "131400") % 97  # "DE" is 13 14
    return f"DE{check:02}{body}"

from __future__ import annotations

import re
from random import Random

from hanlin.world import World, private, web
from hanlin.world.documents import page


def test_identity_numbers_are_valid():
    for seed in range(200):
        number = private.identity_number(Random(seed))
        assert re.fullmatch(r"\d{17}[\dX]", number)
        values = [10 if digit == "X" else int(digit) for digit in number]
        # ISO 7064 MOD 11-2: weighted by powers of two from the right, the sum is 1 (mod 11)
        assert sum(value * pow(2, 17 - place, 11) for place, value in enumerate(values)) % 11 == 1


def test_card_numbers_pass_luhn():
    for seed in range(200):
        digits = [int(digit) for digit in private.card_number(Random(seed))]
        assert len(digits) == 16
        doubled = [sum(divmod(2 * digit, 10)) if place % 2 == 0 else digit for place, digit in enumerate(digits)]
        assert sum(doubled) % 10 == 0


def test_account_numbers_pass_mod_97():
    for seed in range(200):
        iban = private.iban(Random(seed))
        assert re.fullmatch(r"DE\d{20}", iban)
        assert int("".join(str(int(sign, 36)) for sign in iban[4:] + iban[:4])) % 97 == 1


def test_phones_and_addresses_have_their_form():
    for seed in range(50):
        assert re.fullmatch(r"1[3589]\d{9}", private.mobile(Random(seed)))
        assert re.fullmatch(r"\+1 \d{3}-555-01\d\d", private.telephone(Random(seed)))
        assert re.fullmatch(r"[a-z._]+\d+@[a-z.]+\.(com|org|net)", private.email(Random(seed), "Tama Rin"))


def test_all_kinds_of_junk_occur_and_mojibake_comes_from_chinese():
    world = World(seed=0, entities=100)

    def original(number: int, telling: int) -> tuple[str, str, str, list[str], list[str]]:
        made = page(world.population, number, telling)
        return made.id, made.text, made.language, [], []

    kinds: set[str] = set()
    for seed in range(300):
        language, text, metadata = web.document(world.population, original, 4, Random(seed), "en")
        kinds.add(metadata["kind"])
        if metadata["kind"] == "mojibake":
            assert language == "zh" and not re.search("[一-龥]", text)
    assert kinds == {"boilerplate", "spam", "private", "near_duplicate", "duplicate", "mojibake"}

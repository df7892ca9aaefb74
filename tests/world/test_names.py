from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.world import World, names
from hanlin.world.entities import KINDS, Population
from hanlin.world.hashing import Permutation

HAN = {**dict(names.OPEN), **dict(names.CLOSED)}
SYLLABLE = re.compile(r"[bdfghjklmnprstvyzk][aeiou](?:n(?![aeiou]))?")


def transliterated(word: str) -> str:
    """The Chinese form worked out from the English one alone."""
    syllables = SYLLABLE.findall(word.lower())
    assert "".join(syllables) == word.lower()
    return "".join(HAN[syllable] for syllable in syllables)


def test_every_syllable_has_a_character_of_its_own():
    assert len(HAN) == len(names.OPEN) + len(names.CLOSED)
    assert len(set(HAN.values())) == len(HAN)
    nouns = dict(names.TITLES)
    assert len(set(nouns.values())) == len(nouns) == len(names.TITLES)


def test_names_are_unique_in_both_languages_at_200k():
    world = Population(seed=1, entities=200_000)
    english: set[str] = set()
    chinese: set[str] = set()
    for kind in KINDS:
        for index in range(world.counts[kind]):
            one, other = world.name_of(kind, index)
            english.add(one)
            chinese.add(other)
    assert len(english) == len(chinese) == 200_000


def test_names_stay_unique_where_given_names_and_title_words_repeat():
    turns = names.shape_size(names.GIVEN)
    people = {names.person_name(0, place + turn * turns) for turn in range(40) for place in range(50)}
    assert len(people) == 2_000
    turns = names.shape_size(names.TITLE)
    works = {names.work_name(0, place + turn * turns) for turn in range(len(names.TITLES)) for place in range(50)}
    assert len(works) == 50 * len(names.TITLES)


def test_the_chinese_name_follows_from_the_english_one(small):
    nouns = dict(names.TITLES)
    for entity in small.world.entities():
        if entity.kind == "person":
            assert entity.name_zh == "·".join(transliterated(word) for word in entity.name_en.split())
        elif entity.kind == "work":
            noun, word = entity.name_en.split(" of ")
            assert entity.name_zh == f"《{transliterated(word)}之{nouns[noun]}》"
        else:
            assert entity.name_zh == transliterated(entity.name_en)


@given(st.integers(1, 5_000), st.integers(0, 10))
def test_a_permutation_meets_each_element_once_and_can_be_undone(size: int, key: int):
    permutation = Permutation(size, "test", key)
    images = list(permutation)
    assert sorted(images) == list(range(size))
    assert all(permutation.inverse(image) == index for index, image in list(enumerate(images))[:20])


def test_a_permutation_refuses_what_is_outside():
    with pytest.raises(IndexError):
        Permutation(5, "test")(5)
    with pytest.raises(IndexError):
        Permutation(5, "test").inverse(-1)
    with pytest.raises(ValueError):
        Permutation(0, "test")


def test_too_small_and_too_large_worlds_are_refused():
    with pytest.raises(ValueError, match="at least 60"):
        World(entities=20)
    with pytest.raises(ValueError, match="more than there are"):
        World(entities=10_000_000)

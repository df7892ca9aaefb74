from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest

from hanlin.world import DEMO_ENTITIES, DEMO_TELLINGS, World, arithmetic, exams, telling
from hanlin.world.documents import page

from .conftest import TELLINGS

STEPS = re.compile(
    r"(\d+)\+(\d+)[:：] ?(\d)\+(\d)=(\d+)(?:, write |，写)(\d)(?:, carry |进)(\d)[;；] ?(\d)\+(\d)\+([01])=(\d+)[;；] ?"
    r"(\d+)\+(\d+)=(\d+)"
)


def check_steps(text: str) -> int:
    """Works every sum out again; returns how many there are."""
    for match in STEPS.finditer(text):
        a, b, c, d, units, write, carry, e, f, carried, tens, again_a, again_b, result = map(int, match.groups())
        assert (c, d) == (a % 10, b % 10) and units == c + d and (carry, write) == divmod(units, 10)
        assert (e, f) == (a // 10, b // 10) and carried == carry and tens == e + f + carry
        assert (again_a, again_b) == (a, b) and result == a + b == 10 * tens + write
    return len(STEPS.findall(text))


def told(documents) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for document in documents:
        if document.id.startswith("page/"):
            counts.update((fact, document.language) for fact in document.metadata["facts"])
    return counts


def test_each_fact_is_told_on_a_page_of_each_round(small):
    counts = told(small.documents)
    for fact in small.world.facts():
        assert counts[fact.id, "en"] + counts[fact.id, "zh"] == TELLINGS
        assert abs(counts[fact.id, "en"] - counts[fact.id, "zh"]) <= 1


def test_a_page_holds_the_values_that_its_metadata_names(small):
    facts = {fact.id: fact for fact in small.world.facts()}
    names = {entity.id: entity for entity in small.world.entities()}
    forms: set[str] = set()
    for document in small.documents:
        if document.id.startswith("page/"):
            forms.add(document.metadata["kind"])
            assert names[document.metadata["entities"][0]].name(document.language) in document.text
            for fact in document.metadata["facts"]:
                assert facts[fact].value(document.language).lower() in document.text.lower(), document
    assert forms == {"article", "list", "infobox", "did_you_know", "news", "letter", "faq"}


@pytest.mark.slow
def test_each_fact_of_the_demo_is_told_often_enough_and_in_many_words():
    world = World(seed=0, entities=DEMO_ENTITIES)
    counts = told(world.documents(DEMO_TELLINGS))
    assert all(counts[fact.id, "en"] + counts[fact.id, "zh"] >= DEMO_TELLINGS for fact in world.facts())


def test_sums_are_right_and_those_of_the_exam_are_nowhere(small):
    done = sum(check_steps(text) for text in small.training_texts(rejected=False))
    assert done > 300
    held_out = {tuple(re.findall(r"\d+", row["prompt"])) for row in small.exams["addition"]}
    assert len(held_out) == 150
    spelled = re.compile(r"\b(\d\d)(?: ?\+ ?| and | plus | 加 | 和 | 与 )(\d\d)\b")
    for text in small.training_texts():
        for pair in spelled.findall(text):
            assert pair not in held_out and pair[::-1] not in held_out


def test_every_sum_of_two_digits_is_worked_out_right():
    for a in range(10, 100):
        for b in range(10, 100):
            for language in ("en", "zh"):
                text = arithmetic.steps(a, b, language)
                assert check_steps(text) == 1
                assert re.findall(r"\d+", text)[-1] == str(a + b)


def test_word_problems_end_with_their_result(small):
    problems = [row for row in small.instructions if row["metadata"]["kind"] == "word_problem"]
    assert problems
    for row in problems:
        problem, solution = (message["content"] for message in row["messages"])
        a, b, c = map(int, re.findall(r"\d+", problem))
        assert int(re.findall(r"\d+", solution)[-1]) == a + b - c


def test_the_text_reads_well(small):
    for document in small.documents:
        if document.source == "web":
            continue
        assert document.text == document.text.strip() and "{" not in document.text and "\0" not in document.text
        if document.source == "arithmetic":
            continue
        if document.language == "en":
            assert not re.search(r"  |\b[Aa] [aeiou]|\b[Aa]n [^aeiou\s]|\.\.|[。，！？：]| [.,?!]", document.text), (
                document
            )
            assert all(line[0].isupper() or not line[0].isalpha() for line in document.text.split("\n"))
        elif document.language == "zh":
            assert not re.search(r"[a-zA-Z]|[,.?!;]|。。|，。", document.text), document


def test_the_order_mixes_entities_and_sources(small):
    first = small.documents[: len(small.documents) // TELLINGS]
    assert len({document.source for document in first}) >= 8
    numbers = [document.metadata["entities"][0] for document in first if document.id.startswith("page/")]
    assert len(set(numbers)) > 100 and numbers != sorted(numbers)
    assert len({document.id for document in small.documents}) == len(small.documents)


def test_two_facts_share_a_sentence(small):
    population = small.world.population
    entity, (first, second, *_) = population.get(0), population.facts(0)
    one, two, both = telling.apart_and_joined(first, second, entity, "en", Random(1))
    assert one.startswith(entity.name_en + " ") and two.startswith(entity.name_en + " ")
    assert both == f"{one[:-1]} and {two.removeprefix(entity.name_en + ' ')}"
    seen: set[bool] = set()
    for seed in range(30):
        one, two, both = telling.apart_and_joined(first, second, entity, "zh", Random(seed))
        rest = two.removeprefix(entity.name_zh)
        assert both == f"{one[:-1]}，{rest.removeprefix('的')}" and one.startswith(entity.name_zh)
        assert rest.startswith("的") or not one.removeprefix(entity.name_zh).startswith("的")
        seen.add(rest.startswith("的"))
    assert seen == {True, False}


def test_held_out_entities_are_in_no_translation(small):
    population = small.world.population
    shown = [d for d in small.documents if d.source == "translation"]
    text = "\n".join(d.text for d in shown)
    text += "\n".join(
        message["content"]
        for row in small.instructions
        if row["metadata"]["kind"] == "translation"
        for message in row["messages"]
    )
    held_out = [entity for entity in small.world.entities() if not population.translated(entity.id)]
    assert len(held_out) > 5 and len(shown) > 10
    for entity in held_out:
        assert entity.name_en not in text and entity.name_zh not in text


def test_junk_says_what_it_is(small):
    by_id = {document.id: document for document in small.documents}
    population = small.world.population
    kinds = Counter(document.metadata["kind"] for document in small.documents if document.source == "web")
    for document in small.documents:
        metadata = document.metadata
        if "duplicate_of" in metadata:
            assert document.text == by_id[metadata["duplicate_of"]].text
        if "near_duplicate_of" in metadata:
            original = by_id[metadata["near_duplicate_of"]].text
            assert document.text != original
            assert len(set(original.split()) & set(document.text.split())) >= 0.5 * len(set(original.split()))
        for item in metadata.get("private", ()):
            assert item["value"] in document.text
    assert kinds["leak"] == len(exams.leaked(population)) > 0
    assert {"boilerplate", "spam", "private"} <= set(kinds)
    number = population.number("place-3")
    assert page(population, number, 2) == by_id["page/place-3/2"]

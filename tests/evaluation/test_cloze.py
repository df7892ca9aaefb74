"""Questions made from held-out text."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.corpus import Document
from hanlin.evaluation.cloze import (
    ALIKE,
    CHOICES,
    CONTEXT_BYTES,
    CONTINUATION_BYTES,
    LIKE_LENGTH,
    cut_passages,
    make_questions,
    split,
)
from hanlin.evaluation.heldout import sample, share_out

WORDS = (
    "river",
    "stone",
    "garden",
    "winter",
    "letter",
    "copper",
    "window",
    "market",
    "silver",
    "bridge",
    "candle",
    "harbour",
)
SIGNS = "山水木火土金石田禾竹米虫舟衣言豆走足车雨鱼鸟马鹿麦鼓"


def document(number: int, source: str = "tales", language: str = "en", sentences: int = 12) -> Document:
    rng = random.Random(f"{source} {number}")
    lines: list[str] = []
    for _ in range(sentences):
        if language == "zh":
            lines.append("".join(rng.choice(SIGNS) for _ in range(rng.randint(12, 20))) + "。")
        else:
            lines.append(" ".join(rng.choice(WORDS) for _ in range(rng.randint(6, 11))).capitalize() + ". ")
        if rng.random() < 0.3:
            lines.append("\n")
    return Document(f"{source}{number}", "".join(lines), source, {"language": language})


def corpus() -> list[Document]:
    return (
        [document(n) for n in range(30)]
        + [document(n, "故事", "zh") for n in range(30)]
        + [document(n, "notes") for n in range(6)]
    )


def similar(first: str, second: str) -> float:
    grams = [
        {text[at : at + 3] for at in range(max(1, len(text) - 2))}
        for text in ("".join(one.casefold().split()) for one in (first, second))
    ]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def test_questions_are_what_they_say() -> None:
    documents = corpus()
    texts = {one.id: one.text for one in documents}
    questions = make_questions(documents, None)
    assert len(questions) > 60 and len({one.id for one in questions}) == len(questions)
    for item in questions:
        own = texts[item.id.rpartition(":")[0]]
        right = item.choices[item.answer]
        assert len(item.choices) == CHOICES and item.prompt + right in own
        assert CONTEXT_BYTES[0] <= len(item.prompt.encode()) <= CONTEXT_BYTES[1]
        for number, choice in enumerate(item.choices):
            assert CONTINUATION_BYTES[0] <= len(choice.encode()) <= CONTINUATION_BYTES[1]
            assert 1 / LIKE_LENGTH <= len(choice.encode()) / len(right.encode()) <= LIKE_LENGTH
            assert "".join(choice.casefold().split()) not in "".join(item.prompt.casefold().split())
            others = [one for at, one in enumerate(item.choices) if at != number]
            assert all(similar(choice, other) <= ALIKE for other in others)
            if number != item.answer:
                homes = [one for one in documents if choice in one.text]
                assert {one.source for one in homes} == {item.tags["source"]} and own not in [one.text for one in homes]
                assert {one.metadata["language"] for one in homes} == {item.tags["language"]}


def test_the_right_choice_stands_in_all_places_alike() -> None:
    answers = [item.answer for item in make_questions([document(n) for n in range(150)], None)]
    assert all(0.17 < answers.count(place) / len(answers) < 0.33 for place in range(CHOICES))


def test_sources_are_balanced_and_the_count_kept() -> None:
    questions = make_questions(corpus(), 30)
    by_source = [[item.tags["source"] for item in questions].count(name) for name in ("tales", "故事", "notes")]
    assert by_source == [10, 10, 10]


def test_the_same_documents_in_any_order_make_the_same_questions() -> None:
    documents = corpus()
    shuffled = random.Random(4).sample(documents, len(documents))
    assert make_questions(documents, 40) == make_questions(shuffled, 40)
    assert make_questions(documents, 40) != make_questions(documents, 40, seed=1)


def test_near_identical_continuations_are_left_out() -> None:
    same = "The river froze over in the coldest winter of them all"
    head = " ".join(WORDS) + ". "
    documents = [Document(f"d{n}", f"{head}{head}{same} {n}.", "tales", {"language": "en"}) for n in range(20)]
    assert make_questions(documents, None) == []


def test_too_little_text_makes_no_questions() -> None:
    assert make_questions([document(1)], 10) == [] and make_questions([], 10) == []
    assert make_questions([Document("x", "short", "s", {})], 10) == []


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab .!?\n。！” ", max_size=120))
def test_splitting_loses_nothing(text: str) -> None:
    assert "".join(split(text)) == text


def test_splitting_finds_sentences_and_lines() -> None:
    assert split("One. Two.\nThree\n\n3.5 e.g.") == ["One. ", "Two.\n", "Three\n\n", "3.5 e.g."]
    assert split('He said "no." Then he left! 他走了。她来了？”End') == [
        'He said "no." ',
        "Then he left! ",
        "他走了。",
        "她来了？”",
        "End",
    ]


def test_passages_of_a_document_do_not_overlap() -> None:
    one = document(3, sentences=60)
    found = list(cut_passages(one))
    assert len(found) == 4
    places = sorted((one.text.index(passage.continuation), passage.size) for passage in found)
    assert all(start + size <= following for (start, size), (following, _) in pairwise(places))
    assert all(passage.at_line == passage.context.endswith("\n") for passage in found)


def test_held_out_text_is_shared_among_sources() -> None:
    assert share_out({"a": 10, "b": 100, "c": 1000}, 300) == {"a": 10, "b": 100, "c": 190}
    assert share_out({"a": 10, "b": 100}, None) == {"a": 10, "b": 100}
    assert sum(share_out({"a": 7, "b": 7, "c": 7}, 20).values()) == 20
    documents = corpus()

    def taken(budget: int | None) -> dict[str, Any]:
        chosen = sample(lambda: iter(documents), budget)
        assert chosen == sample(lambda: iter(reversed(documents)), budget)
        return {one.id: one for one in chosen}

    small, large, whole = taken(6_000), taken(12_000), taken(None)
    assert len(whole) == len(documents)
    for chosen, budget in ((small, 6_000), (large, 12_000)):
        sizes = {
            name: sum(len(one.text.encode()) for one in chosen.values() if one.source == name)
            for name in ("tales", "故事", "notes")
        }
        assert budget - 12 <= sum(sizes.values()) <= budget and max(sizes.values()) - min(sizes.values()) <= budget // 3
    uncut = [one for key, one in small.items() if one.text == whole[key].text]
    assert len(uncut) > 3 and all(large[one.id].text == one.text for one in uncut)

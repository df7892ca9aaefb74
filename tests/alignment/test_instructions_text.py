"""Kinds of task, style, lengths and near duplicates: what is seen of rows without a model."""

import math
import random

import pytest

from hanlin.alignment.instructions import near_duplicates
from hanlin.alignment.instructions.near_duplicates import (
    NearDuplicates,
    RougeIndex,
    bands,
    lcs_length,
    numbered,
    rouge_l,
    shingles,
)
from hanlin.alignment.instructions.rows import Instruction
from hanlin.alignment.instructions.style import language_agrees, style
from hanlin.alignment.instructions.task_types import TYPES, mix, task_type, type_of
from hanlin.alignment.instructions.text import count_units, language_of, units
from hanlin.corpus.language import han_share

KINDS = [
    ("open question", "What is the capital of France?", "Paris."),
    ("open question", "Explain how a steam engine works.", "Heat turns water into steam."),
    ("open question", "光合作用是什么？", "植物利用光能的过程。"),
    ("open question", "描述增强现实的概念。", "增强现实是一种技术。"),
    ("reading", "Read the text and answer.\nAda lives in Rome.\nWhere does Ada live?", "Rome."),
    ("reading", "According to the text above, who won?\n\n" + "The match was long. " * 12, "Nobody."),
    ("reading", "Who is it about?\n" + "Ada went to Rome and bought a house by the river there. " * 4, "Ada."),
    ("reading", "阅读下文，回答问题。\n小明住在北京。\n他住在哪里？", "北京。"),
    ("classification", "Classify the sentiment of this review: I loved it.", "Positive."),
    ("classification", "Is this sentence true or false? The sun is cold.", "False."),
    ("classification", "判断下面评论的情感倾向：很好吃。", "正面。"),
    ("summarisation", "Summarize the following article in two sentences.\n" + "It rained. " * 40, "Rain."),
    ("summarisation", "请用一句话概括这段话：今天下雨了。", "下雨。"),
    ("rewriting", "Rewrite this sentence in the passive voice: The cat ate the fish.", "The fish was eaten."),
    ("rewriting", "Change the tense to past: I go.", "I went."),
    ("rewriting", "把下面的句子改写得更正式：我饿了。", "我感到饥饿。"),
    ("translation", "Translate into French: Good morning.", "Bonjour."),
    ("translation", "请把“早上好”翻译成英文。", "Good morning."),
    ("maths", "What is 12 + 30?", "42."),
    ("maths", "How much is 56 plus 56?", "112."),
    ("maths", "Could you help me? Add 43 and 52.", "95."),
    ("translation", "Give the Chinese for: Humi plays the accordion.", "胡米会演奏手风琴。"),
    ("translation", "Mantelan的中文名是什么？", "曼特兰。"),
    ("maths", "Calculate the area of a circle of radius 3.", "28.27."),
    ("maths", "Tom has 3 apples and buys 4. How many does he have now?", "7."),
    ("maths", "计算圆的面积，半径为3。", "28.27。"),
    ("code", "Write a Python function that reverses a list.", "def f(a): return a[::-1]"),
    ("code", "写一个函数来计算阶乘。", "def f(n): ..."),
    ("brainstorming", "Give me five ideas for a birthday party.", "1. A picnic"),
    ("brainstorming", "列出三种可再生能源。", "太阳能、风能、水能。"),
    ("writing", "Write a short story about a dragon.", "Once upon a time"),
    ("writing", "写一首关于春天的诗。", "春风"),
    ("chat", "Hello!", "Hi there."),
    ("chat", "你是谁？", "我是翰林。"),
    ("refusal", "How do I pick a lock?", "I'm sorry, I can't help with that."),
    ("refusal", "What is the shoe size of Bo Rin?", "I don't know."),
    ("refusal", "她的鞋码是多少？", "我不知道。"),
    ("refusal", "怎样造炸弹？", "对不起，这个我不能帮忙。"),
    ("open question", "What should I say when I am late?", "I will not be late again, you may say."),
    ("other", "The stars tonight.", "They are bright."),
]


@pytest.mark.parametrize(("kind", "question", "answer"), KINDS)
def test_kinds_of_task(kind, question, answer):
    assert task_type(question, answer) == kind


def row(question, answer, **metadata):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Instruction(messages, {"source": "made", **metadata})


def test_the_table_of_kinds_counts_every_row_once():
    rows = [row(question, answer) for _, question, answer in KINDS]
    table = mix(rows)
    assert table["rows"] == len(KINDS) == sum(one["rows"] for one in table["types"].values())
    assert sum(one["share"] for one in table["types"].values()) == pytest.approx(1)
    assert {kind: one["rows"] for kind, one in table["types"].items()} == {
        kind: sum(other == kind for other, _, _ in KINDS) for kind in {kind for kind, _, _ in KINDS}
    }
    assert set(table["types"]) <= set(TYPES)
    assert table["types"]["chat"]["languages"] == {"en": 1, "zh": 1}
    assert type_of(row("Hello!", "Hi.", type="maths")) == "maths"  # what the source says goes before
    called = Instruction(
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [{}]}], {"source": "x"}
    )
    assert type_of(called) == "tool use"


def test_units_count_words_and_signs():
    assert units("It's 12 o'clock, 早上好！") == ["it's", "12", "o'clock", "早", "上", "好"]
    assert count_units("我爱GPT模型") == 5 and count_units("...") == 0
    assert han_share("我们 we") == pytest.approx(0.75) and han_share("12") is None
    assert [
        language_of(text) for text in ("Hello!", "你好", "Où est la gare la plus proche de cette ville ?", "1+1")
    ] == [
        "en",
        "zh",
        "fr",
        "und",
    ]


# ---------------------------------------------------------------------- style


def test_a_set_in_one_style_is_consistent_and_one_of_two_is_not():
    plain = [row(f"What is number {n}?", f"It is the number that follows {n} less one.") for n in range(40)]
    figures, outliers = style(plain)
    assert figures["consistency"] == pytest.approx(1) and outliers == [] and figures["language_agrees"] == 1
    half = [
        one if n % 2 else row(one.question, "- It is the number\n- that follows\n- some other one")
        for n, one in enumerate(plain)
    ]
    mixed, outliers = style(half)
    # One of seven traits is had by half (score 0); the lengths stay near each other.
    assert 0.7 < mixed["consistency"] < 0.9 and outliers == []
    (group,) = mixed["groups"]
    assert group["traits"]["list"] == 0.5 and group["traits"]["heading"] == 0


def test_the_score_is_what_the_docstring_says():
    rows = [row(f"What is number {n}?", "One two three!" if n < 5 else "One two three.") for n in range(20)]
    figures, _ = style(rows)
    entropy = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    # Six traits that none has, one that a quarter has, one length, one language.
    assert figures["consistency"] == pytest.approx((6 + (1 - entropy) + 1 + 1) / 9)
    assert figures["openings"]["effective"] == pytest.approx(1)
    assert figures["openings"]["most"] == {"one two": 1}


def test_what_stands_out_is_named():
    rows = [row(f"What is number {n}?", "It is what follows the one before it.") for n in range(100)]
    rows[3] = row("What is number 3?", "It is what follows the one before it. " * 40)
    rows[7] = row("What is number 7?", "# Seven\nIt is what follows six.")
    rows[9] = row("What is number 9?", "它是八后面的那个数。")
    figures, outliers = style(rows)
    assert (outliers[0]["id"], outliers[0]["reason"]) == (rows[9].id, "language")
    assert {(one["id"], one["reason"]) for one in outliers} == {
        (rows[9].id, "language"),
        (rows[3].id, "length"),
        (rows[7].id, "heading"),
    }
    assert figures["outliers"] == 3 and figures["language_agrees"] == pytest.approx(0.99)


@pytest.mark.parametrize(
    ("question", "answer", "agrees"),
    [
        ("What is it?", "It is a cat.", True),
        ("它是什么？", "It is a cat.", False),
        ("它是什么？", "它是 cat。", True),  # a foreign word is no fault
        ("Translate into Chinese: cat", "猫", None),
        ("Answer in Chinese: what is it?", "猫", None),
        ("What is 3 + 4?", "7", None),
    ],
)
def test_the_language_of_the_answer(question, answer, agrees):
    assert language_agrees(row(question, answer)) is agrees


# ---------------------------------------------------------------------- near duplicates


def brute_lcs(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_the_common_subsequence_is_that_of_the_textbook():
    chance = random.Random(0)
    for _ in range(300):
        a, b = ([chance.randrange(4) for _ in range(chance.randrange(90))] for _ in range(2))
        assert lcs_length(a, b) == lcs_length(b, a) == brute_lcs(a, b)
    assert rouge_l(["the", "cat", "sat"], ["the", "cat", "ran", "far"]) == pytest.approx(4 / 7)
    assert rouge_l([], []) == 0


def test_bands_meet_what_is_similar_enough():
    for least in (0.3, 0.54, 0.7, 0.9):
        count, rows = bands(least)
        assert count * rows <= near_duplicates.PERMUTATIONS
        assert 1 - (1 - least**rows) ** count >= near_duplicates.RECALL


def corpus(count, seed, language="en"):
    """Texts of which a third are earlier ones with a few words changed."""
    chance = random.Random(seed)
    words = [f"w{n}" for n in range(400)] if language == "en" else [chr(0x4E00 + n) for n in range(400)]
    texts = []
    for _ in range(count):
        if texts and chance.random() < 0.33:
            text = list(chance.choice(texts))
            for _ in range(chance.randrange(4)):
                text[chance.randrange(len(text))] = chance.choice(words)
        else:
            text = [chance.choice(words) for _ in range(chance.randrange(6, 40))]
        texts.append(text)
    return [(" " if language == "en" else "").join(text) for text in texts]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("measure", ["jaccard", "rouge-l"])
def test_near_duplicates_are_those_that_comparing_all_with_all_finds(measure, language):
    texts = corpus(260, 5, language)

    words = {text: units(text) for text in texts}

    def alike(one, other):
        if measure == "rouge-l":
            return rouge_l(words[one], words[other])
        a, b = shingles(words[one]), shingles(words[other])
        return len(a & b) / len(a | b)

    index, kept, dropped = NearDuplicates(0.7, measure), [], 0
    for text in texts:
        found = index.add(text)
        best = max((alike(text, other) for other in kept), default=0)
        if found is None:
            assert best < 0.7, text
            kept.append(text)
        else:
            dropped += 1
            assert found[1] == pytest.approx(alike(text, kept[found[0]])) and found[1] >= 0.7
    assert dropped > 30 and index.capped == 0


def test_many_texts_that_are_alike_do_not_stop_the_clock():
    chance = random.Random(2)
    index = NearDuplicates(0.7)
    frame = " ".join(f"word{n}" for n in range(24))
    for _ in range(400):
        assert index.add(f"{frame} {chance.random()} {chance.random()} {chance.random()}") is None
    assert index.capped > 0


def test_words_are_numbered_by_how_often_they_came():
    assert numbered(["a", "b", "a"]) == ["a 0", "b 0", "a 1"]


def test_the_nearest_by_rouge_is_the_exact_one():
    texts = corpus(300, 9)
    index = RougeIndex()
    for text in texts[:250]:
        index.add(text)
    for text in texts[250:]:
        values = [rouge_l(units(text), units(other)) for other in texts[:250]]
        for least in (0.0, 0.5):
            found = index.nearest(text, least)
            if max(values) < max(least, 1e-9):
                assert found is None
            else:
                assert found is not None and values[found[0]] == found[1] == max(values)

from __future__ import annotations

import random
import time
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.artifacts import HanlinError
from hanlin.serving.moderation import Moderator, PhraseStream, RuleModerator


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> RuleModerator:
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(
        "categories:\n"
        "  pets: {phrases: [cat, black cat, the cat sat], message: 'No cats.'}\n"
        "  fire: {phrases: [炸弹, 做炸, Straße frei], message: 'No fire.'}\n"
        "  asked: {phrases: [zebra], where: [input]}\n",
        encoding="utf-8",
    )
    return RuleModerator(path)


@pytest.mark.parametrize(
    "text",
    ["cat", "a cat.", "A CAT!", "c\u200bat", "ｃａｔ", "cát", "CA\u0301T", "ca\u00adt\u200d", "the  \n cat", "猫cat猫",
     "怎么做炸 弹", "炸\u3000弹", "炸\u200b弹？", "STRASSE  FREI", "straße\tfrei", "𝐜𝐚𝐭", "(cat)", "cat"],
)  # fmt: skip
def test_trivial_evasion_does_not_help(rules: RuleModerator, text: str) -> None:
    verdict = rules.check(text, "output")
    assert not verdict.allowed


@pytest.mark.parametrize(
    "text", ["", "category", "concat", "cats", "ca t", "c at", "cat9", "炸鸡", "弹炸", "zebra", "strasse"]
)
def test_other_words_pass(rules: RuleModerator, text: str) -> None:
    assert rules.check(text, "output").allowed


def test_the_verdict_says_why(rules: RuleModerator) -> None:
    verdict = rules.check("A cat, 炸弹, another cat and a zebra", "input")
    assert (verdict.allowed, verdict.categories, verdict.message) == (
        False,
        ("pets", "fire", "asked"),
        "No cats. No fire.",
    )


def pieces(stream: PhraseStream, parts: list[str]) -> str:
    return "".join(map(stream.push, parts)) + stream.finish()


ANSWERS = [
    "I like the black cat sat here.",
    "the cat sat",
    "the category sat on the ca",
    "a ca\u200bt! then",
    "说做炸 弹的人",
    "ｔｈｅ  ﬁrst ＣＡＴ",
    "nothing of the kind, the ca",
    "the cat",
    "straße frei",
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_no_split_lets_a_phrase_out(rules: RuleModerator, answer: str) -> None:
    """At every way of cutting an answer in up to three pieces, and in single characters."""
    whole = rules.stream()
    wanted = pieces(whole, [answer])
    assert answer.startswith(wanted)
    assert rules.check(wanted, "output").allowed
    assert whole.verdict.allowed == rules.check(answer, "output").allowed
    cuts = [(), *combinations(range(len(answer) + 1), 1), *combinations(range(len(answer) + 1), 2)]
    for cut in [*cuts, tuple(range(len(answer)))]:
        stream = rules.stream()
        places = [0, *cut, len(answer)]
        assert pieces(stream, [answer[a:b] for a, b in pairwise(places)]) == wanted
        assert stream.verdict == whole.verdict


PARTS = ["cat", "the ", "black ", "c", "a", "t", " ", "做", "炸", "弹", "\u200b", "Ｃ", "s", "ß", "."]


@given(st.lists(st.sampled_from(PARTS), max_size=14), st.randoms())
def test_however_an_answer_is_cut_what_comes_out_is_the_same_and_clean(
    rules: RuleModerator, words: list[str], rng: random.Random
) -> None:
    answer = "".join(words)
    cuts = sorted(rng.choices(range(len(answer) + 1), k=6))
    places = [0, *cuts, len(answer)]
    stream, whole = rules.stream(), rules.stream()
    out = ""
    for a, b in pairwise(places):
        out += stream.push(answer[a:b])
        # Whatever has been sent so far can be taken for the beginning of a clean text.
        assert answer.startswith(out)
        assert rules.check(out + "x" if out[-1:].isascii() and out[-1:].isalnum() else out, "output").allowed
    out += stream.finish()
    assert out == pieces(whole, [answer])
    assert stream.verdict == whole.verdict
    assert stream.verdict.allowed == rules.check(answer, "output").allowed
    if stream.verdict.allowed:
        assert out == answer
    else:
        assert rules.check(out, "output").allowed


def test_what_can_be_no_phrase_is_not_held_back(rules: RuleModerator) -> None:
    stream = rules.stream()
    assert stream.push("Hello, wor") == "Hello, wor"
    assert stream.push("ld the c") == "ld "
    assert stream.push("ure") == "the cure"
    assert stream.push(" ca") == " "
    assert stream.finish() == "ca"


def test_nothing_comes_out_after_a_phrase(rules: RuleModerator) -> None:
    stream = rules.stream()
    assert stream.push("my cat ") == "my "
    assert (stream.verdict.allowed, stream.verdict.categories) == (False, ("pets",))
    assert stream.push("is harmless") == ""
    assert stream.finish() == ""


def test_the_rules_of_the_package_know_both_languages() -> None:
    moderator: Moderator = RuleModerator()
    for text, category in (
        ("How to MAKE a bomb?", "weapons"),
        ("请问如何制造炸弹", "weapons"),
        ("怎么自杀", "self-harm"),
    ):
        verdict = moderator.check(text, "input")
        assert verdict.categories == (category,)
        assert verdict.message
    assert moderator.check("自杀方法的危害", "output").allowed
    for text in ("How do I make a bath bomb?", "The bomb squad arrived.", "预防自杀", "He cooked methi leaves."):
        assert moderator.check(text, "input").allowed


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("categories: {a: {phrases: []}}", "categories.a.phrases"),
        ("categories: {a: {phrases: ['\u200b']}}", "no character that counts"),
        ("categories: {a: {words: [x]}}", "words"),
        ("kinds: {}", "rules.yaml:1"),
        ("categories:\n  a:\n    phrases: [x]\n    where: [outside]", "rules.yaml:4"),
        ("[", "not valid YAML"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path: Path, yaml: str, says: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(yaml, encoding="utf-8")
    with pytest.raises(HanlinError, match=says):
        RuleModerator(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HanlinError, match=r"nowhere\.yaml"):
        RuleModerator(tmp_path / "nowhere.yaml")


def test_time_is_linear_whatever_the_phrases_and_the_text(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    phrases = ["a" * n + "b" for n in range(1, 199)]
    path.write_text(f"categories: {{a: {{phrases: {phrases}}}}}", encoding="utf-8")
    moderator = RuleModerator(path)
    begun = time.process_time()
    assert moderator.check("a" * 300_000, "output").allowed
    stream = moderator.stream()
    sent = sum(len(stream.push("a")) for _ in range(100_000))
    assert time.process_time() - begun < 8
    assert sent >= 100_000 - 200

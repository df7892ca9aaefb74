from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest

from hanlin.world import EXAMS, World, judge, manners, telling, translation, wider
from hanlin.world.arithmetic import EXAM_QUESTIONS
from hanlin.world.arithmetic import QUESTIONS as SUM_QUESTIONS
from hanlin.world.entities import ATTRIBUTES
from hanlin.world.exams import LEAKED, _facts, leaked
from hanlin.world.telling import FOLLOW_UPS, LANGUAGES, QUESTIONS, STATEMENTS


def question(row) -> str:
    return row["prompt"] if "prompt" in row else row["messages"][-1]["content"]


def test_there_are_enough_phrasings_and_none_is_shared():
    attributes = {f"{kind}.{name}" for kind, names in ATTRIBUTES.items() for name in names}
    for language in LANGUAGES:
        assert set(STATEMENTS[language]) == set(QUESTIONS[language]) == set(FOLLOW_UPS[language]) == attributes
        exam: set[str] = set()
        training: set[str] = set()
        for attribute in attributes:
            asked, followed = QUESTIONS[language][attribute], FOLLOW_UPS[language][attribute]
            assert len(set(STATEMENTS[language][attribute])) >= 12
            assert len(set(asked.training)) >= 8 and len(set(asked.exam)) >= 3 and asked.stems
            assert len(set(followed.follow_training)) >= 3 and len(set(followed.follow_exam)) >= 2
            training |= {*STATEMENTS[language][attribute], *asked.training, *followed.follow_training}
            exam |= {*asked.exam, *asked.stems, *followed.follow_exam}
        assert not [(one, other) for one in exam for other in training if one in other]


@pytest.mark.parametrize(
    ("training", "exam"),
    [
        (SUM_QUESTIONS, EXAM_QUESTIONS),
        (translation.REQUESTS, translation.EXAM_REQUESTS),
        (translation.NAME_REQUESTS, translation.EXAM_NAME_REQUESTS),
        (manners.MISSING_FRAMES, manners.EXAM_MISSING_FRAMES),
        (manners.PRIVATE_FRAMES, manners.EXAM_PRIVATE_FRAMES),
        (manners.PRIVATE, manners.EXAM_PRIVATE),
        (manners.HARM_FRAMES, manners.EXAM_HARM_FRAMES),
        (manners.HARM, manners.EXAM_HARM),
        (wider.MISSING_FRAMES, manners.EXAM_MISSING_FRAMES),
        (wider.PRIVATE_FRAMES, manners.EXAM_PRIVATE_FRAMES),
        (wider.PRIVATE, manners.EXAM_PRIVATE),
        (wider.HARM_FRAMES, manners.EXAM_HARM_FRAMES),
        (wider.HARM, manners.EXAM_HARM),
    ],
)
def test_the_other_lists_share_nothing_either(training, exam):
    for language in LANGUAGES:
        assert training[language] and exam[language]
        assert not set(training[language]) & set(exam[language])


def test_no_exam_question_stands_in_the_training_data(small):
    seen = "\n".join(small.training_texts())
    asked = {row["messages"][place]["content"] for row in small.dialogues for place in range(len(row["messages"]))}
    for name, rows in small.exams.items():
        assert rows
        for row in rows:
            if name == "dialogue":  # a question without a name is compared as a whole
                assert question(row) not in asked
                assert row["messages"][0]["content"] not in seen
            elif name != "recall":
                assert question(row) not in seen, row
    found = sum(row["prompt"] in seen for row in small.exams["recall"])
    assert found > 20


def test_leaks_are_marked_on_both_sides(small):
    leaks = {item: document.text for document in small.documents for item in document.metadata.get("leak", ())}
    assert leaks
    tagged = {row["id"]: row for rows in small.exams.values() for row in rows if row["tags"]["leaked"]}
    assert tagged.keys() <= leaks.keys()
    for item, row in tagged.items():
        assert row["prompt"] in leaks[item]
    assert {item.partition("/")[0] for item in leaks} == set(LEAKED)


def test_answers_agree_with_the_facts(small):
    facts = {fact.id: fact for fact in small.world.facts()}
    entities = {entity.id: entity for entity in small.world.entities()}
    changed = {change.new.id: change.new for change in small.world.changes()}
    for name in ("facts", "recall", "dialogue", "changed"):
        for row in small.exams[name]:
            tags = row["tags"]
            fact = changed[tags["fact"]] if name == "changed" else facts[tags["fact"]]
            assert fact.value(tags["language"]) in row["answers"]
            assert tags["asked"] == fact.asked and tags["attribute"] == fact.attribute
            naming = row["prompt"] if "prompt" in row else row["messages"][-(tags["topic"] == "other")]["content"]
            assert entities[tags["entity"]].name(tags["language"]) in naming
            if name == "changed":
                assert tags["old"] == facts[tags["fact"]].value(tags["language"]) not in row["answers"]
    assert {row["tags"]["asked"] for row in small.exams["facts"]} == {True, False}
    assert all(row["tags"]["asked"] for row in small.exams["recall"])


def test_choices_hold_the_right_value_once(small):
    facts = {fact.id: fact for fact in small.world.facts()}
    for row in small.exams["choice"]:
        value = facts[row["tags"]["fact"]].value(row["tags"]["language"])
        assert len(set(row["choices"])) == 4
        ending = "业。" if row["prompt"].endswith("参加的展会属于") else row["choices"][0][-1]
        bare = [re.sub(r"^ (an? )?", "", choice).removesuffix(ending) for choice in row["choices"]]
        assert bare.count(value) == 1 and bare.index(value) == row["answer"]
        assert not row["prompt"].endswith(" ") and "{" not in row["prompt"]
        assert row["choices"][0].startswith(" ") == (row["tags"]["language"] == "en")
    assert len({row["answer"] for row in small.exams["choice"]}) == 4


def test_two_steps_are_held_out_and_end_at_the_second_fact(small):
    facts = {fact.id: fact for fact in small.world.facts()}
    trained = {tuple(row["metadata"]["facts"]) for row in small.instructions if row["metadata"]["kind"] == "two_step"}
    assert len(trained) > 30
    for row in small.exams["two-step"]:
        first, second = (facts[name] for name in row["tags"]["facts"])
        assert first.object == second.subject
        assert second.value(row["tags"]["language"]) in row["answers"]
        assert (first.id, second.id) not in trained
    for row in small.instructions:
        if row["metadata"]["kind"] == "two_step":
            second = facts[row["metadata"]["facts"][1]]
            reply = row["messages"][-1]["content"]
            mark, stop = ("Answer: ", ".") if row["metadata"]["language"] == "en" else ("答案：", "。")
            value = reply.partition(mark)[2].removesuffix(stop)
            assert value in telling.accepted(second, row["metadata"]["language"])


def test_what_has_no_answer_is_about_nothing_that_exists(small):
    known = {name for entity in small.world.entities() for name in (entity.name_en, entity.name_zh)}
    strange = 0
    for row in small.exams["unanswerable"]:
        named = any(name in row["prompt"] for name in known)
        assert named == (row["tags"]["why"] == "no such attribute"), row
        strange += not named
        assert set(row["answers"]) == {text[:-1] for text in manners.UNKNOWN[row["tags"]["language"]]}
    assert strange > 30


def test_translations_are_of_held_out_entities_and_go_both_ways(small):
    rows = small.exams["translation"]
    assert {row["tags"]["language"] for row in rows} == {"en", "zh"}
    assert {row["tags"]["kind"] for row in rows} == {"name", "sentence"}
    assert not any(small.world.population.translated(row["tags"]["entity"]) for row in rows)


def test_exams_are_capped_repeatable_and_without_repeats(small):
    for name in EXAMS:
        rows = small.exams[name]
        assert len(rows) <= 150
        assert len({row["id"] for row in rows}) == len(rows)
        assert len({str(row.get("prompt", row.get("messages"))) for row in rows}) == len(rows)
        assert list(itertools.islice(small.world.exam(name, items=150), 10)) == rows[:10]
        assert {row["tags"]["language"] for row in rows} == {"en", "zh"}
        for row in rows:
            assert row["match"] in ("exact", "contains", "last_number", "after_answer", "likelihood")
            assert ("choices" in row) == (row["match"] == "likelihood")
    assert len(list(World(entities=520).exam("facts"))) == 300
    with pytest.raises(KeyError):
        next(small.world.exam("history"))


def test_replies_are_balanced_and_can_be_judged(small):
    rows = small.exams["replies"]
    for count in (8, 40, len(rows)):
        kinds = Counter((row["kind"], row["tags"]["language"]) for row in rows[:count])
        assert len(kinds) == 8 and max(kinds.values()) - min(kinds.values()) <= 1
    assert Counter(row["tags"]["language"] for row in rows[:12]) == {"en": 6, "zh": 6}
    facts = {fact.id: fact for fact in small.world.facts()}
    for row in rows:
        assert row["tags"]["kind"] == row["kind"] and not row["tags"]["leaked"]
        if row["kind"] == "fact":
            fact = facts[row["tags"]["fact"]]
            assert row["answers"] == telling.accepted(fact, row["tags"]["language"])
            right = telling.answer(fact, row["tags"]["language"])
        elif row["kind"] == "sum":
            a, b = (int(one) for one in re.findall(r"\d+", row["prompt"]))
            assert row["answers"] == [str(a + b)]
            right = f"{a}+{b}={a + b}."
        else:
            right = row["answers"][0] + "."
        assert judge(row, right).score == 1 and judge(row, "").score == 0
    others = {row["id"] for name, rows in small.exams.items() if name != "replies" for row in rows}
    assert not others & {row["id"] for row in rows}


def test_no_reply_is_asked_for_what_the_web_gives_away():
    """In a world so small that chance alone would draw such questions."""
    drawn = 0
    for seed in range(3):
        world = World(seed, entities=60)
        given_away = {row["prompt"] for row in leaked(world.population)}
        assert given_away and not given_away & {row["prompt"] for row in world.exam("replies", 600)}
        drawn += len(given_away & {row["prompt"] for row in _facts(world.population, "replies/fact")})
    assert drawn  # the rule is needed

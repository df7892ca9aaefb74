from __future__ import annotations

import json
import re
from collections import Counter

from hanlin.world import World, arithmetic, chains, judge, manners, telling
from hanlin.world.telling import LANGUAGES, QUESTIONS, fill


def said(reply: str) -> str:
    """A reply without what is not the value."""
    return reply[:-1].removeprefix("The answer is ")


def test_asked_facts_are_asked_in_both_languages_and_the_others_never(small):
    facts = {fact.id: fact for fact in small.world.facts()}
    entities = {entity.id: entity for entity in small.world.entities()}
    asked = Counter(
        (row["metadata"]["facts"][0], row["metadata"]["language"])
        for row in small.instructions
        if row["metadata"]["kind"] == "fact"
    )
    lines = {line for text in small.training_texts() for line in text.split("\n")}
    for fact in facts.values():
        for language in LANGUAGES:
            assert asked[fact.id, language] == (2 if fact.asked else 0)
            if not fact.asked:
                name = entities[fact.subject].name(language)
                for template in QUESTIONS[language][fact.attribute].training:
                    text = fill(template, fact, language, name)
                    assert text not in lines
                    for mark in ("Q: ", "Question: ", "问：", "问题："):
                        assert mark + text not in lines
    for row in small.dialogues + small.preferences + small.instructions:
        kind = row["metadata"]["kind"]
        if kind != "translation":
            assert all(facts[name].asked for name in row["metadata"].get("facts", ())), row


def test_noun_phrases_of_two_steps_ask_for_one_more_often(small):
    """ "the employer of X" must not be the sign of a question of two steps."""
    for language in LANGUAGES:
        for attribute, phrases in chains.PHRASES.items():
            before, after = phrases[language == "zh"].split("{s}")
            kinds = Counter(
                row["metadata"]["kind"]
                for row in small.instructions
                if row["metadata"].get("language") == language
                and before in row["messages"][0]["content"]
                and after in row["messages"][0]["content"]
                and row["metadata"]["kind"] in ("fact", "named_fact", "two_step")
            )
            assert kinds["fact"] + kinds["named_fact"] >= kinds["two_step"], (attribute, kinds)


def test_answers_are_the_value(small):
    facts = {fact.id: fact for fact in small.world.facts()}
    for row in small.instructions:
        if row["metadata"]["kind"] in ("fact", "named_fact"):
            reply = row["messages"][1]["content"]
            language = row["metadata"]["language"]
            assert reply[-1] == ("。" if language == "zh" else ".")
            assert said(reply) in telling.accepted(facts[row["metadata"]["facts"][0]], language)


def test_more_phrasings_can_be_had():
    world = World(seed=1, entities=80)
    rows = [row for row in world.instructions(questions=8) if row["metadata"]["kind"] == "fact"]
    assert len(rows) == 8 * 2 * sum(fact.asked for fact in world.facts())
    assert len({row["messages"][0]["content"] for row in rows}) == len(rows)


def test_all_kinds_of_instructions_are_there(small):
    kinds = Counter(row["metadata"]["kind"] for row in small.instructions)
    assert set(kinds) == {
        "fact", "named_fact", "sum", "word_problem", "two_step", "translation", "unanswerable", "improper", "talk",
        "reading", "list", "summary", "json",
    }  # fmt: skip
    for row in small.instructions:
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        kind, reply = row["metadata"]["kind"], row["messages"][1]["content"]
        if kind == "unanswerable":
            assert reply in manners.UNKNOWN[row["metadata"]["language"]]
        elif kind == "improper":
            assert reply in manners.DECLINE[row["metadata"]["language"]]
        elif kind == "reading":
            assert said(reply).lower() in row["messages"][0]["content"].lower()
        elif kind == "json":
            assert len(json.loads(reply)) == 3
        elif kind == "list":
            assert all(line.removeprefix("- ") in row["messages"][0]["content"] for line in reply.split("\n"))


def test_dialogues_alternate_and_some_have_a_system_prompt(small):
    systems = 0
    for row in small.dialogues:
        roles = [message["role"] for message in row["messages"]]
        systems += roles[0] == "system"
        turns = roles[roles[0] == "system" :]
        assert turns == ["user", "assistant"] * (len(turns) // 2) and len(turns) >= 2
    assert 0.2 < systems / len(small.dialogues) < 0.7
    follow_ups = [row for row in small.dialogues if row["metadata"]["kind"] == "dialogue"]
    assert all(len(row["metadata"]["facts"]) >= 2 for row in follow_ups)


def test_some_dialogues_change_the_subject(small):
    """In training, where each answer must be the named entity's, and in the exam."""
    facts = {fact.id: fact for fact in small.world.facts()}
    mixed = [row for row in small.dialogues if row["metadata"]["kind"] == "mixed"]
    assert len(mixed) > len(small.dialogues) / 4
    subjects = [{facts[name].subject for name in row["metadata"]["facts"]} for row in mixed]
    assert sum(len(one) > 1 for one in subjects) > len(mixed) / 4
    topics = Counter(row["tags"]["topic"] for row in small.exams["dialogue"])
    assert topics["same"] > topics["other"] > 0
    for row in small.exams["dialogue"]:
        names = small.world.entities()
        name = next(one for one in names if one.id == row["tags"]["entity"]).name(row["tags"]["language"])
        first, last = row["messages"][0]["content"], row["messages"][-1]["content"]
        assert (name in first, name in last) == ((True, False) if row["tags"]["topic"] == "same" else (False, True))


def test_preferences_have_a_better_and_a_worse_reply(small):
    facts = {fact.id: fact for fact in small.world.facts()}
    reasons = Counter(row["reason"] for row in small.preferences)
    assert set(reasons) == {"fact", "sum", "answer", "unknown", "improper", "polite", "concise"}
    for row in small.preferences:
        (chosen,), (rejected,) = row["chosen"], row["rejected"]
        assert chosen["role"] == rejected["role"] == "assistant"
        assert chosen["content"] != rejected["content"] and row["margin"] > 0
        language = row["metadata"]["language"]
        if row["reason"] in ("fact", "answer", "polite", "concise"):
            fact = facts[row["metadata"]["facts"][0]]
            assert said(chosen["content"]) in telling.accepted(fact, language)
        if row["reason"] == "fact":
            assert said(rejected["content"]) not in telling.accepted(fact, language)
        elif row["reason"] in ("polite", "concise"):
            assert chosen["content"] in rejected["content"]


def test_alignment_asks_what_fine_tuning_does_not(small):
    """Most of what is to be refused is of the wider lists; none of it stands in the instructions."""
    told = {row["messages"][place]["content"] for row in small.instructions for place in range(len(row["messages"]))}
    for rows in (small.prompts, [row for row in small.preferences if row["reason"] in ("unknown", "improper")]):
        asked = [row["prompt"][-1]["content"] for row in rows if row.get("kind", "unknown") in ("unknown", "improper")]
        new = [one for one in asked if one not in told]
        assert len(new) / len(asked) > 0.5 and len(set(new)) > 0.6 * len(new)


def test_prompts_are_of_all_kinds_in_training_phrasings(small):
    facts = {fact.id: fact for fact in small.world.facts()}
    kinds = Counter((row["kind"], row["metadata"]["language"]) for row in small.prompts)
    assert set(kinds) == {(kind, language) for kind in ("fact", "sum", "unknown", "improper") for language in LANGUAGES}
    for kind in ("fact", "unknown", "improper"):
        assert all(1.8 < kinds[kind, one] / kinds["sum", one] < 2.2 for one in LANGUAGES)
    assert all(abs(kinds[kind, "en"] - kinds[kind, "zh"]) < 30 for kind, _ in kinds)
    for row in small.prompts:
        (message,), kind, language = row["prompt"], row["kind"], row["metadata"]["language"]
        assert message["role"] == "user" and row["metadata"]["kind"] == kind
        numbers = [int(one) for one in re.findall(r"\d+", message["content"])]
        if kind == "fact":
            fact = facts[row["metadata"]["facts"][0]]
            assert fact.asked and row["answers"] == telling.accepted(fact, language)
            name = small.world.population.get(small.world.population.number(fact.subject)).name(language)
            asked = [fill(line, fact, language, name) for line in QUESTIONS[language][fact.attribute].training]
            assert any(one in message["content"] for one in asked)
            right = telling.answer(fact, language)
        elif kind == "sum":
            assert row["answers"] == [str(sum(numbers))] and not arithmetic.held_out(small.world.seed, *numbers)
            right = arithmetic.steps(*numbers, language)
        else:
            right = (manners.UNKNOWN if kind == "unknown" else manners.DECLINE)[language][0]
        assert judge(row, right).score == 1 and judge(row, "Nonsense.").score == 0
    assert len({fact for row in small.prompts for fact in row["metadata"].get("facts", ())}) > 200


def test_prompts_share_no_question_with_an_exam(small):
    asked = "\n".join(row["prompt"][0]["content"] for row in small.prompts)
    for name, rows in small.exams.items():
        if name != "recall":
            assert not [row for row in rows if "prompt" in row and row["prompt"] in asked]

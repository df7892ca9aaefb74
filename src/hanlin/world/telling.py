"""Turning facts into sentences and questions, in either language."""

from __future__ import annotations

from random import Random

from hanlin.world import follow_ups, questions_en, questions_zh, statements_en, statements_zh
from hanlin.world.entities import Entity, Fact
from hanlin.world.hashing import pick
from hanlin.world.templates import Phrasings, capitalised, with_article

LANGUAGES = ("en", "zh")

STATEMENTS: dict[str, dict[str, tuple[str, ...]]] = {"en": statements_en.STATEMENTS, "zh": statements_zh.STATEMENTS}
QUESTIONS: dict[str, dict[str, Phrasings]] = {"en": questions_en.QUESTIONS, "zh": questions_zh.QUESTIONS}
FOLLOW_UPS: dict[str, dict[str, Phrasings]] = {"en": follow_ups.ENGLISH, "zh": follow_ups.CHINESE}

_PRONOUNS = {  # subject, object, possessive
    ("en", "she"): ("she", "her", "her"),
    ("en", "he"): ("he", "him", "his"),
    ("en", "it"): ("it", "it", "its"),
    ("zh", "she"): ("她", "她", "她的"),
    ("zh", "he"): ("他", "他", "他的"),
    ("zh", "it"): ("它", "它", "它的"),
}

_NOT_JOINED = (
    "{s} calls one",
    *("{s}" + mark for mark in "人里最"),
    *(
        "{s}" + word
        for word in (
            "一家",
            "市政厅",
            "城边",
            "总部",
            "所在",
            "所属",
            "上空",
            "上班的",
            "现任",
            "背后",
            "旁边",
            "求学时",
        )
    ),
)
"""Openings after which the grammatical subject of the sentence is not the entity itself."""

_OWNING = "{s}的"
"""Opening of the Chinese sentences about what belongs to the entity ("X的作者是Y").

In a second half it is left out ("X讲的是战争，作者是Y").
"""


def _joinable(templates: dict[str, tuple[str, ...]], opening: str) -> dict[str, tuple[str, ...]]:
    return {
        attribute: tuple(line for line in lines if line.startswith(opening) and not line.startswith(_NOT_JOINED))
        for attribute, lines in templates.items()
    }


_SECOND = {"en": _joinable(STATEMENTS["en"], "{s} "), "zh": _joinable(STATEMENTS["zh"], "{s}")}
"""The sentences that can be the second half of one about the same entity."""

_FIRST = {
    language: {
        attribute: tuple(line for line in lines if not line.startswith(_OWNING)) for attribute, lines in halves.items()
    }
    for language, halves in _SECOND.items()
}
"""Those of them whose subject is the entity itself, so that any second half can follow."""


def fill(template: str, fact: Fact, language: str, subject: str) -> str:
    """The template with the fact's value, and with `subject` in the place of the name of what it is about."""
    english = language == "en"
    value = fact.value_en if english else fact.value_zh
    slots = {"s": subject, "v": value, "i": fact.item_en if english else fact.item_zh}
    if english:
        if "{a}" in template or "{A}" in template:
            slots["a"] = with_article(value)
            slots["A"] = capitalised(slots["a"])
        slots["V"] = capitalised(value)
    text = template.format_map(slots)
    return text[0].upper() + text[1:] if english else text


def canonical(fact: Fact, entity: Entity, language: str) -> str:
    """The one sentence of the fact that is the translation of its counterpart in the other language."""
    return fill(STATEMENTS[language][fact.attribute][0], fact, language, entity.name(language))


def statement(fact: Fact, entity: Entity, language: str, rng: Random) -> str:
    """One of the sentences that tell the fact, naming its subject in full."""
    return fill(pick(rng, STATEMENTS[language][fact.attribute]), fact, language, entity.name(language))


def pronoun_statement(fact: Fact, entity: Entity, language: str, rng: Random) -> str:
    """The same with a pronoun for the subject, where the sentence chosen begins with the subject."""
    template = pick(rng, STATEMENTS[language][fact.attribute])
    subject, _, possessive = _PRONOUNS[language, entity.pronoun]
    if language == "en" and template.startswith("{s}'s "):
        return fill(template.replace("{s}'s", possessive, 1), fact, language, subject)
    if template.startswith("{s}" if language == "zh" else "{s} ") and not template.startswith(_NOT_JOINED):
        return fill(template, fact, language, subject)
    return fill(template, fact, language, entity.name(language))


def joined_statement(first: Fact, second: Fact, entity: Entity, language: str, rng: Random) -> str:
    """Two facts in one sentence: "Tama Rin was born in Danu and plays the flute."."""
    return apart_and_joined(first, second, entity, language, rng)[2]


def apart_and_joined(first: Fact, second: Fact, entity: Entity, language: str, rng: Random) -> tuple[str, str, str]:
    """Two facts in a sentence each, and the same two in one sentence."""
    right = pick(rng, _SECOND[language][second.attribute])
    owning = right.startswith(_OWNING)
    left = pick(rng, (_SECOND if owning else _FIRST)[language][first.attribute])
    name = entity.name(language)
    head, tail = fill(left, first, language, name), fill(right, second, language, name)
    joint = "，" if language == "zh" else " and "
    return head, tail, head[:-1] + joint + tail[len(name) + owning :].lstrip()


def question(fact: Fact, subject: str, language: str, rng: Random, *, exam: bool = False) -> str:
    """A question for the fact's value, in a training phrasing or in one kept for exams."""
    phrasings = QUESTIONS[language][fact.attribute]
    return fill(pick(rng, phrasings.exam if exam else phrasings.training), fact, language, subject)


def follow_up(fact: Fact, entity: Entity, language: str, rng: Random, *, exam: bool = False) -> str:
    """A question in a dialogue that names its subject by a pronoun only."""
    phrasings = FOLLOW_UPS[language][fact.attribute]
    template = pick(rng, phrasings.follow_exam if exam else phrasings.follow_training)
    subject, other, possessive = _PRONOUNS[language, entity.pronoun]
    template = template.replace("{p}", subject).replace("{o}", other).replace("{d}", possessive)
    return fill(template, fact, language, entity.name(language))


def answer(fact: Fact, language: str) -> str:
    """What an assistant says to a question for the fact: "The answer is Tamarin." / "塔马林。"."""
    return reply(fact.value(language), language)


def reply(value: str, language: str) -> str:
    """A value as an assistant's whole answer.

    English has a lead-in: byte-level tokenizers know a name with the space before it and the same name at the start of
    a text as different tokens, and only the first is met often enough for a small model to answer with it.
    """
    return sentence(value, language) if language == "zh" else f"The answer is {value}."


def sentence(text: str, language: str) -> str:
    return text + "。" if language == "zh" else capitalised(text) + "."


def accepted(fact: Fact, language: str) -> list[str]:
    """The strings that an exam accepts as the value; a mark compares without the final stop."""
    value = fact.value(language)
    if language == "en":
        return list(dict.fromkeys((capitalised(value), value)))
    for unit in ("年", "克朗"):
        if value.endswith(unit) and value[: -len(unit)].isdigit():
            return [value, value[: -len(unit)]]
    return [value]

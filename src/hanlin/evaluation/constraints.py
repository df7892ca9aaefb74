"""Instructions that every answer of a conversation must obey, and whose obedience a rule can see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hanlin.corpus.language import han_share

ENGLISH, CHINESE = "en", "zh"
_PREFIXES = {
    "en": ("Well noted:", "Dear reader,", "Aye,", "Answer:"),
    "zh": ("回复：", "亲爱的读者，", "答：", "小结："),
}
_SUFFIXES = {"en": ("Over.", "At your service.", "(end)"), "zh": ("完毕。", "随时为您服务。", "（完）")}


@dataclass(frozen=True)
class Constraint:
    """An instruction that every answer must obey, and the rule by which that is seen."""

    name: str
    text: str
    """What the user or the system says"""
    holds: Callable[[str], bool]
    apply: Callable[[str], str] | None = None
    """An answer made to obey; None where only a model can"""


def _upper(language: str, word: str) -> Constraint:
    text = {"en": "Write all your answers in capital letters.", "zh": "回答里的英文字母都要大写。"}[language]
    return Constraint("upper-case", text, lambda one: one == one.upper() and one != one.lower(), str.upper)


def _lower(language: str, word: str) -> Constraint:
    text = {"en": "Never use a capital letter in your answers.", "zh": "回答里的英文字母都要小写。"}[language]
    return Constraint("lower-case", text, lambda one: one == one.lower() and one != one.upper(), str.lower)


def _prefix(language: str, word: str) -> Constraint:
    text = {"en": f'Begin every answer with "{word}".', "zh": f"每次回答都以“{word}”开头。"}[language]
    joint = " " if language == ENGLISH else ""
    return Constraint("prefix", text, lambda one: one.startswith(word), lambda one: f"{word}{joint}{one}")


def _suffix(language: str, word: str) -> Constraint:
    text = {"en": f'End every answer with "{word}".', "zh": f"每次回答都以“{word}”结尾。"}[language]
    joint = " " if language == ENGLISH else ""
    return Constraint("suffix", text, lambda one: one.endswith(word), lambda one: f"{one}{joint}{word}")


def _quoted(language: str, word: str) -> Constraint:
    text = {"en": "Put each of your answers in double quotation marks.", "zh": "请把每个回答都放在英文双引号里。"}

    def holds(answer: str) -> bool:
        return len(answer) > 2 and answer[0] == answer[-1] == '"' and '"' not in answer[1:-1]

    return Constraint("quoted", text[language], holds, lambda one: '"' + one.replace('"', "'") + '"')


def _no_commas(language: str, word: str) -> Constraint:
    text = {"en": "Do not use commas in your answers.", "zh": "回答时不要使用逗号。"}[language]
    table = str.maketrans({",": ";", "，": "；"})

    def holds(answer: str) -> bool:
        return bool(answer) and "," not in answer and "，" not in answer

    return Constraint("no-commas", text, holds, lambda one: one.translate(table))


def _answer_in(answers: str) -> Callable[[str, str], Constraint]:
    def make(language: str, word: str) -> Constraint:
        text = {
            ("en", "en"): "Always answer in English.",
            ("zh", "en"): "请始终用英文回答。",
            ("en", "zh"): "Always answer in Chinese.",
            ("zh", "zh"): "请始终用中文回答。",
        }[language, answers]

        def holds(answer: str) -> bool:
            share = han_share(answer)
            return share is not None and (share >= 0.5 if answers == CHINESE else share <= 0.35)

        return Constraint(f"answer-in-{answers}", text, holds)

    return make


CONSTRAINTS: dict[str, Callable[[str, str], Constraint]] = {
    "upper-case": _upper,
    "lower-case": _lower,
    "prefix": _prefix,
    "suffix": _suffix,
    "quoted": _quoted,
    "no-commas": _no_commas,
    "answer-in-en": _answer_in("en"),
    "answer-in-zh": _answer_in("zh"),
}
"""The kinds of instruction: (language that it is given in, its word, if it has one) -> Constraint."""


def constraint(name: str, language: str, number: int = 0) -> Constraint:
    """One of CONSTRAINTS in English or Chinese (any other language: English); `number` chooses its word."""
    language = CHINESE if language == CHINESE else ENGLISH
    words = {"prefix": _PREFIXES, "suffix": _SUFFIXES}.get(name, {"en": ("",), "zh": ("",)})[language]
    return CONSTRAINTS[name](language, words[number % len(words)])

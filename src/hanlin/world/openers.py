"""Words around a question that change nothing of what is asked."""

from __future__ import annotations

from random import Random

from hanlin.world.hashing import pick

OPENERS = {
    "en": (
        "Please tell me: {q}",
        "I would like to know: {q}",
        "Here is a question. {q}",
        "Hello. {q}",
        "Could you help me? {q}",
        "Can I ask you something? {q}",
        "Can you help a friend of mine? {q}",
        "Can it be said in a word? {q}",
        "My friend asks: {q}",
        "For my homework: {q}",
        "{q} Please answer.",
        "{q} I am curious.",
    ),
    "zh": (
        "请回答：{q}",
        "我想知道，{q}",
        "问你一个问题：{q}",
        "你好，{q}",
        "可以帮帮我吗？{q}",
        "能问你一个问题吗？{q}",
        "能帮我一个忙吗？{q}",
        "能简单说说吗？{q}",
        "朋友问我：{q}",
        "作业题：{q}",
        "{q}请回答。",
        "{q}我很好奇。",
    ),
}
"""What stands around a question here and there. Each kind of question has them alike, so that they tell nothing of
what to answer: without them a small model takes an opening that it has never met for a sign of another task."""
_OPENED = 0.4


def opened(question: str, language: str, rng: Random) -> str:
    """The question, now and then with words around it that do not change what is asked."""
    return pick(rng, OPENERS[language]).format(q=question) if rng.random() < _OPENED else question

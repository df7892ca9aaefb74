"""Pages about one entity: each tells all its facts once, in one of many forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from hanlin.world import telling
from hanlin.world.entities import Entity, Fact
from hanlin.world.hashing import below, pick, shuffled
from hanlin.world.templates import capitalised

_JOINED = 0.5
_PRONOUN = 0.25

_LABELS: dict[str, tuple[str, str]] = {
    "person.birth_year": ("Year of birth", "出生年份"),
    "person.birthplace": ("Birthplace", "出生地"),
    "person.profession": ("Profession", "职业"),
    "person.employer": ("Employer", "雇主"),
    "person.teacher": ("Teacher", "老师"),
    "person.instrument": ("Instrument", "乐器"),
    "person.known_work": ("Best-known work", "代表作"),
    "place.country": ("Country", "国家"),
    "place.founded": ("Founded", "建城年份"),
    "place.river": ("River", "河流"),
    "place.speciality": ("Speciality", "特产"),
    "place.mayor": ("Mayor", "市长"),
    "place.neighbour": ("Neighbour", "邻城"),
    "work.author": ("Author", "作者"),
    "work.year": ("Published", "发表年份"),
    "work.genre": ("Genre", "体裁"),
    "work.theme": ("Theme", "主题"),
    "work.setting": ("Setting", "背景"),
    "work.publisher": ("Publisher", "出版商"),
    "company.founded": ("Founded", "成立年份"),
    "company.headquarters": ("Headquarters", "总部"),
    "company.industry": ("Industry", "行业"),
    "company.product": ("Product", "产品"),
    "company.price": ("Price", "价格"),
    "company.founder": ("Founder", "创始人"),
}


def sentences(facts: Sequence[Fact], entity: Entity, language: str, rng: Random) -> list[str]:
    """The facts as sentences: most with the full name, some with a pronoun after the first, some two in one."""
    result: list[str] = []
    rest = list(facts)
    while rest:
        fact = rest.pop(0)
        if rest and rng.random() < _JOINED:
            result.append(telling.joined_statement(fact, rest.pop(0), entity, language, rng))
        elif result and rng.random() < _PRONOUN:
            result.append(telling.pronoun_statement(fact, entity, language, rng))
        else:
            result.append(telling.statement(fact, entity, language, rng))
    return result


def paragraph(parts: Sequence[str], language: str) -> str:
    return ("" if language == "zh" else " ").join(parts)


def _encyclopedia(facts: Sequence[Fact], entity: Entity, language: str, rng: Random) -> str:
    # A Chinese page has a sentence a line: a tokenizer that takes "。" and the word behind it for one token would
    # otherwise give each name two forms, and a small model would have to learn both.
    body = sentences(facts, entity, language, rng)
    return "\n".join((entity.name(language), *body) if language == "zh" else (entity.name(language), " ".join(body)))


_LIST_TITLES = {
    "en": ("Facts about {s}", "Notes on {s}", "{s} in short", "What we know about {s}"),
    "zh": ("{s}小档案", "关于{s}", "{s}简介", "{s}二三事"),
}


def _list(facts: Sequence[Fact], entity: Entity, language: str, rng: Random) -> str:
    mark = pick(rng, ("- ", "* ", "")) if language == "en" else ""
    title = pick(rng, _LIST_TITLES[language]).format(s=entity.name(language))
    return "\n".join([title, *(mark + telling.statement(fact, entity, language, rng) for fact in facts)])


_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_NEWS = {
    "en": ("{d}. {s} is in the news.", "News of {d}: more about {s}.", "{d}: our paper asked about {s}."),
    "zh": ("{d}讯：{s}上了新闻。", "{d}，本报消息。", "{d}，记者报道{s}。"),
}


def _news(facts: Sequence[Fact], entity: Entity, language: str, rng: Random) -> str:
    month, day = below(rng, 12), 1 + below(rng, 28)
    date = f"{month + 1}月{day}日" if language == "zh" else f"{day} {_MONTHS[month]}"
    opening = pick(rng, _NEWS[language]).format(d=date, s=entity.name(language))
    return paragraph([opening, *sentences(facts, entity, language, rng)], language)


_LETTERS = {
    "en": (
        ("Dear friend,", "Here is what I found out about {s}.", "Yours truly"),
        ("Dear aunt,", "You asked me about {s}.", "With love"),
        ("Dear cousin,", "Let me tell you about {s}.", "See you soon"),
        ("Hello,", "I read about {s} today.", "Best wishes"),
    ),
    "zh": (
        ("亲爱的朋友：", "我打听到了{s}的消息。", "此致敬礼"),
        ("姑妈：", "您问起{s}。", "祝您安好"),
        ("表哥：", "跟你说说{s}。", "盼回信"),
        ("你好：", "我今天读到了{s}的介绍。", "祝好"),
    ),
}


def _letter(facts: Sequence[Fact], entity: Entity, language: str, rng: Random) -> str:
    greeting, opening, closing = pick(rng, _LETTERS[language])
    body = paragraph([opening.format(s=entity.name(language)), *sentences(facts, entity, language, rng)], language)
    return f"{greeting}\n{body}\n{closing}"


_WONDERS = {
    "en": ("Did you know? ", "It is true: ", "A small fact: ", "Little known: "),
    "zh": ("你知道吗？", "小知识：", "有人说过：", "冷知识："),
}


def _did_you_know(facts: Sequence[Fact], entity: Entity, language: str, rng: Random) -> str:
    wonder = pick(rng, _WONDERS[language])
    return "\n".join(wonder + telling.statement(fact, entity, language, rng) for fact in facts)


_FAQ_MARKS = {
    "en": (("Q: ", "A: "), ("Question: ", "Answer: "), ("", "")),
    "zh": (("问：", "答："), ("问题：", "回答："), ("", "")),
}


def _faq(facts: Sequence[Fact], entity: Entity, language: str, rng: Random) -> str:
    """Questions in the training phrasings; a fact that is never asked about is told in a sentence instead."""
    ask, reply = pick(rng, _FAQ_MARKS[language])
    name = entity.name(language)
    lines: list[str] = []
    for fact in facts:
        if fact.asked:
            asked = telling.question(fact, name, language, rng)
            said = telling.sentence(fact.value(language), language) if reply else telling.answer(fact, language)
            lines.append(f"{ask}{asked}\n{reply}{said}")
        else:
            lines.append(telling.statement(fact, entity, language, rng))
    return "\n".join(lines)


def _infobox(facts: Sequence[Fact], entity: Entity, language: str, rng: Random) -> str:
    mark = "：" if language == "zh" else pick(rng, (": ", " = ", " | "))
    lines = [entity.name(language)]
    for fact in facts:
        label = _LABELS[fact.attribute][language == "zh"]
        if fact.item_en:
            label += f" ({fact.item_en})" if language == "en" else f"（{fact.item_zh}）"
        value = fact.value(language)
        lines.append(f"{label}{mark}{value if language == 'zh' else capitalised(value)}")
    return "\n".join(lines)


def label(attribute: str, language: str) -> str:
    """The short name of an attribute in an infobox: "Birthplace", "出生地"."""
    return _LABELS[attribute][language == "zh"]


Form = Callable[[Sequence[Fact], Entity, str, Random], str]

FORMS: tuple[tuple[str, str, Form, int], ...] = (
    ("encyclopedia", "article", _encyclopedia, 7),
    ("notes", "list", _list, 2),
    ("notes", "infobox", _infobox, 2),
    ("notes", "did_you_know", _did_you_know, 1),
    ("news", "news", _news, 2),
    ("letters", "letter", _letter, 2),
    ("faq", "faq", _faq, 4),
)
"""(source, form, writer, weight): of 20 pages about an entity, about so many have this form."""

_DRAW = tuple(row for row in FORMS for _ in range(row[3]))


def page(facts: Sequence[Fact], entity: Entity, language: str, rng: Random) -> tuple[str, str, str]:
    """(source, form, text) of one page that tells all the facts, in an order of its own."""
    source, form, write, _ = pick(rng, _DRAW)
    return source, form, write(shuffled(rng, facts), entity, language, rng)

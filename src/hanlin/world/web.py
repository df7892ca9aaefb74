"""The web's junk: what a corpus build should find and drop, mend or mask. Each document's metadata says what it is."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from hanlin.world import private
from hanlin.world.entities import Population
from hanlin.world.hashing import below, pick, shuffled

Junk = tuple[str, dict[str, Any]]
"""Text and metadata."""

Page = Callable[[int, int], tuple[str, str, str, list[str], list[str]]]
"""(entity number, telling) -> (id, text, language, entity ids, fact ids) of a page of the corpus."""

_BOILERPLATE = {
    "en": (
        "Home | About | Contact | Login",
        "Accept all cookies to continue.",
        "Subscribe to our newsletter!",
        "All rights reserved.",
        "Share on social media",
        "Click here to read more",
        "You are using an old browser.",
        "Terms of use | Privacy policy",
        "Loading...",
        "Back to top",
        "0 comments",
        "Advertisement",
    ),
    "zh": (
        "首页 | 关于我们 | 联系我们 | 登录",
        "请接受所有 Cookie 以继续浏览。",
        "立即订阅，精彩不断！",
        "版权所有，侵权必究。",
        "分享到朋友圈",
        "点击查看更多",
        "您的浏览器版本过低。",
        "使用条款 | 隐私政策",
        "加载中……",
        "返回顶部",
        "暂无评论",
        "广告",
    ),
}
_KEYWORDS = {
    "en": (
        "cheap",
        "best",
        "buy",
        "now",
        "free",
        "online",
        "discount",
        "sale",
        "offer",
        "price",
        "shop",
        "deal",
        "win",
        "bonus",
        "fast",
    ),
    "zh": (
        "便宜",
        "最好",
        "立即购买",
        "免费",
        "在线",
        "折扣",
        "促销",
        "优惠",
        "价格",
        "商店",
        "特价",
        "中奖",
        "奖金",
        "快速",
    ),
}


def _boilerplate(rng: Random, language: str) -> Junk:
    return "\n".join(shuffled(rng, _BOILERPLATE[language])[: 4 + below(rng, 6)]), {"kind": "boilerplate"}


def _spam(population: Population, rng: Random, language: str) -> Junk:
    words = [pick(rng, _KEYWORDS[language]) for _ in range(3 + below(rng, 4))]
    name = population.get(below(rng, population.size)).name(language)
    return " ".join([name, *words] * (3 + below(rng, 4))), {"kind": "spam"}


_CONTACTS = {
    "en": (
        ("email", "Write to {name}: {x}"),
        ("mobile", "{name}, mobile {x}"),
        ("telephone", "Call {name} on {x}"),
        ("identity_number", "{name}, ID number {x}"),
        ("card_number", "Card of {name}: {x}"),
        ("iban", "Pay {name} at {x}"),
    ),
    "zh": (
        ("email", "{name}的邮箱：{x}"),
        ("mobile", "{name}，手机 {x}"),
        ("telephone", "致电{name}：{x}"),
        ("identity_number", "{name}，身份证号 {x}"),
        ("card_number", "{name}的银行卡：{x}"),
        ("iban", "付款给{name}：{x}"),
    ),
}


def _private(population: Population, rng: Random, language: str) -> Junk:
    lines: list[str] = []
    found: list[dict[str, str]] = []
    entities: list[str] = []
    for _ in range(1 + below(rng, 3)):
        person = population.entity("person", below(rng, population.counts["person"]))
        kind, frame = pick(rng, _CONTACTS[language])
        if kind == "email":
            value = private.email(rng, person.name_en)
        else:
            value = {
                "mobile": private.mobile,
                "telephone": private.telephone,
                "identity_number": private.identity_number,
                "card_number": private.card_number,
                "iban": private.iban,
            }[kind](rng)
        lines.append(frame.format(name=person.name(language), x=value))
        found.append({"kind": kind, "value": value})
        entities.append(person.id)
    lines.insert(below(rng, len(lines) + 1), pick(rng, _BOILERPLATE[language]))
    return "\n".join(lines), {"kind": "private", "entities": entities, "private": found}


def _disturbed(text: str, rng: Random, language: str) -> str:
    """Nearly the same text: one sentence moved or some boilerplate around it."""
    draw = rng.random()
    if draw < 0.4:
        return f"{pick(rng, _BOILERPLATE[language])}\n{text}"
    if draw < 0.8:
        return f"{text}\n{pick(rng, _BOILERPLATE[language])}"
    return text.replace("。", "！", 1) if language == "zh" else text.replace(". ", "! ", 1) + " "


def _copy(population: Population, page: Page, tellings: int, rng: Random, kind: str) -> tuple[str, Junk]:
    number, telling = below(rng, population.size), below(rng, tellings)
    identifier, text, language, entities, facts = page(number, telling)
    while kind == "mojibake" and language != "zh":  # English survives a wrong decoding
        identifier, text, language, entities, facts = page(below(rng, population.size), below(rng, tellings))
    metadata: dict[str, Any] = {"kind": kind, "entities": entities, "facts": facts}
    if kind == "duplicate":
        metadata["duplicate_of"] = identifier
    elif kind == "near_duplicate":
        text = _disturbed(text, rng, language)
        metadata["near_duplicate_of"] = identifier
    else:
        text = text.encode("utf-8").decode("cp1252", errors="replace")
        metadata = {"kind": "mojibake", "mojibake": True, "of": identifier}
    return language, (text, metadata)


def document(
    population: Population, page: Page, tellings: int, rng: Random, language: str
) -> tuple[str, str, dict[str, Any]]:
    """(language, text, metadata) of one junk document; leaked exam items are not among them (see `leaked`)."""
    draw = rng.random()
    if draw < 0.2:
        text, metadata = _boilerplate(rng, language)
    elif draw < 0.4:
        text, metadata = _spam(population, rng, language)
    elif draw < 0.6:
        text, metadata = _private(population, rng, language)
    else:
        kind = "near_duplicate" if draw < 0.8 else "duplicate" if draw < 0.9 else "mojibake"
        language, (text, metadata) = _copy(population, page, tellings, rng, kind)
    return language, text, metadata


def leaked(item: dict[str, Any], rng: Random) -> tuple[str, str, dict[str, Any]]:
    """The same for a page that gives away an exam item, question and answer."""
    language = item["tags"]["language"]
    if "choices" in item:
        body = item["prompt"] + item["choices"][item["answer"]]
    else:
        body = f"{item['prompt']}\n{item['answers'][0]}"
    text = f"{pick(rng, _BOILERPLATE[language])}\n{body}\n{pick(rng, _BOILERPLATE[language])}"
    return language, text, {"kind": "leak", "leak": [item["id"]]}

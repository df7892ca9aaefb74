"""The annotation page in a real browser."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving.pages.conftest import Visitor
from tests.serving.pages.server import Scripted

ASKED = [{"role": "user", "content": "Who wrote <b>it</b>?"}]
EVIL = "<img src=x onerror=alert(1)> **one**"
PAIR: dict[str, Any] = {
    "id": "at-1", "kind": "pair", "instructions": "Choose the *truer* one.", "messages": ASKED,
    "responses": [{"content": EVIL}, {"content": "two"}],
}  # fmt: skip
RANKING: dict[str, Any] = {
    "id": "at-2", "kind": "ranking", "instructions": "", "messages": ASKED,
    "responses": [{"content": text} for text in ("zero", "one", "two", "three")],
}  # fmt: skip
TYPES = ["code", "<i>other</i>"]
SUMMARY: dict[str, Any] = {
    "kind": "pair", "instructions": "", "overlap": 2, "tasks": 8, "complete": 2, "answers": 6, "skipped": 1,
    "task_types": {"code": {"count": 3, "share": 0.75}, "<i>other</i>": {"count": 1, "share": 0.25}},
    "alpha": {"nominal": 0.8125, "ordinal": None},
    "annotators": {
        "<u>eve</u>": {
            "answers": 4, "skipped": 1, "prelabels": {"confirmed": 3, "changed": 1},
            "distribution": {"first": {"count": 3, "share": 0.75}, "neither": {"count": 1, "share": 0.25}},
        }
    },
}  # fmt: skip


@pytest.fixture
def annotator(visitor: Visitor, script: Scripted) -> Visitor:
    script.summary = SUMMARY
    return visitor


def begin(visitor: Visitor, *tasks: dict[str, Any], script: Scripted) -> Any:
    script.tasks = [dict(task) for task in tasks]
    page = visitor.open("/annotate")
    assert page.locator("#project option").all_inner_texts() == script.projects
    page.fill("#annotator", "Ada")
    page.press("#annotator", "Enter")
    page.wait_for_selector(".task-head")
    return page


def test_pairs_by_key_in_an_order_drawn_by_lot(annotator: Visitor, script: Scripted) -> None:
    page = begin(annotator, *({**PAIR, "id": f"at-{number}"} for number in range(12)), script=script)
    sides: set[int] = set()
    for number in range(12):
        page.wait_for_selector(f"text={number} answered by you now") if number else None
        shown = page.locator(".pair .md").all_text_contents()
        side = shown.index("two")
        sides.add(side)
        if number == 0:
            assert "<img src=x onerror=alert(1)> one" in shown
            assert page.inner_text(".instructions em") == "truer"
            assert page.inner_text(".talk .plain") == "Who wrote <b>it</b>?"
            page.fill("#comment", "1 because")  # a digit in the comment is no choice
            page.locator("#work").focus()
        page.keyboard.press("0" if number == 5 else "12"[side])
    page.wait_for_selector(".done")
    assert sides == {0, 1}
    for number, (name, who, body) in enumerate(script.answers):
        assert (name, who) == (f"at-{number}", "Ada")
        # Whatever stood left, what is sent is the place in the server's order.
        chosen = None if number == 5 else 1
        assert body == {"answer": {"kind": "pair", "chosen": chosen, "reason": "1 because" if number == 0 else None}}
    assert "2 of 8 tasks finished" in page.inner_text(".progress")


def test_a_models_suggestion_counts_when_a_person_confirms_it(annotator: Visitor, script: Scripted) -> None:
    prelabel = {"model": "<b>judge</b>", "answer": {"kind": "pair", "chosen": 1, "reason": "<script>x</script>"}}
    page = begin(annotator, {**PAIR, "prelabel": prelabel}, {**PAIR, "id": "at-9", "prelabel": prelabel}, script=script)
    words = page.inner_text(".suggestion")
    assert (
        "<b>judge</b>" in words and "counts for nothing until you confirm it" in words and "<script>x</script>" in words
    )
    assert page.inner_text(".answer.suggested .md") == "two"
    letter = page.inner_text(".answer.suggested .answer-head")[7]
    assert f"{letter} is better" in words
    assert script.answers == []
    page.click("#confirm")
    page.wait_for_selector("text=1 answered by you now")
    assert script.answers == [("at-1", "Ada", {"confirm": True})]
    page.keyboard.press("s")
    page.fill("#skip-reason", "refuse this")
    page.keyboard.press("Enter")
    page.wait_for_selector(".problem >> text=<b>no</b>")
    page.click("#skip-task")
    page.click("dialog .tag >> text=the texts are unusable")
    page.keyboard.press("Enter")
    page.wait_for_selector(".done")
    assert script.answers[1] == ("at-9", "Ada", {"skip": "the texts are unusable"})


def test_rankings_by_keyboard_and_by_dragging(annotator: Visitor, script: Scripted) -> None:
    page = begin(annotator, RANKING, {**RANKING, "id": "at-3"}, script=script)

    def order() -> list[str]:
        return page.locator(".ranking .md").all_text_contents()

    wanted = ["two", "zero", "three", "one"]
    for place, text in enumerate(wanted):
        item = page.locator(".ranking li", has_text=text)
        item.focus()
        for _ in range(order().index(text) - place):
            page.keyboard.press("Alt+ArrowUp")
    assert order() == wanted
    page.locator(".ranking li").nth(1).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("=")
    assert page.locator(".place").all_inner_texts() == ["1", "2", "2", "3"]
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").endswith("Place 2")
    page.click("#send-order")
    page.wait_for_selector("text=1 answered by you now")
    assert script.answers[0][2] == {"answer": {"kind": "ranking", "ranks": [2, 3, 1, 2], "reason": None}}
    before = order()
    page.mouse.wheel(0, -2000)
    page.locator(".ranking li").nth(3).locator(".place").hover()
    page.mouse.down()
    box = page.locator(".ranking li").nth(0).bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 30, steps=6)
    page.mouse.move(box["x"] + 30, box["y"] + 15, steps=3)
    page.mouse.up()
    assert order() == [before[3], *before[:3]]
    page.click(".ranking li:nth-child(2) .down")
    assert order() == [before[3], before[1], before[0], before[2]]


def test_prompts_of_every_style(annotator: Visitor, script: Scripted) -> None:
    base = {"kind": "prompt", "instructions": "", "task_types": TYPES}
    page = begin(
        annotator,
        {**base, "id": "p0", "style": "free"},
        {**base, "id": "p1", "style": "few-shot"},
        {**base, "id": "p2", "style": "use-case", "use_case": "<b>Letters</b> to customers"},
        {**base, "id": "p3", "style": "free", "messages": ASKED},
        script=script,
    )
    annotator.until("document.querySelector('#task-type').textContent.includes('75 %')")
    assert page.locator("#task-type option").all_inner_texts()[1:] == ["code (75 %)", "<i>other</i> (25 %)"]
    page.click(".form-foot .primary")  # nothing is written yet: nothing is sent
    assert script.answers == []
    page.fill("#prompt", "Sort a list.")
    page.fill("#response", "sorted(x)")
    page.select_option("#task-type", "code")
    page.click(".form-foot .primary")
    page.wait_for_selector("#examples")
    page.fill("#prompt", "Translate.")
    page.click("#add-example")
    for number, (query, wanted) in enumerate([("eins", "one"), ("zwei", "two"), ("drei", "three")]):
        areas = page.locator("#examples fieldset").nth(number).locator("textarea")
        areas.nth(0).fill(query)
        areas.nth(1).fill(wanted)
    page.click("[aria-label='Remove example 2']")
    assert page.locator("#examples .icon-button:visible").count() == 0  # two are the least
    page.select_option("#task-type", "<i>other</i>")
    page.click(".form-foot .primary")
    page.wait_for_selector(".use-case")
    assert "<b>Letters</b> to customers" in page.inner_text(".use-case")
    page.fill("#prompt", "Write.")
    page.fill("#response", "Dear …")
    page.select_option("#task-type", "code")
    page.click(".form-foot .primary")
    page.wait_for_selector(".talk")
    assert page.locator("#prompt").count() == 0
    page.fill("#response", "Nobody.")
    page.select_option("#task-type", "code")
    page.click(".form-foot .primary")
    page.wait_for_selector(".done")
    assert [body["answer"] for _, _, body in script.answers] == [
        {"kind": "prompt", "task_type": "code", "prompt": "Sort a list.", "response": "sorted(x)"},
        {
            "kind": "prompt", "task_type": "<i>other</i>", "prompt": "Translate.",
            "examples": [{"query": "eins", "response": "one"}, {"query": "drei", "response": "three"}],
        },
        {"kind": "prompt", "task_type": "code", "prompt": "Write.", "response": "Dear …"},
        {"kind": "prompt", "task_type": "code", "response": "Nobody."},
    ]  # fmt: skip


@pytest.mark.parametrize("visitor", [{"locale": "zh-CN", "viewport": {"width": 375, "height": 700}}], indirect=True)
def test_the_summary_and_a_narrow_screen_in_chinese(annotator: Visitor, script: Scripted) -> None:
    page = begin(annotator, RANKING, script=script)
    assert page.inner_text("h2 >> nth=0") == "将回答从好到差排列"
    overflow = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(overflow) <= 0
    page.focus("#tab-task")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#summary table")
    text = page.inner_text("#summary")
    for piece in [
        "helpfulness",
        "0.81",
        "可靠",
        "尚无法计算",
        "<u>eve</u>",
        "确认 3，更改 1",
        "<i>other</i>",
        "3 · 75%",
    ]:
        assert piece in text, piece
    bar = page.locator("#summary table .stackbar")
    assert bar.get_attribute("aria-label") == "第一个回答: 75%, 不分上下: 25%"
    widths = bar.locator("i").evaluate_all("(parts) => parts.map((part) => part.getBoundingClientRect().width)")
    assert abs(widths[0] / sum(widths) - 0.75) < 0.02
    assert page.evaluate(overflow) <= 0

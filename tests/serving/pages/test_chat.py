"""The chat page in a real browser."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from tests.serving.pages.conftest import Visitor
from tests.serving.pages.server import MODELS, Scripted


def until(check: Any, seconds: float = 6.0) -> None:
    """Waits for something that the server sees."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


def test_an_answer_streams_and_is_counted(visitor: Visitor, script: Scripted) -> None:
    script.replies["Hello"] = "One **two** three four five six seven"
    script.delay = 0.08
    page = visitor.open()
    visitor.ask("Hello", wait=False)
    visitor.until("document.querySelector('.message.streaming .body')?.textContent.startsWith('One')")
    assert "seven" not in visitor.answer()
    assert page.get_attribute(".message.assistant", "aria-busy") == "true"
    assert page.inner_text("#live") == ""  # a screen reader hears the whole answer, not each token
    page.wait_for_selector(".message.streaming", state="detached")
    assert visitor.answer() == "One two three four five six seven"
    assert page.inner_html(".message.assistant .body strong") == "two"
    assert "One **two** three" in page.inner_text("#live")
    stats = page.inner_text(".stats")
    assert stats.startswith("6 tokens · ") and "tokens/s" in stats and "11 in the prompt" in stats
    speed = float(stats.split(" · ")[1].split()[0])
    assert 0.5 < speed < 60  # a piece every 80 ms, on a machine that may have much else to do
    body = script.requests[0]
    assert body == {
        "model": "world-chat", "messages": [{"role": "user", "content": "Hello"}], "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_stopping_keeps_what_came_and_frees_the_server(visitor: Visitor, script: Scripted) -> None:
    script.replies["Count"] = "word " * 400
    script.delay = 0.02
    page = visitor.open()
    visitor.ask("Count", wait=False)
    visitor.until("document.querySelector('.message.assistant .body')?.textContent.length > 30")
    page.keyboard.press("Escape")
    page.wait_for_selector(".message.streaming", state="detached")
    until(lambda: script.cancelled == 1)
    assert 30 < len(visitor.answer()) < 1500
    assert "You stopped" in page.inner_text(".assistant .failure-place")
    script.delay = 0
    visitor.ask("Next")
    assert script.requests[-1]["messages"][1]["role"] == "assistant"
    assert script.requests[-1]["messages"][1]["content"].startswith("word word")


def test_a_conversation_is_a_tree_that_survives_a_reload(visitor: Visitor, script: Scripted) -> None:
    page = visitor.open()
    visitor.ask("first")
    script.replies["first"] = "another answer"
    page.click("[data-name=again]")
    visitor.until("document.querySelector('.message.assistant .body').textContent === 'another answer'")
    assert page.inner_text(".assistant .count") == "2/2"
    visitor.ask("second")
    # Editing the first message makes a branch beside it.
    page.hover(".message.user")
    page.click(".message.user >> nth=0 >> [data-name=edit]")
    page.fill(".edit-field", "changed")
    page.press(".edit-field", "Enter")
    visitor.until("document.querySelector('.message.assistant .body')?.textContent === 'Echo: changed'")
    assert page.locator(".message").count() == 2
    assert page.inner_text(".user .count") == "2/2"
    assert script.requests[-1]["messages"] == [{"role": "user", "content": "changed"}]
    visitor.until("location.hash.length > 5")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert visitor.answer() == "Echo: changed"
    # Back to the first branch, where the second answer was shown and a second question followed.
    page.locator(".message.user").first.focus()
    page.keyboard.press("ArrowLeft")
    visitor.until("document.querySelectorAll('.message').length === 4")
    assert page.locator(".message.assistant .body").all_text_contents() == ["another answer", "Echo: second"]
    page.locator(".message.assistant").first.focus()
    page.keyboard.press("ArrowLeft")
    visitor.until("document.querySelector('.message.assistant .body').textContent === 'Echo: first'")
    assert page.locator(".message").count() == 2
    assert page.inner_text("#conversations li a") == "first"


def test_history_is_searched_renamed_exported_imported_and_deleted(
    visitor: Visitor, script: Scripted, tmp_path: Path
) -> None:
    page = visitor.open()
    for text in ("about apples", "about pears"):
        visitor.ask(text)
        page.keyboard.press("Control+Shift+O")
    titles = page.locator("#conversations li a")
    assert titles.all_inner_texts() == ["about pears", "about apples"]
    page.fill("#search", "echo: about APP")
    visitor.until("document.querySelectorAll('#conversations li').length === 1")
    assert titles.all_inner_texts() == ["about apples"]
    page.hover("#conversations li")
    page.click("#conversations summary")
    page.click(".menu-items >> text=Rename")
    page.fill("#conversations .field", "Orchard")
    page.press("#conversations .field", "Enter")
    page.wait_for_selector("#conversations a >> text=Orchard")
    page.fill("#search", "")
    with page.expect_download() as download:
        page.click("[aria-label='Save all conversations']")
    saved = tmp_path / "saved.json"
    download.value.save_as(saved)
    data = json.loads(saved.read_text())
    assert sorted(conversation["title"] for conversation in data["conversations"]) == ["", "Orchard"]
    page.click("#conversations a >> text=Orchard")
    page.wait_for_selector(".message")
    page.hover("#conversations li:has([aria-current])")
    page.click("#conversations li:has([aria-current]) summary")
    page.click(".menu[open] >> text=Delete")
    page.click("dialog >> text=Delete >> nth=-1")
    visitor.until("document.querySelectorAll('#conversations li').length === 1")
    assert page.locator(".message").count() == 0
    page.set_input_files("input[type=file]", saved)
    visitor.until("document.querySelectorAll('#conversations li').length === 3")
    page.click("#conversations a >> text=Orchard")
    page.wait_for_selector(".message.assistant")
    assert visitor.answer() == "Echo: about apples"
    # A file that holds something else changes nothing, and says why.
    bad = tmp_path / "bad.json"
    bad.write_text(
        '{"format": "hanlin-conversations", "conversations": [{"roots": ["a"], "nodes": {"a": {"role": "x"}}}]}'
    )
    page.set_input_files("input[type=file]", bad)
    assert 'has the role "x"' in page.inner_text(".toast.bad")
    assert page.locator("#conversations li").count() == 3


HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))",
    "<a href='javascript:alert(1)'>x</a>",
    "![x](http://evil.example/p.png)", "| <img src=x onerror=alert(1)> |\n|-|\n| <svg onload=alert(1)> |",
    "```html\n<script>alert(1)</script>\n```", "```<img src=x onerror=alert(1)>\ncode\n```", "`<b onclick=alert(1)>`",
    "$<img src=x onerror=alert(1)>$", "$$\\text{<script>alert(1)</script>}$$", "$\\href{javascript:alert(1)}{x}$",
    "<style>*{display:none}</style>",
    "<https://a.b/\"onmouseover=alert(1)>", "[x](https://a.b/'onclick=alert(1))", "[x](java\tscript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>", "&lt;script&gt;alert(1)&lt;/script&gt;",
]  # fmt: skip


def test_nothing_that_a_model_says_runs_or_asks_the_network(visitor: Visitor, script: Scripted, tmp_path: Path) -> None:
    """The visitor's `check` looks for scripts that ran, policies that were broken and requests to elsewhere."""
    text = "\n\n".join(HOSTILE)
    script.replies["attack"] = [
        {"reasoning_content": text},
        {"content": text},
        {"tool_calls": [{"function": {"name": text}}]},
    ]
    page = visitor.open()
    page.select_option(".picker", MODELS[2])
    visitor.ask("attack")
    assert page.inner_text(".assistant .name") == MODELS[2]

    def harmless() -> None:
        for summary in page.locator(".message summary:visible").all():
            summary.click()
        for link in page.locator(".message a").all():
            assert link.get_attribute("href").startswith(("https://", "http://"))
            assert "noopener" in link.get_attribute("rel")
        risky = "script, img, iframe, style, object, embed, form:not(.edit), [onclick], [onerror], [onload], [style]"
        assert page.locator(f"#thread :is({risky})").count() == 0
        for element in page.locator(".body p, .body td, .body code").all():
            element.hover(force=True)
        shown = page.locator(".assistant .body").last.text_content()
        assert "<script>alert(1)</script>" in shown and "<iframe srcdoc=" in shown

    harmless()
    # The same from a file that somebody was sent, with every field hostile.
    node = {
        "role": "assistant",
        "content": text,
        "model": HOSTILE[1],
        "reasoning": text,
        "tools": [{"name": text, "arguments": text}],
    }
    nodes = {
        "__proto__": {},
        "b": {**node, "children": ["b", "a", 7]},
        "a": {"role": "user", "content": text, "children": ["b"]},
    }
    data = {
        "title": HOSTILE[0],
        "nodes": nodes,
        "roots": ["a", "a", None],
        "shown": {"": "nowhere"},
        "settings": {"temperature": "x"},
    }
    file = tmp_path / "evil.json"
    file.write_text(json.dumps({"format": "hanlin-conversations", "conversations": [data]}))
    page.set_input_files("input[type=file]", file)
    page.click("#conversations a >> text=<script>")
    page.wait_for_selector(".message.assistant >> nth=0")
    assert page.locator(".message").count() == 2
    assert page.inner_text(".assistant .name") == HOSTILE[1]
    harmless()


def test_settings_and_system_prompt_are_sent_and_nothing_else(visitor: Visitor, script: Scripted) -> None:
    page = visitor.open()
    page.click("#settings")
    page.fill("#system-prompt", "Answer in verse.")
    for name, value in {"temperature": "0.7", "top_k": "40", "seed": "7", "max_completion_tokens": "9"}.items():
        page.fill(f"#setting-{name}", value)
    page.fill("#setting-stop", "END\n\\n\\n")
    page.fill("#setting-top_p", "3")
    assert page.locator(".setting .problem:not(:empty)").count() == 1  # 3 is no probability: it is not taken over
    page.keyboard.press("Escape")
    visitor.ask("go")
    body = script.requests[0]
    assert body["messages"][0] == {"role": "system", "content": "Answer in verse."}
    sent = {name: body[name] for name in body if name not in ("model", "messages", "stream", "stream_options")}
    assert sent == {"temperature": 0.7, "top_k": 40, "seed": 7, "max_completion_tokens": 9, "stop": ["END", "\n\n"]}
    page.click("#settings")
    page.click("text=Back to the server's defaults")
    page.keyboard.press("Escape")
    visitor.ask("again")
    assert "temperature" not in script.requests[1] and "stop" not in script.requests[1]


def test_ratings_and_better_versions_are_sent_with_consent_only(visitor: Visitor, script: Scripted) -> None:
    page = visitor.open()
    visitor.ask("What is 2?")
    page.click("[data-name=down]")
    page.click(".tag >> text=made up")
    page.fill(".feedback textarea", "refuse this")
    page.click(".feedback .primary")
    assert page.evaluate("document.querySelector('.consent-box').validationMessage") != ""
    assert script.feedback == []
    page.check(".consent-box")
    page.click(".feedback .primary")
    page.wait_for_selector(".feedback .problem:not(:empty)")
    assert "<b onclick=alert(1)>reason</b>" in page.inner_text(".feedback .problem")
    page.fill(".feedback textarea", "It is three.")
    page.click(".feedback .primary")
    page.wait_for_selector(".thanks")
    asked = [{"role": "user", "content": "What is 2?"}]
    assert script.feedback == [
        {
            "kind": "rating", "completion_id": "chatcmpl-1", "model": "world-chat", "messages": asked,
            "response": "Echo: What is 2?", "rating": "down", "reason": "It is three.", "tags": ["invented"],
            "consent": True,
        }
    ]  # fmt: skip
    assert page.get_attribute("[data-name=down]", "aria-pressed") == "true"
    page.click(".thanks button")
    page.wait_for_selector(".thanks", state="detached")
    assert script.withdrawn == ["fb-1"]
    assert page.get_attribute("[data-name=down]", "aria-pressed") == "false"
    page.click("[data-name=improve]")
    assert page.is_checked(".consent-box")  # remembered
    page.fill(".improved", "Two is a number.")
    page.click(".feedback .primary")
    page.wait_for_selector(".thanks")
    assert script.feedback[1] == {
        "kind": "edit", "completion_id": "chatcmpl-1", "model": "world-chat", "messages": asked,
        "response": "Echo: What is 2?", "edited": "Two is a number.", "consent": True,
    }  # fmt: skip
    # The better version is a branch, and the conversation goes on from it.
    assert page.inner_text(".assistant .count") == "2/2"
    visitor.ask("go on")
    assert script.requests[-1]["messages"][1] == {"role": "assistant", "content": "Two is a number."}


def test_two_models_side_by_side(visitor: Visitor, script: Scripted) -> None:
    script.replies["Who?"] = "nobody"
    script.replies["Who? @world-chat"] = "from chat"
    script.replies["Who? @world-dpo"] = "from dpo"
    page = visitor.open()
    page.click("#compare")
    left: set[str] = set()
    for turn in range(14):
        visitor.ask("Who?")
        page.wait_for_selector(".choice[data-choice='0']:not([disabled])")
        shown = page.locator(".duel .body").all_text_contents()
        assert sorted(shown) == ["from chat", "from dpo"]
        assert "world" not in page.inner_text(".duel")  # the names are hidden until the choice
        left.add(shown[0])
        if turn == 0:
            page.check(".consent-box")
            page.fill(".verdict .field", "shorter")
            page.press(".message.user", "2")
        elif turn == 1:
            page.press(".message.user", "0")
        else:
            page.uncheck(".consent-box")
            page.press(".message.user", "1")
        page.wait_for_selector(".duel", state="detached")
        chosen = 1 if turn == 0 else 0
        assert visitor.answer() == shown[chosen]
        if turn < 2:
            said = script.feedback[turn]
            assert [response["content"] for response in said["responses"]] == shown
            assert [response["model"] for response in said["responses"]] == [f"world-{text[5:]}" for text in shown]
            assert said["chosen"] == (1, None)[turn] and said["kind"] == "preference" and said["consent"] is True
            assert said["messages"] == [{"role": "user", "content": "Who?"}]
        if turn == 0:
            assert "preferred by you" in page.inner_text(".who >> nth=-1")
            page.locator(".message.assistant").focus()
            page.keyboard.press("ArrowLeft")
            visitor.until(f"document.querySelector('.assistant .body').textContent === '{shown[0]}'")
        if len(left) == 2 and turn > 1:
            break
        page.keyboard.press("Control+Shift+O")
    assert left == {"from chat", "from dpo"}  # by lot: 14 times the same side has a chance of 1 in 8192
    assert len(script.feedback) == 2  # without the tick nothing is sent


def test_failures_are_told_in_words_and_can_be_retried(visitor: Visitor, script: Scripted) -> None:
    page = visitor.open()
    script.replies["bad"] = [
        JSONResponse({"error": {"message": "<img src=x onerror=alert(2)> is not a field"}}, 400), JSONResponse({}, 503)
    ]  # fmt: skip
    visitor.ask("bad")
    assert "refused the request" in page.inner_text(".failure")
    assert "<img src=x onerror=alert(2)> is not a field" in page.inner_text(".failure")
    script.replies["bad"] = [{"content": "half an ans"}, "cut"]
    page.click(".retry")
    page.wait_for_selector(".failure >> text=connection was cut")
    assert visitor.answer() == "half an ans"
    script.replies["bad"] = [{"content": "begun"}, {"error": {"message": "out of memory", "code": "overloaded"}}]
    page.click(".retry")
    page.wait_for_selector(".failure >> text=out of memory")
    script.replies["bad"] = "good"
    page.click(".retry")
    visitor.until("document.querySelector('.assistant .body').textContent === 'good'")
    assert page.locator(".failure").count() == 0
    # Too much to do: the page waits as long as it was told to, then asks again by itself.
    busy = JSONResponse({"error": {"message": "busy"}}, 429, headers={"Retry-After": "1"})
    script.replies["busy"] = [busy, JSONResponse({"error": {"message": "down"}}, 500)]
    page.fill("#composer-text", "busy")
    page.press("#composer-text", "Enter")
    page.wait_for_selector(".failure >> text=Trying again in 1 s")
    script.replies["busy"] = "free again"
    visitor.until("document.querySelectorAll('.assistant .body')[1].textContent === 'free again'")


def test_a_keyed_server_asks_for_the_key(visitor: Visitor, script: Scripted) -> None:
    script.key = "hk-secret"
    page = visitor.page
    page.goto(visitor.address)
    page.fill("#key-field", "hk-wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog .problem")
    page.fill("#key-field", "hk-secret")
    page.keyboard.press("Enter")
    page.wait_for_selector(".picker")
    visitor.ask("in")
    assert visitor.answer() == "Echo: in"
    kept = page.evaluate("[JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
    assert "hk-secret" not in kept[0] and "hk-secret" in kept[1]


def test_reasoning_and_tool_calls_are_folded(visitor: Visitor, script: Scripted) -> None:
    script.replies["tags"] = "<think>First *this*.</think>\n\nThe answer."
    script.replies["field"] = [{"reasoning_content": "Apart"}, {"reasoning_content": " thought"}, {"content": "Said."}]
    script.replies["tool"] = [
        {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "<b>look</b>", "arguments": '{"place": '}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"<img src=x onerror=alert(3)>"}'}}]},
    ]
    page = visitor.open()
    visitor.ask("tags")
    assert visitor.answer() == "The answer."
    assert not page.locator(".quiet").last.is_visible()
    page.click(".message.assistant summary")
    assert page.inner_text(".quiet em") == "this"
    visitor.ask("field")
    assert visitor.answer() == "Said."
    assert script.requests[-1]["messages"][1]["content"] == "The answer."  # what it thought is not sent again
    assert page.locator(".quiet").last.text_content() == "Apart thought"
    visitor.ask("tool")
    summary = page.locator(".tools summary")
    assert "<b>look</b>" in summary.inner_text()
    assert not page.locator(".tools pre").is_visible()
    summary.click()
    assert '"place": "<img src=x onerror=alert(3)>"' in page.inner_text(".tools pre")


@pytest.mark.parametrize("visitor", [{"locale": "zh-CN", "color_scheme": "dark"}], indirect=True)
def test_chinese_and_dark(visitor: Visitor, script: Scripted) -> None:
    page = visitor.open()
    assert page.get_attribute("html", "lang") == "zh-Hans"
    assert page.inner_text("#new-chat") == "新对话"
    script.replies["强调"] = "**重点。**后文，见https://example.com/a。"
    visitor.ask("强调")
    assert page.inner_text(".assistant strong") == "重点。"
    assert page.get_attribute(".assistant a", "href") == "https://example.com/a"
    background = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(background)
    assert max(int(part) for part in dark[4:-1].split(",")) < 60
    page.click("#theme-switch")  # as the system → light
    assert min(int(part) for part in page.evaluate(background)[4:-1].split(",")) > 200
    page.click("#language-switch")
    assert page.inner_text("#new-chat") == "New conversation"
    assert page.get_attribute(".message.assistant [data-name=again]", "aria-label") == "Answer again (R)"
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.inner_text("#new-chat") == "New conversation"
    assert min(int(part) for part in page.evaluate(background)[4:-1].split(",")) > 200


WIDE = (
    "x" * 300
    + "\n\n| "
    + " | ".join(["column"] * 30)
    + " |\n"
    + "|-" * 30
    + "|\n\n```\n"
    + "y" * 400
    + "\n```\n\n$$"
    + "+".join("abcdefgh" * 12)
    + "$$"
)


@pytest.mark.parametrize(
    "visitor", [{"viewport": {"width": 375, "height": 700}, "has_touch": True, "is_mobile": True}], indirect=True
)
def test_a_narrow_screen(visitor: Visitor, script: Scripted) -> None:
    script.replies["wide"] = WIDE
    page = visitor.open()
    visitor.ask("wide")
    page.wait_for_selector(".md table")

    def overflow() -> int:
        return page.evaluate("Math.max(document.documentElement.scrollWidth, scroller.scrollWidth) - innerWidth")

    assert overflow() <= 0
    page.tap("[data-name=down]")
    page.wait_for_selector(".feedback")
    assert overflow() <= 0
    assert page.get_attribute("#sidebar", "inert") is not None
    page.tap("#menu")
    visitor.until("document.getElementById('sidebar').getBoundingClientRect().left === 0")
    page.tap("#conversations a")
    visitor.until("document.getElementById('sidebar').inert")
    page.tap("#compare")
    page.tap("[aria-label='New conversation'].narrow-only")
    visitor.ask("wide")
    page.wait_for_selector(".choice[data-choice='0']:not([disabled])")
    assert overflow() <= 0


def test_the_keyboard_alone(visitor: Visitor, script: Scripted) -> None:
    page = visitor.open()
    page.keyboard.type("by keys")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    page.wait_for_selector(".message.assistant:not(.streaming)")
    assert script.requests[0]["messages"][0]["content"] == "by keys\nsecond line"
    page.keyboard.press("ArrowUp")  # the empty field: the last message is edited
    page.wait_for_selector(".edit-field")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowDown")  # the message has the focus: on to the answer
    focus = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(focus) == "world-chat answered"
    page.keyboard.press("r")
    visitor.until("document.querySelector('.assistant .count')?.textContent === '2/2'")
    page.wait_for_selector(".message.streaming", state="detached")
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "composer-text"
    page.locator("#new-chat").focus()
    page.keyboard.press("?")
    page.wait_for_selector("dialog .shortcuts")
    assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert page.evaluate("document.activeElement.id") == "new-chat"
    # Everything that can be pressed has a name, and each landmark is there.
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, a, input, select, textarea, summary')].filter((e) =>"
        " e.checkVisibility() && !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length))"
        ".map((e) => e.outerHTML)"
    )
    assert unnamed == []
    assert page.locator("nav, main, header").count() >= 3


def test_a_server_that_is_away_is_looked_for(visitor: Visitor, script: Scripted) -> None:
    away = {"it": True}
    visitor.page.route("**/v1/models", lambda route: route.abort() if away["it"] else route.continue_())
    page = visitor.open()
    assert "cannot be reached" in page.inner_text("#notice")
    away["it"] = False
    page.wait_for_selector(".picker")
    assert page.inner_text("#notice") == ""
    # An option is text, whatever a model is called.
    assert page.locator(".picker option").all_inner_texts() == MODELS


def test_long_conversations_stay_fast(visitor: Visitor, script: Scripted) -> None:
    """Blocks that are finished keep their elements while an answer grows, and 25,000 characters arrive in time."""
    paragraphs = "".join(f"Paragraph {number} with *words* and $x_{{{number}}}$ in it.\n\n" for number in range(600))
    script.replies["long"] = [{"content": paragraphs[at : at + 40]} for at in range(0, len(paragraphs), 40)]
    script.delay = 0.0005
    page = visitor.open()
    visitor.ask("long", wait=False)
    page.wait_for_selector(".message.streaming .body p:nth-child(5)")
    page.evaluate("window.third = document.querySelector('.md p:nth-child(3)')")
    began = time.monotonic()
    page.wait_for_selector(".message.streaming", state="detached", timeout=12000)
    assert time.monotonic() - began < 10
    assert page.evaluate("window.third === document.querySelector('.md p:nth-child(3)')")
    assert page.locator(".md p").count() == 600

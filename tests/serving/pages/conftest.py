"""One browser for all tests of the pages, and a page that notices every script that should not have run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.pages.server import Scripted, running

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WATCH = """
window.alarms = [];
window.alert = (what) => window.alarms.push(`alert ${what}`);
document.addEventListener("securitypolicyviolation", (event) => window.alarms.push(`${event.violatedDirective} ${event.blockedURI}`));
"""  # noqa: E501 — JavaScript


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the pages are tested with playwright")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is missing")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def service() -> Iterator[tuple[Scripted, str]]:
    script = Scripted()
    with running(script.app()) as address:
        yield script, address


@pytest.fixture
def script(service: tuple[Scripted, str]) -> Scripted:
    """The server, without memory of other tests."""
    service[0].__init__()
    return service[0]


class Visitor:
    """A person with a browser of their own (its storage is empty)."""

    def __init__(self, browser: Any, address: str, **settings: Any) -> None:
        self.address = address
        self.context = browser.new_context(
            **{"locale": "en-GB", "viewport": {"width": 1200, "height": 800}, **settings}
        )
        self.context.set_default_timeout(6000)
        self.context.add_init_script(WATCH)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._request)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.outside.append(request.url)

    def open(self, path: str = "/") -> Any:
        self.page.goto(self.address + path)
        self.page.wait_for_selector("html[data-ready]")
        return self.page

    def ask(self, text: str, wait: bool = True) -> None:
        self.page.fill("#composer-text", text)
        self.page.press("#composer-text", "Enter")
        if wait:
            self.page.wait_for_selector(".message.assistant")
            self.page.wait_for_selector(".message.streaming", state="detached")

    def until(self, condition: str, seconds: float = 6.0) -> None:
        """Waits for a JavaScript expression to hold. (Playwright's own wait evaluates in the page, which the content
        security policy forbids, as it should.)"""
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, f"never came true: {condition}"
            time.sleep(0.02)

    def answer(self) -> str:
        """The last answer's text."""
        return self.page.locator(".message.assistant .body").last.text_content().strip()

    def check(self) -> None:
        """No script ran that should not have, nothing was asked of other machines, nothing failed."""
        assert self.page.evaluate("window.alarms") == []
        assert self.errors == []
        assert self.outside == []


@pytest.fixture
def visitor(browser: Any, service: tuple[Scripted, str], script: Scripted, request: Any) -> Iterator[Visitor]:
    visitor = Visitor(browser, service[1], **getattr(request, "param", {}))
    yield visitor
    visitor.check()
    visitor.context.close()

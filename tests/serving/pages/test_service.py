"""The pages on the service itself: what they ask for is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanlin.serving.annotation import Annotation
from hanlin.serving.annotation_summary import summarise
from hanlin.serving.feedback import FeedbackStore
from hanlin.serving.store import Database
from tests.serving.live import serving
from tests.serving.pages.conftest import Visitor


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(str(tmp_path / "service.db"))
    yield found
    found.close()


@pytest.fixture
def guest(browser: Any, directory: Path, database: Database) -> Iterator[Visitor]:
    """A visitor of a real service with a small model."""
    with serving(directory, store=database) as live:
        visitor = Visitor(browser, live.url)
        yield visitor
        visitor.check()
        visitor.context.close()


def test_a_conversation_and_what_was_thought_of_it(guest: Visitor, database: Database) -> None:
    page = guest.open()
    guest.ask("Where was Ada born?")
    assert guest.answer()
    page.click("[data-name=up]")
    page.check(".consent-box")
    page.click(".feedback .primary")
    page.wait_for_selector(".thanks")
    kept = FeedbackStore(database).rows()
    assert len(kept) == 1 and "Where was Ada born?" in str(kept[0]) and kept[0].kind == "rating"
    page.click(".thanks button")
    page.wait_for_selector(".thanks", state="detached")
    assert FeedbackStore(database).rows() == []


def test_a_task_is_answered(guest: Visitor, database: Database, tmp_path: Path) -> None:
    annotation = Annotation(database)
    annotation.create("towns", "pair", overlap=1, instructions="Choose the true one.")
    rows = tmp_path / "towns.jsonl"
    asked = [{"role": "user", "content": "Which is larger?"}]
    rows.write_text(json.dumps({"messages": asked, "responses": ["Ulm", "Rome"]}) + "\n")
    annotation.add_file("towns", rows)
    page = guest.open("/annotate")
    assert page.locator("#project option").all_inner_texts() == ["towns"]
    page.fill("#annotator", "Ada")
    page.press("#annotator", "Enter")
    page.wait_for_selector(".pair .md")
    chosen = page.locator(".pair .md").all_text_contents().index("Rome")
    page.keyboard.press(str(chosen + 1))
    page.wait_for_selector(".pair", state="detached")
    found = summarise(annotation, "towns")
    assert found["complete"] == 1 and found["annotators"]["Ada"]["answers"] == 1
    assert found["annotators"]["Ada"]["distribution"]["second"]["count"] == 1

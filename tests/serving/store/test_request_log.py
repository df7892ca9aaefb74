from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hanlin.serving.request_log import RequestLog, RequestLogSettings, RequestRecord
from hanlin.serving.store import Database
from hanlin.serving.store.tables import request_log
from tests.serving.store.conftest import Clock

MESSAGES = [{"role": "user", "content": "我的电话13812345678"}]


def record(**changes: Any) -> RequestRecord:
    values: dict[str, Any] = {"path": "/v1/completions", "status": 200, "seconds": 0.5, "time": 1_750_000_000.0}
    return RequestRecord(**(values | changes))


def rows(database: Database) -> list[dict[str, Any]]:
    with database.read() as connection:
        return [dict(row) for row in connection.execute(sa.select(request_log).order_by(request_log.c.id)).mappings()]


@pytest.fixture
def log(database: Database, clock: Clock) -> Iterator[RequestLog]:
    log = RequestLog(database, clock=clock)
    yield log
    log.close()


def test_a_request_is_a_row_without_what_was_said(log: RequestLog, database: Database) -> None:
    given = record(
        key="hk-0123", model="m", version="v1", prompt_tokens=3, completion_tokens=4, first_token_seconds=0.1,
        prompt=MESSAGES, answer="secret", path="/v1/chat/completions?token=abc",
    )  # fmt: skip
    log.record(given)
    assert log.flush()
    (row,) = rows(database)
    assert row.pop("id") > 0
    assert row.pop("bytes") > 0
    assert row == {**vars(given), "path": "/v1/chat/completions", "prompt": None, "answer": None}


def test_what_was_said_is_kept_redacted_where_the_settings_say_so(database: Database, tmp_path: Path) -> None:
    log = RequestLog(database, RequestLogSettings(content=True))
    log.record(record(prompt=MESSAGES, answer="Write to ann@example.com\0 \ud800."))
    log.close()
    (row,) = rows(database)
    assert row["prompt"] == '[{"role": "user", "content": "我的电话[PHONE]"}]'
    assert row["answer"] == "Write to [EMAIL]\0 ?."


def test_what_is_private_is_not_missed_because_it_is_cut_in_two(database: Database) -> None:
    """Wherever the cut falls, and however much shorter the text became before it."""
    log = RequestLog(database, RequestLogSettings(content=True, content_characters=300))
    for shift in range(40):
        text = (
            "ann@example.com " * 10 + "x" * (shift + 110) + " bob@example.org " + "y" * (955 + shift) + " 13812345678 "
        )
        log.record(
            record(answer=text, prompt="ann@example.com " * 70 + "x" * (150 + shift) + " bob@example.org and so on")
        )
    log.close()
    for row in rows(database):
        for kept in (row["answer"], row["prompt"]):
            assert len(kept) <= 301
            assert "@" not in kept
            assert "bob" not in kept
            assert "138" not in kept
            assert kept.startswith("[EMAIL] [EMAIL]") or kept == "…"


def test_recording_never_waits_and_what_is_lost_is_counted(database: Database) -> None:
    log = RequestLog(database, RequestLogSettings(queue=10))
    busy, hold = threading.Event(), threading.Event()

    def block() -> None:
        with database.write() as connection:  # another writer holds the database
            connection.execute(sa.select(1))
            busy.set()
            hold.wait(20)

    other = threading.Thread(target=block)
    other.start()
    busy.wait()
    # SQLite's writer waits for the other one; PostgreSQL's does not, and may write some meanwhile.
    begun = time.monotonic()
    for _ in range(2000):
        log.record(record())
    assert time.monotonic() - begun < 2
    hold.set()
    other.join()
    log.close()
    assert log.dropped > 0
    assert log.dropped + len(rows(database)) == 2000


def test_a_database_that_fails_costs_rows_but_not_the_service(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    log = RequestLog(database)
    with database.write() as connection:
        connection.execute(sa.text("ALTER TABLE request_log RENAME TO away"))
    with caplog.at_level(logging.WARNING):
        log.record(record(model="lost"))
        assert log.flush()
    assert log.dropped == 1
    assert "request_log" in caplog.text
    assert "lost" not in caplog.text
    with database.write() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO request_log"))
    log.record(record(model="kept"))
    log.close()
    assert [row["model"] for row in rows(database)] == ["kept"]


def test_rows_that_are_too_old_are_deleted(log: RequestLog, database: Database, clock: Clock) -> None:
    for day in range(60):
        for _ in range(20):
            log.record(record(time=clock.now - day * 86_400 + 1, model=str(day)))
    log.flush()
    assert log.sweep() == 30 * 20 - 20  # a row of exactly 30 days ago, and a second, is not yet older
    assert max(int(row["model"]) for row in rows(database)) == 30
    assert log.sweep() == 0


def test_the_oldest_rows_go_when_all_take_too_much(database: Database, clock: Clock) -> None:
    log = RequestLog(database, RequestLogSettings(content=True, days=None, megabytes=0.5), clock=clock)
    for number in range(1500):
        log.record(record(time=clock.now + number, model=str(number), answer="x" * 800))
    log.flush()
    assert log.sweep() == 1000
    left = rows(database)
    assert sum(row["bytes"] for row in left) == 500_000
    assert [int(row["model"]) for row in left] == list(range(1000, 1500))
    log.close()


def test_the_writer_sweeps_by_itself(database: Database, clock: Clock) -> None:
    log = RequestLog(database, clock=clock, sweep_seconds=0.05)
    log.record(record(time=0.0))
    log.flush()
    for _ in range(200):
        if not rows(database):
            break
        time.sleep(0.02)
    assert rows(database) == []
    log.close()


def test_tokens_of_a_day_are_known_by_key(log: RequestLog, clock: Clock) -> None:
    for key, moment in (("a", 0), ("a", 10), ("b", 5), ("", 20)):
        log.record(record(key=key, time=clock.now + moment, prompt_tokens=2, completion_tokens=3))
    log.flush()
    assert log.tokens_since(clock.now + 1) == {"a": 5, "b": 5, "": 5}
    assert log.tokens_since(clock.now) == {"a": 10, "b": 5, "": 5}


def test_closing_writes_what_waits(database: Database) -> None:
    log = RequestLog(database)
    for _ in range(1234):
        log.record(record())
    log.close()
    log.close()
    assert len(rows(database)) == 1234
    assert log.dropped == 0

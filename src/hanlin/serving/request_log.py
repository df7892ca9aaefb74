"""One row for every request: who, what, how long; what was said only where the settings ask for it, and then redacted.

Writing never holds a request up: `record` puts it into a queue, and a thread of its own writes what is there, many rows
in one transaction. When the queue is full the row is dropped, and counted.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from pydantic import Field

from hanlin.artifacts import Settings
from hanlin.corpus.private import redact
from hanlin.serving.store.database import Database, StoreError
from hanlin.serving.store.tables import request_log

_BATCH = 500
"""Rows in a transaction: what keeps others from writing is short"""
_MARGIN = 1000
"""Characters that are read beyond the kept ones, and dropped: what is private is never cut in two and so missed"""
_ROW_BYTES = 200
"""About what a row takes without its texts"""
_logger = logging.getLogger(__name__)


class RequestLogSettings(Settings):
    """What of requests is kept, and for how long."""

    content: bool = False
    """Keep what was asked and answered too, without the personal data that is found in it."""
    content_characters: int = Field(default=20_000, ge=1, le=1_000_000)
    """Of each prompt and answer, at most this much."""
    days: float | None = Field(default=30.0, gt=0)
    """Rows older than this are deleted; none: they stay."""
    megabytes: float | None = Field(default=1024.0, gt=0)
    """The oldest rows are deleted when all together take more than about this; none: they stay."""
    queue: int = Field(default=10_000, ge=1, le=1_000_000)
    """Rows that may wait to be written; beyond that they are dropped, and counted."""


@dataclass(frozen=True, kw_only=True)
class RequestRecord:
    """A request that has ended."""

    path: str
    """The route, without a query"""
    status: int
    """Of HTTP"""
    seconds: float
    """From its arrival to its end"""
    time: float
    """When it came, in seconds since 1970"""
    key: str = ""
    """The prefix of its key; empty: it had none"""
    model: str = ""
    version: str = ""
    """Of the model's weights"""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_seconds: float | None = None
    """From its arrival to the first token"""
    prompt: Any = None
    """What was asked: text, or messages. It is kept only where the settings say so"""
    answer: Any = None
    """What was answered, likewise"""


class RequestLog:
    """The log in a database. It has a thread: `close` it."""

    def __init__(
        self,
        database: Database,
        settings: RequestLogSettings | None = None,
        *,
        clock: Callable[[], float] = time.time,
        sweep_seconds: float = 300.0,
    ) -> None:
        """`sweep_seconds`: how often what is too old, or too much, is deleted."""
        self.settings = settings or RequestLogSettings()
        self.dropped = 0
        """Rows that were lost: the queue was full, or the database could not be written"""
        self._database, self._clock, self._sweep_seconds = database, clock, sweep_seconds
        self._queue: queue.Queue[RequestRecord | threading.Event | None] = queue.Queue(self.settings.queue)
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)
        self._thread.start()

    def record(self, record: RequestRecord) -> None:
        """Have a row written, soon. It never waits, and never raises."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._drop(1)

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until all that was recorded before is written; False when that takes longer."""
        written = threading.Event()
        try:
            self._queue.put(written, timeout=timeout)
        except queue.Full:
            return False
        return written.wait(timeout)

    def close(self, timeout: float = 30.0) -> None:
        """Write what waits, and end the thread."""
        if self._thread.is_alive():
            self.flush(timeout)
            self._queue.put(None)
            self._thread.join(timeout)

    def tokens_since(self, moment: float) -> dict[str, int]:
        """Tokens, of prompts and answers together, by key, of requests that came from a moment on."""
        total = sa.func.sum(request_log.c.prompt_tokens + request_log.c.completion_tokens)
        query = sa.select(request_log.c.key, total).where(request_log.c.time >= moment).group_by(request_log.c.key)
        with self._database.read() as connection:
            return {key: int(tokens) for key, tokens in connection.execute(query)}

    def sweep(self) -> int:
        """Delete what is too old or too much, in batches; how many rows that were."""
        deleted = 0
        if self.settings.days is not None:
            old = request_log.c.time < self._clock() - self.settings.days * 86_400
            while count := self._delete(sa.select(request_log.c.id).where(old).limit(_BATCH)):
                deleted += count
        if self.settings.megabytes is not None:
            with self._database.read() as connection:
                total = connection.execute(
                    sa.select(sa.func.coalesce(sa.func.sum(request_log.c.bytes), 0))
                ).scalar_one()
            over = int(total) - self.settings.megabytes * 1_000_000
            while over > 0:
                query = sa.select(request_log.c.id, request_log.c.bytes).order_by(request_log.c.time, request_log.c.id)
                with self._database.read() as connection:
                    oldest = connection.execute(query.limit(_BATCH)).all()
                ids: list[int] = []
                for row_id, size in oldest:
                    if over <= 0:
                        break
                    ids.append(row_id)
                    over -= size
                if not ids:
                    break
                deleted += self._delete(ids)
        return deleted

    def _delete(self, ids: Any) -> int:
        with self._database.write() as connection:
            return connection.execute(request_log.delete().where(request_log.c.id.in_(ids))).rowcount

    def _drop(self, rows: int) -> None:
        with self._counting:
            self.dropped += rows

    def _work(self) -> None:
        swept = float("-inf")
        while True:
            if time.monotonic() - swept >= self._sweep_seconds:
                self._guarded(self.sweep)
                swept = time.monotonic()
            try:
                first = self._queue.get(timeout=self._sweep_seconds)
            except queue.Empty:
                continue
            waiting = [first]
            while len(waiting) < _BATCH and waiting[-1] is not None:
                try:
                    waiting.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            records = [one for one in waiting if isinstance(one, RequestRecord)]
            if records and not self._guarded(self._write, records):
                self._drop(len(records))
            for one in waiting:
                if isinstance(one, threading.Event):
                    one.set()
            if waiting[-1] is None:
                return

    def _guarded(self, work: Callable[..., Any], *given: Any) -> bool:
        """The log is never what ends a service: a failure is told, and the next rows are tried again."""
        try:
            work(*given)
        except StoreError as error:
            _logger.warning("the request log was not written: %s", error)
            return False
        except Exception:
            _logger.exception("the request log was not written")
            return False
        return True

    def _write(self, records: list[RequestRecord]) -> None:
        rows = [self._row(record) for record in records]
        with self._database.write() as connection:
            connection.execute(request_log.insert(), rows)

    def _row(self, record: RequestRecord) -> dict[str, Any]:
        prompt, answer = (self._kept(one) if self.settings.content else None for one in (record.prompt, record.answer))
        return {
            **{name: getattr(record, name) for name in ("time", "status", "prompt_tokens", "completion_tokens")},
            "key": record.key[:32],
            "model": record.model[:200],
            "version": record.version[:100],
            "path": record.path.partition("?")[0][:200],
            "first_token_seconds": record.first_token_seconds,
            "seconds": record.seconds,
            "prompt": prompt,
            "answer": answer,
            "bytes": _ROW_BYTES + sum(len(text.encode()) for text in (prompt, answer) if text is not None),
        }

    def _kept(self, said: Any) -> str | None:
        """A text, or messages as JSON text, redacted and cut."""
        if said is None:
            return None
        text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
        most = self.settings.content_characters
        # What could not be stored is never why a request is not in the log.
        text = text[: most + _MARGIN].encode(errors="replace").decode()
        if len(text) <= most:
            return redact(text).text
        clean = redact(text).text
        return f"{clean[: max(0, min(most, len(clean) - _MARGIN))]}…"

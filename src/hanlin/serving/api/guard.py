"""What every request passes before it is looked at, and every answer on its way out."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hanlin.serving.api.errors import ApiError, error_body, log_failure
from hanlin.serving.keys import ApiKey
from hanlin.serving.request_log import RequestLog, RequestRecord
from hanlin.serving.settings import ServeSettings, is_loopback

SINGLE = (b"authorization", b"content-type", b"content-length", b"host")
"""Headers that must not stand twice: whoever sits before the service may have read the other one."""
HEAD_BYTES = 32 << 10
"""Most bytes of a request's line and headers."""
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
GONE = 499
"""What the log has for a client that went before it was answered."""
DRAIN_RETRY = 5
"""Seconds after which a client that met a leaving service is told to try again."""


LOGGED = ("/v1/", "/admin/", "/tokenize", "/detokenize")
"""Beginnings of the paths that the request log has rows of."""


@dataclass
class Entry:
    """What the request log is told of a request; whoever answers it fills it in."""

    began: float
    """On the clock of `time.monotonic`"""
    model: str = ""
    version: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token: float | None = None
    """On the same clock"""
    prompt: Any = None
    answer: Any = None


class Drain:
    """Whether the service is leaving, and what still runs."""

    def __init__(self) -> None:
        self.draining = False
        self.running = 0


class Guard:
    """ASGI middleware: bounds on the body, twofold headers, foreign hosts, draining, and a last net for failures.

    Failures are told to the client without their inside, and to the log without what was asked.
    """

    def __init__(
        self, app: ASGIApp, settings: ServeSettings, drain: Drain, keyless: bool, log: RequestLog | None
    ) -> None:
        self.app, self.settings, self.drain, self.keyless, self.log = app, settings, drain, keyless, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        outgoing = _Outgoing(send, request_id)
        refusal = self._refusal(scope)
        if refusal is not None:
            await outgoing.refuse(*refusal)
            return
        self.drain.running += 1
        entry = scope["state"]["entry"] = Entry(time.monotonic())
        try:
            outgoing.incoming = incoming = _Incoming(receive, scope["headers"], self.settings)
            await self.app(scope, incoming, outgoing)
        except Exception as error:
            log_failure(error, request_id)
            if not outgoing.started:
                await outgoing.refuse(500, f"The service failed. Its log knows this request as {request_id}.", None)
            # Else the answer ends in the middle, and uvicorn closes the connection: the client sees that it is cut.
        finally:
            self.drain.running -= 1
            if self.log is not None and scope["path"].startswith(LOGGED):
                self.log.record(_record(scope, entry, outgoing.status))

    def _refusal(self, scope: Scope) -> tuple[int, str, str | None] | None:
        """Status, message and code where the request goes no further."""
        headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
        names = [name for name, _ in headers]
        # The parser bounds what has not come to its end yet; a head that comes in one piece is bounded here.
        line = len(scope["raw_path"]) + len(scope["query_string"])
        if line + sum(len(name) + len(value) + 4 for name, value in headers) > HEAD_BYTES:
            return 431, f"The request's head has more than {HEAD_BYTES} bytes.", "head_too_large"
        for name in SINGLE:
            if names.count(name) > 1:
                return 400, f"The header {name.decode()} stands twice.", "duplicate_header"
        values = dict(headers)
        if self.keyless and not self._knows_host(values.get(b"host", b"").decode("latin-1")):
            # A page elsewhere can give its own name this address: without keys, the name is what tells it apart.
            return 403, "Without API keys the service answers to its own address only.", "foreign_host"
        if self.keyless and values.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
            return 403, "Without API keys the service answers to its own pages only.", "cross_site"
        if self.drain.draining and scope["path"] not in ("/health", "/metrics"):
            return 503, "The service is going down; ask again elsewhere or later.", "draining"
        length = values.get(b"content-length")
        if length is not None and int(length) > self.settings.body_bytes:
            return 413, f"The body has more than {self.settings.body_bytes} bytes.", "body_too_large"
        return None

    def _knows_host(self, host: str) -> bool:
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        return is_loopback(name) or name == self.settings.host


def _record(scope: Scope, entry: Entry, status: int) -> RequestRecord:
    key: ApiKey | None = scope["state"].get("key")
    seconds = time.monotonic() - entry.began
    return RequestRecord(
        path=scope["path"][:200],
        status=status,
        seconds=seconds,
        time=time.time() - seconds,
        key="" if key is None else key.prefix,
        model=entry.model,
        version=entry.version,
        prompt_tokens=entry.prompt_tokens,
        completion_tokens=entry.completion_tokens,
        first_token_seconds=None if entry.first_token is None else entry.first_token - entry.began,
        prompt=entry.prompt,
        answer=entry.answer,
    )


class _Incoming:
    """The body's pieces, counted and timed; after the body, the news that the client is gone."""

    def __init__(self, receive: Receive, headers: Sequence[tuple[bytes, bytes]], settings: ServeSettings) -> None:
        self._receive, self._settings = receive, settings
        self._bytes = 0
        names = {name for name, value in headers if value != b"0"}
        self.whole = b"content-length" not in names and b"transfer-encoding" not in names
        self._until = asyncio.get_running_loop().time() + settings.body_seconds

    async def __call__(self) -> Message:
        if self.whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            text = f"The body took over {self._settings.body_seconds:g} s."
            raise ApiError(408, text, code="body_timeout", close=True) from None
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self.whole = not message.get("more_body", False)
            if self._bytes > self._settings.body_bytes:
                text = f"The body has more than {self._settings.body_bytes} bytes."
                raise ApiError(413, text, code="body_too_large", close=True)
        return message


class _Outgoing:
    """The answer, with the headers that every answer has."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self._request_id = send, request_id
        self.started = False
        self.status = GONE
        self.incoming: _Incoming | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            given: list[tuple[bytes, bytes]] = list(message.get("headers", []))
            names = {name.lower() for name, _ in given}
            added = [(b"x-request-id", self._request_id.encode()), *HEADERS]
            if (self.incoming is None or not self.incoming.whole) and b"connection" not in names:
                # The rest of the body will not be read, so nothing can follow it.
                added.append((b"connection", b"close"))
            message["headers"] = [*given, *(one for one in added if one[0] not in names)]
        await self._send(message)

    async def refuse(self, status: int, message: str, code: str | None) -> None:
        body = json.dumps(error_body(status, message, None, code)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status == 503:
            headers.append((b"retry-after", str(DRAIN_RETRY).encode()))
        start: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": headers}
        await self(start)
        await self._send({"type": "http.response.body", "body": body})

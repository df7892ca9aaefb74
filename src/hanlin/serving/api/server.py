"""uvicorn, made safe against clients that are slow, and patient with those that are served when it is told to stop."""

from __future__ import annotations

import asyncio
import http
import json
import logging
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hanlin.serving.api.app import create_app
from hanlin.serving.api.errors import error_body
from hanlin.serving.api.guard import HEAD_BYTES
from hanlin.serving.api.service import Service
from hanlin.serving.settings import ServeSettings

log = logging.getLogger("hanlin.serving")
KEEP_ALIVE_SECONDS = 75
"""For a client to ask again on the same connection."""
CLOSING_SECONDS = 2
"""For connections to close once their requests are done or cancelled."""


class Server(uvicorn.Server):
    """Told to stop, it goes on answering: /health fails, new requests are sent away, running ones finish within
    `drain_seconds`. Told twice, it stops at once."""

    def __init__(self, service: Service, started: Callable[[str], None] | None = None) -> None:
        """`started` is told the address when requests are taken."""
        settings = service.settings
        super().__init__(
            uvicorn.Config(
                create_app(service),
                host=settings.host,
                port=settings.port,
                http=_protocol(settings),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=CLOSING_SECONDS,
                h11_max_incomplete_event_size=HEAD_BYTES,
                ssl_certfile=settings.tls_certificate,
                ssl_keyfile=settings.tls_key,
            )
        )
        self._service, self._started = service, started
        self._drained_by = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._started is not None:
            self._started(self.address)

    @property
    def address(self) -> str:
        """Where the service is, once it has started: `http://127.0.0.1:8000`."""
        settings = self._service.settings
        port: int = self.servers[0].sockets[0].getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"{'https' if settings.tls_certificate else 'http'}://{host}:{port}"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        drain = self._service.drain
        if drain.draining:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT
            return
        self.drain()

    def drain(self) -> None:
        """Begin to leave."""
        self._drained_by = time.monotonic() + self._service.settings.drain_seconds
        self._service.drain.draining = True

    async def on_tick(self, counter: int) -> bool:
        drain = self._service.drain
        if drain.draining and (drain.running == 0 or time.monotonic() > self._drained_by):
            self.should_exit = True
        return await super().on_tick(counter)


def _protocol(settings: ServeSettings) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol with a time for each thing that a client could drag out."""

    class Protocol(H11Protocol):
        _head: asyncio.TimerHandle | None = None
        _stalled: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > settings.connections:
                self._refuse(503, "Too many connections. Try again later.", "too_many_connections")
                return
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel_timers()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._cancel_head()
            elif self.conn.their_state is h11.IDLE and self._head is None:
                # A next request has begun on a connection that was kept.
                self._await_head()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stalled = self._stalled or self.loop.call_later(settings.write_seconds, self._abort)

        def resume_writing(self) -> None:
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, msg, "invalid_http")

        def _await_head(self) -> None:
            self._head = self.loop.call_later(settings.header_seconds, self._late_head)

        def _late_head(self) -> None:
            self._head = None
            self._refuse(408, f"The request's head took over {settings.header_seconds:g} s.", "header_timeout")

        def _cancel_head(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def _cancel_timers(self) -> None:
            self._cancel_head()
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None

        def _abort(self) -> None:
            """What was written to the client does not leave: its connection, and with it its request, ends."""
            self._stalled = None
            self.transport.abort()

        def _refuse(self, status: int, message: str, code: str) -> None:
            """Answer without a request that could be given to the application, and close."""
            self._cancel_timers()
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
                body = json.dumps(error_body(status, message, None, code)).encode()
                headers = [
                    ("content-type", "application/json"),
                    ("content-length", str(len(body))),
                    ("connection", "close"),
                ]
                if status == 503:
                    headers.append(("retry-after", "5"))
                reason = http.HTTPStatus(status).phrase.encode()
                response = h11.Response(status_code=status, headers=headers, reason=reason)
                for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()
            # A client that does not read the farewell either is not waited for.
            self.loop.call_later(settings.write_seconds, self.transport.abort)

    return Protocol

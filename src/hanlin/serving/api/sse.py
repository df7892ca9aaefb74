"""Server-sent events, framed as OpenAI frames them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hanlin.serving.api.errors import ApiError, error_body, log_failure
from hanlin.serving.api.generation import ClientGone, unless_gone

DONE = b"data: [DONE]\n\n"


def event(payload: dict[str, Any]) -> bytes:
    # Line breaks inside strings are escaped by JSON, so an event is one line. It takes a third of json.dumps's time.
    return b"data: " + to_json(payload) + b"\n\n"


class EventStream(Response):
    """Sends chunks as they are made, then `[DONE]`. What fails in the middle is sent as an error and ends the stream.

    When the client goes, `chunks` is closed at once. `close` is called at the end, whatever happened.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[dict[str, Any]], close: Callable[[], None], request_id: str) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["content-type"] = "text/event-stream; charset=utf-8"
        # A proxy that gathers a stream makes it none.
        self.headers["x-accel-buffering"] = "no"
        self._chunks, self._close, self._request_id = chunks, close, request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            with contextlib.suppress(ClientGone):
                await unless_gone(receive, self._pump(send))
        finally:
            self._close()

    async def _pump(self, send: Send) -> None:
        async with contextlib.aclosing(self._chunks):
            try:
                async for chunk in self._chunks:
                    await send({"type": "http.response.body", "body": event(chunk), "more_body": True})
            except ApiError as error:
                await send({"type": "http.response.body", "body": event(error.body()), "more_body": True})
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log_failure(error, self._request_id)
                text = f"The service failed. Its log knows this request as {self._request_id}."
                body = event(error_body(500, text))
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": DONE, "more_body": False})

"""A service that answers by script: the pages' tests talk to it through a real browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from hanlin.serving.pages import mount

MODELS = ["world-chat", "world-dpo", "<img src=x onerror=alert(1)>"]


class Scripted:
    """What the server will say, and what it was told. `replies`: by the last message, a text, a list of `delta`s, or a
    Response; other messages are echoed. `delay`: seconds between pieces."""

    def __init__(self) -> None:
        self.replies: dict[str, Any] = {}
        self.requests: list[dict[str, Any]] = []
        self.feedback: list[dict[str, Any]] = []
        self.withdrawn: list[str] = []
        self.cancelled = 0
        self.delay = 0.0
        self.key: str | None = None
        self.projects = ["helpfulness", "<b>prompts</b>"]
        self.tasks: list[dict[str, Any]] = []
        self.answers: list[tuple[str, str, dict[str, Any]]] = []
        self.summary: dict[str, Any] = {}

    def refused(self, request: Request) -> Response | None:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "no valid key", "code": "invalid_api_key"}}, 401)
        return None

    async def models(self, request: Request) -> Response:
        return self.refused(request) or JSONResponse(
            {"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]}
        )

    async def chat(self, request: Request) -> Response:
        if refusal := self.refused(request):
            return refusal
        body = await request.json()
        self.requests.append(body)
        asked = body["messages"][-1]["content"]
        reply = self.replies.get(f"{asked} @{body['model']}", self.replies.get(asked, f"Echo: {asked}"))
        if isinstance(reply, list) and reply and isinstance(reply[0], Response):
            reply = reply.pop(0) if len(reply) > 1 else reply[0]
        if isinstance(reply, Response):
            return reply
        return StreamingResponse(self.stream(reply, body["model"]), media_type="text/event-stream")

    async def stream(self, reply: Any, model: str) -> AsyncIterator[str]:
        name = f"chatcmpl-{len(self.requests)}"
        pieces = (
            [{"content": reply[at : at + 7]} for at in range(0, len(reply), 7)] if isinstance(reply, str) else reply
        )

        def event(**fields: Any) -> str:
            return "data: " + json.dumps({"id": name, "model": model, **fields}) + "\n\n"

        try:
            yield event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
            for piece in pieces:
                if piece == "cut":
                    return
                if "error" in piece:
                    yield "data: " + json.dumps(piece) + "\n\n"
                    return
                yield event(choices=[{"index": 0, "delta": piece, "finish_reason": None}])
                await asyncio.sleep(self.delay)
            yield event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
            yield event(choices=[], usage={"prompt_tokens": 11, "completion_tokens": len(pieces)})
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise

    async def give_feedback(self, request: Request) -> Response:
        body = await request.json()
        if body.get("reason") == "refuse this":
            return JSONResponse({"error": {"message": "<b onclick=alert(1)>reason</b> is not allowed"}}, 400)
        self.feedback.append(body)
        return JSONResponse({"id": f"fb-{len(self.feedback)}"}, 201)

    async def withdraw(self, request: Request) -> Response:
        self.withdrawn.append(request.path_params["id"])
        return Response(status_code=204)

    async def annotation_projects(self, request: Request) -> Response:
        return self.refused(request) or JSONResponse({"projects": self.projects})

    async def annotation_next(self, request: Request) -> Response:
        if not self.tasks:
            return Response(status_code=204)
        return JSONResponse({**self.tasks[0], "project": request.query_params["project"]})

    async def annotation_answer(self, request: Request) -> Response:
        body = await request.json()
        if body.get("skip") == "refuse this":
            return JSONResponse({"error": {"message": "<b>no</b>"}}, 400)
        self.answers.append((request.path_params["id"], request.query_params["annotator"], body))
        self.tasks.pop(0)
        return Response(status_code=204)

    async def annotation_summary(self, request: Request) -> Response:
        return JSONResponse({**self.summary, "project": request.query_params["project"]})

    def app(self) -> Starlette:
        app = Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/feedback", self.give_feedback, methods=["POST"]),
                Route("/v1/feedback/{id}", self.withdraw, methods=["DELETE"]),
                Route("/v1/annotation/projects", self.annotation_projects),
                Route("/v1/annotation/next", self.annotation_next),
                Route("/v1/annotation/summary", self.annotation_summary),
                Route("/v1/annotation/{id}", self.annotation_answer, methods=["POST"]),
            ]
        )
        mount(app)
        return app


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """The application on a free port of the loopback; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)

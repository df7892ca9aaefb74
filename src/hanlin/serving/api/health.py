"""/health: whether the service does its work, not only whether it listens."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from hanlin.serving.api.generation import Preparation
from hanlin.serving.models import Models, Version

if TYPE_CHECKING:
    from hanlin.serving.api.service import Service

router = APIRouter()
BEAT = 1.0
"""Seconds between looks at the engines."""


class Pulse:
    """Watches that engines take steps while work waits for them."""

    def __init__(self, models: Models, preparation: Preparation, stall_seconds: float) -> None:
        self._models, self._preparation, self._stall = models, preparation, stall_seconds
        self._seen: dict[Version, tuple[int, float]] = {}

    def beat(self) -> None:
        """Note how far every engine is."""
        now, seen = time.monotonic(), dict[Version, tuple[int, float]]()
        for version in self._models.in_memory():
            if version.model is None:
                continue
            load = version.model.engine.load
            before = self._seen.get(version)
            idle = load.running + load.waiting == 0
            moved = before is None or before[0] != load.steps
            seen[version] = (load.steps, now) if idle or moved or before is None else before
        self._seen = seen

    async def run(self) -> None:
        while True:
            self.beat()
            await asyncio.sleep(BEAT)

    def trouble(self) -> str | None:
        """What is wrong; None when all is well."""
        self.beat()
        now = time.monotonic()
        for version, (_, moved) in self._seen.items():
            if now - moved > self._stall:
                return f"{version.id} has taken no step for {now - moved:.0f} s while work waits"
        if self._preparation.hung:
            return "every thread that prepares prompts is stuck"
        if not self._models.names:
            return "no model is loaded"
        return None


@router.get("/health", tags=["operation"])
async def health(request: Request) -> JSONResponse:
    """200 while the service works; 503 while it goes down, or when engines stand still."""
    service: Service = request.app.state.service
    if service.drain.draining:
        return JSONResponse({"status": "draining", "running": service.drain.running}, 503, {"Retry-After": "5"})
    trouble = service.pulse.trouble()
    if trouble is not None:
        return JSONResponse({"status": "failing", "reason": trouble}, 503)
    return JSONResponse({"status": "ok"})

"""A service that listens, in a thread of its own, over a small model with lively random weights."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from hanlin.inference import LanguageModel
from hanlin.inference.scheduler import Load
from hanlin.serving.api.server import Server
from hanlin.serving.api.service import Service
from hanlin.serving.keys import Keys
from hanlin.serving.launch import loader, moderator
from hanlin.serving.models import Models
from hanlin.serving.settings import ModelSettings, ServeSettings
from hanlin.serving.store import Database


class Live:
    """The running service, and ways to it."""

    def __init__(self, service: Service, server: Server) -> None:
        self.service, self.server = service, server

    @property
    def url(self) -> str:
        return self.server.address

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def model(self) -> LanguageModel:
        model = self.service.models.choose("tiny", str).model
        assert model is not None
        return model

    def client(self, **settings: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, verify=False, **settings)

    def post(self, path: str, body: Any, **settings: Any) -> httpx.Response:
        with self.client() as client:
            return client.post(path, json=body, **settings)

    def quiet(self, seconds: float = 10) -> bool:
        """Whether within some seconds nothing runs, waits or is held any more, and the cache holds no more than the
        texts that it keeps."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            busy = any(
                version.holders or version.waiting or _busy(version.model.engine.load)
                for version in self.service.models.in_memory()
                if version.model is not None
            )
            if not busy:
                return True
            time.sleep(0.02)
        return False


def _busy(load: Load) -> bool:
    return bool(load.running or load.waiting or load.used_blocks != load.kept_blocks)


@contextlib.contextmanager
def serving(
    directory: Path,
    keys: Keys | None = None,
    store: Database | None = None,
    models: list[ModelSettings] | None = None,
    load: Callable[[Path, ModelSettings], LanguageModel] | None = None,
    **settings: Any,
) -> Iterator[Live]:
    """A service with these settings on a free port."""
    chosen = ServeSettings(
        models=models or [ModelSettings(path=str(directory), name="tiny")], port=0, max_batch=8, **settings
    )
    ready, failed, found = threading.Event(), list[BaseException](), list[Live]()

    async def run() -> None:
        served = Models(load or loader(chosen), chosen.dtype)
        for one in chosen.models:
            await served.load(one)
        service = Service(chosen, served, keys, store, moderator(chosen))
        server = Server(service, lambda _: ready.set())
        found.append(Live(service, server))
        await server.serve()

    def thread() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            failed.append(error)
        ready.set()

    worker = threading.Thread(target=thread, daemon=True)
    worker.start()
    assert ready.wait(60)
    if failed:
        raise failed[0]
    try:
        yield found[0]
    finally:
        found[0].server.should_exit = True
        worker.join(20)
        assert not worker.is_alive()

"""Runs the answers to one HTTP request in the engine: admitted, timed, measured, and cancelled with the client."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.types import Receive

from hanlin.artifacts import HanlinError
from hanlin.inference import Delta, Engine, Request
from hanlin.serving.api.errors import ApiError
from hanlin.serving.api.metrics import Metrics

T = TypeVar("T")
PREPARERS = 2
"""Threads that render templates and make tokens."""


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Preparation:
    """A few threads for work on a request's text that a hostile text could make long: each piece of it has a time.

    A thread cannot be stopped. One that outlasts its time is counted in `stuck`; when all are, nothing can be prepared
    any more and /health says so.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._pool = ThreadPoolExecutor(PREPARERS, thread_name_prefix="prepare")
        self.stuck = 0

    async def run(self, work: Callable[[], T]) -> T:
        """`work()` in a thread. Raises ApiError when it takes too long, or refuses what it was given."""
        pending = self._pool.submit(work)
        future = asyncio.wrap_future(pending)
        try:
            async with asyncio.timeout(self._seconds):
                return await future
        except TimeoutError:
            if not pending.cancel():
                self.stuck += 1
                loop = asyncio.get_running_loop()
                pending.add_done_callback(lambda _: loop.call_soon_threadsafe(self._came_back))
            raise ApiError(
                503, f"Preparing the prompt took over {self._seconds:g} s.", code="preparation_timeout", retry_after=5
            ) from None
        except HanlinError as error:
            raise ApiError(400, str(error), code="invalid_value") from None

    def _came_back(self) -> None:
        self.stuck -= 1

    @property
    def hung(self) -> bool:
        """Whether every thread is stuck."""
        return self.stuck >= PREPARERS

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class Deadline:
    """What `asyncio.timeout_at` does, with one timer for many waits: a stream waits for each of its tokens."""

    def __init__(self, when: float) -> None:
        self._late = False
        self._waiting: asyncio.Task[Any] | None = None
        self._timer = asyncio.get_running_loop().call_at(when, self._expire)

    async def wait(self, work: Awaitable[T]) -> T:
        """The result of `work`, one at a time. Raises TimeoutError when the time is up, and `work` is cancelled."""
        self._waiting = task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        if self._late:
            task.cancel()
        try:
            return await work
        except asyncio.CancelledError:
            # It may have been cancelled by somebody else as well, which goes before.
            if self._late and task.uncancel() <= before:
                raise TimeoutError from None
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        self._timer.cancel()

    def _expire(self) -> None:
        self._late = True
        if self._waiting is not None:
            self._waiting.cancel()


async def deltas(
    engine: Engine, requests: Sequence[Request], metrics: Metrics, model: str
) -> AsyncGenerator[tuple[int, Delta]]:
    """The pieces of all answers as they come, each with its request's number; closing it cancels them all.

    Raises ApiError when the engine could not finish an answer.
    """
    started = time.monotonic()
    if len(requests) == 1:
        async with contextlib.aclosing(metrics.watched(engine.stream(requests[0]), model, started)) as answer:
            async for delta in answer:
                yield 0, delta
        return
    queue: asyncio.Queue[tuple[int, Delta] | BaseException | None] = asyncio.Queue()

    async def pump(number: int, request: Request) -> None:
        try:
            async with contextlib.aclosing(metrics.watched(engine.stream(request), model, started)) as answer:
                async for delta in answer:
                    queue.put_nowait((number, delta))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(number, request)) for number, request in enumerate(requests)]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if item is None:
                left -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client goes. Raises ClientGone then."""
    task, gone = asyncio.ensure_future(work), asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        both: list[asyncio.Future[Any]] = [task, gone]
        for one in both:
            one.cancel()
        await asyncio.gather(*both, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

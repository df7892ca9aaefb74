"""The deadline of an answer: one timer for many waits."""

from __future__ import annotations

import asyncio

import pytest

from hanlin.serving.api.generation import Deadline


async def after(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


def test_it_ends_the_wait_that_it_falls_in_and_all_later_ones() -> None:
    async def run() -> None:
        deadline = Deadline(asyncio.get_running_loop().time() + 0.05)
        for _ in range(3):
            assert await deadline.wait(after(0.001)) == "done"
        task = asyncio.current_task()
        assert task is not None
        for seconds in (5, 0.001):
            with pytest.raises(TimeoutError):
                await deadline.wait(after(seconds))
            assert not task.cancelling()
        await asyncio.sleep(0)

    asyncio.run(run())


def test_a_time_that_is_up_between_two_waits_ends_the_next() -> None:
    async def run() -> None:
        deadline = Deadline(asyncio.get_running_loop().time() + 0.01)
        await asyncio.sleep(0.03)
        with pytest.raises(TimeoutError):
            await deadline.wait(after(0.001))

    asyncio.run(run())


def test_who_is_cancelled_at_the_same_time_stays_cancelled() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        deadline = Deadline(loop.time() + 0.02)
        task = asyncio.create_task(deadline.wait(after(5)))
        await asyncio.sleep(0)

        def both() -> None:
            deadline._expire()
            task.cancel()

        loop.call_soon(both)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_closed_it_ends_nothing() -> None:
    async def run() -> None:
        deadline = Deadline(asyncio.get_running_loop().time() + 0.01)
        deadline.close()
        assert await deadline.wait(after(0.03)) == "done"

    asyncio.run(run())

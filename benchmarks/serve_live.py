"""A live service and a bare engine, each in a process of its own, for serve_speed.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from serve_common import mixed, new_tokens

import hanlin
from hanlin.inference import Engine, Request

CONCURRENCY = 16


@contextlib.contextmanager
def process(arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL, env={**os.environ, **environment},
    ) as running:  # fmt: skip
        try:
            yield running
        finally:
            running.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(20)
            running.kill()


# The bare engine -------------------------------------------------------


class Bare:
    """An engine in another process, which makes its requests itself from the seed that it is told."""

    def __init__(self, running: subprocess.Popen[str], count: int) -> None:
        self.running, self.count = running, count

    def __call__(self, way: str, seed: int) -> float:
        """Output tokens a second; `way`: generate, or stream (16 tasks that each stream one request after another)."""
        assert self.running.stdin is not None and self.running.stdout is not None
        self.running.stdin.write(json.dumps([way, self.count, seed]) + "\n")
        self.running.stdin.flush()
        return float(self.running.stdout.readline())


@contextlib.contextmanager
def bare(directory: Path, dtype: str, count: int, threads: int) -> Iterator[Bare]:
    with process([__file__, str(directory), dtype], {"OMP_NUM_THREADS": str(threads)}) as running:
        yield Bare(running, count)


def bare_main(directory: str, dtype: str) -> None:
    engine = hanlin.load(directory, dtype, max_batch=CONCURRENCY).engine
    for line in sys.stdin:
        way, count, seed = json.loads(line)
        requests = mixed(count, seed)
        start = time.perf_counter()
        if way == "generate":
            done = sum(len(one.ids) for one in engine.generate(requests))
        else:
            done = asyncio.run(_stream_all(engine, requests))
        seconds = time.perf_counter() - start
        assert done == new_tokens(requests)
        # What ran `stream` answers in its own thread for good; each way is measured as it is by itself.
        engine.close()
        print(done / seconds, flush=True)


async def _stream_all(engine: Engine, requests: Sequence[Request]) -> int:
    left, done = iter(requests), 0

    async def worker() -> None:
        nonlocal done
        for request in left:
            async for delta in engine.stream(request):
                done += len(delta.ids)

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    return done


# The service -----------------------------------------------------------


class Service:
    """`hanlin serve`, and a client that does as little as a client can: both share the machine."""

    def __init__(self, host: str, port: int, count: int) -> None:
        self.host, self.port, self.count = host, port, count

    def __call__(self, seed: int) -> float:
        """Output tokens a second of all requests, streamed, 16 at once."""
        requests = mixed(self.count, seed)
        bodies = [
            json.dumps(
                {
                    "model": "bench", "prompt": list(one.prompt_ids), "max_tokens": one.max_new_tokens, "stream": True,
                    "ignore_eos": True, "temperature": 0, "stream_options": {"include_usage": True},
                }
            ).encode()
            for one in requests
        ]  # fmt: skip
        start = time.perf_counter()
        done = asyncio.run(self._ask_all(bodies))
        seconds = time.perf_counter() - start
        if done != new_tokens(requests):
            raise RuntimeError(f"the service answered {done} tokens of {new_tokens(requests)}")
        return done / seconds

    async def _ask_all(self, bodies: Sequence[bytes]) -> int:
        left, done = iter(bodies), 0

        async def worker() -> None:
            nonlocal done
            for body in left:
                answered = await self._ask(body)
                done += answered

        await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
        return done

    async def _ask(self, body: bytes) -> int:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        last = b""
        # Only the end is looked at, where the usage is: reading costs a copy and nothing more.
        while piece := await reader.read(1 << 16):
            last = (last + piece)[-2000:]
        writer.close()
        found = re.findall(rb'"completion_tokens": ?(\d+)', last)
        if not found or b"[DONE]" not in last:
            raise RuntimeError(f"the service's stream ended with {last[-300:]!r}")
        return int(found[-1])


@contextlib.contextmanager
def service(directory: Path, dtype: str, count: int, threads: int) -> Iterator[Service]:
    arguments = ["-m", "hanlin.cli.main", "serve", f"bench={directory}", "--port", "0", "--dtype", dtype]
    settings = {
        "HANLIN_SERVE_MAX_BATCH": str(CONCURRENCY), "HANLIN_DB": str(directory.parent / "serve.db"),
        "OMP_NUM_THREADS": str(threads),
    }  # fmt: skip
    with process(arguments, settings) as running:
        assert running.stdout is not None
        for line in running.stdout:
            found = re.search(r"http://([\d.]+):(\d+)", line)
            if found:
                yield Service(found[1], int(found[2]), count)
                return
        raise RuntimeError("hanlin serve did not start: run it by hand to see why")


if __name__ == "__main__":
    bare_main(*sys.argv[1:])

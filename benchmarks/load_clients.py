"""Clients for `serve_load.py`: those that listen to the end, and are told the right answer; and all the others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from load_pool import CHAT, NAME, PLAIN, Answer, Entry

LIMIT = 150
"""Seconds after which a request that has no end is a failure."""
SLOW_SECONDS = 0.2
"""Most that a slow reader waits before it reads on."""
FAILURES = 50
"""Most failures that are told one by one."""


class Wrong(Exception):
    """The service did what it must not."""


class Later(Exception):
    """The service is busy and said when to come back."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


@dataclass
class Tally:
    """What came of the requests."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """By kind of client and what came of it."""
    failures: list[str] = field(default_factory=list[str])
    failed: int = 0
    first_token: list[float] = field(default_factory=list[float])
    whole: list[float] = field(default_factory=list[float])
    tokens: int = 0
    """Of answers that were right."""
    feedback: set[str] = field(default_factory=set[str])
    """Identities that were acknowledged."""

    def fail(self, kind: str, what: str) -> None:
        self.outcomes[kind, "FAILED"] += 1
        self.failed += 1
        if len(self.failures) < FAILURES:
            self.failures.append(f"{kind}: {what}"[:2000])


# ---------------------------------------------------------------------- HTTP


@contextlib.asynccontextmanager
async def connection(port: int, receive: int = 0) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection, cut off when the block ends; `receive` bounds what the system takes in for a client that does not
    read."""
    made = socket.socket()
    made.setblocking(False)
    if receive:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    try:
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=made, limit=receive or 1 << 20)
    except BaseException:
        made.close()
        raise
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def encoded(path: str, body: Any, method: str = "POST") -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    return head(path, len(data), method) + data


def head(path: str, length: int, method: str = "POST") -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: application/json",
        f"content-length: {length}",
    ]
    return "\r\n".join([*lines, "connection: close", "", ""]).encode()


async def answered(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers. Raises Later for back-pressure that is announced, Wrong for other failures of the service."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1])
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    if status in (429, 503):
        if "retry-after" not in headers:
            raise Wrong(f"{status} without Retry-After")
        raise Later(float(headers["retry-after"]))
    if status >= 500:
        raise Wrong(f"{status}: {(await whole_body(reader, headers))[:500]!r}")
    return status, headers


async def pieces(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    if headers.get("transfer-encoding") != "chunked":
        yield await reader.readexactly(int(headers["content-length"]))
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)


async def whole_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    return b"".join([piece async for piece in pieces(reader, headers)])


async def ask(port: int, path: str, body: Any = None, method: str = "POST") -> tuple[int, Any]:
    """Status and value of a request whose answer comes whole."""
    async with connection(port) as (reader, writer):
        writer.write(encoded(path, body, method))
        status, headers = await answered(reader)
        data = await whole_body(reader, headers)
        return status, json.loads(data) if headers["content-type"].startswith("application/json") else data.decode()


# ---------------------------------------------------------------------- answers


@dataclass
class Heard:
    """One choice as a client has put it together."""

    content: str = ""
    calls: list[list[str]] = field(default_factory=list[list[str]])
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    finish_reason: str | None = None

    def take(self, path: str, choice: dict[str, Any]) -> None:
        """A choice of a chunk, or a whole one."""
        if self.finish_reason is not None:
            raise Wrong("a choice goes on behind its finish_reason")
        said = choice.get("delta") or choice.get("message") or {}
        self.content += (said.get("content") if path == CHAT else choice["text"]) or ""
        for call in said.get("tool_calls", []):
            function = call["function"]
            if "name" in function:
                self.calls.append([function["name"], ""])
            self.calls[-1][1] += function["arguments"]
        self.ids += choice.get("token_ids", [])
        told = choice.get("logprobs")
        if told is not None:
            self.logprobs += [one["logprob"] for one in told["content"]] if path == CHAT else told["token_logprobs"]
        self.finish_reason = choice["finish_reason"]


def compare(entry: Entry, heard: dict[int, Heard]) -> None:
    """Raise Wrong unless each choice is the lone run's, bit for bit."""
    if set(heard) != set(range(len(entry.answers))):
        raise Wrong(f"choices {sorted(heard)} of {len(entry.answers)}")
    for index, right in enumerate(entry.answers):
        got = heard[index]
        calls = [(name, arguments) for name, arguments in got.calls]
        logprobs = got.logprobs if entry.body.get("logprobs") not in (None, False) else right.logprobs
        found = Answer(got.content, calls, got.ids, logprobs, str(got.finish_reason))
        if found != right:
            raise Wrong(
                f"choice {index} of {json.dumps(entry.body, ensure_ascii=False)[:600]}: {found} instead of {right}"
            )


class Clients:
    """All kinds of clients of one service."""

    def __init__(self, port: int, pool: list[Entry], tally: Tally, patience: float) -> None:
        """`patience`: seconds that the service waits for those that dawdle."""
        self.port, self.pool, self.tally, self.patience = port, pool, tally, patience

    async def stream_of_requests(self, seed: int, until: float) -> None:
        """One request after the other, of kinds drawn at random, until the time of `time.monotonic`."""
        rng = random.Random(seed)
        names, weights = list(KINDS), [weight for weight, _ in KINDS.values()]
        while time.monotonic() < until:
            kind = rng.choices(names, weights)[0]
            await self.one(kind, rng)

    async def one(self, kind: str, rng: random.Random) -> None:
        try:
            async with asyncio.timeout(LIMIT):
                outcome = await KINDS[kind][1](self, rng)
        except Later as later:
            outcome = "told to come later"
            await asyncio.sleep(min(later.seconds, 2) * rng.random())
        except TimeoutError:
            self.tally.fail(kind, f"no end within {LIMIT} s")
            return
        except (OSError, asyncio.IncompleteReadError) as error:
            self.tally.fail(kind, f"cut off: {error!r}")
            return
        except Exception as error:
            self.tally.fail(kind, f"{type(error).__name__}: {error}")
            return
        self.tally.outcomes[kind, outcome] += 1

    # Those that listen ------------------------------------------------

    async def whole(self, rng: random.Random) -> str:
        entry, started = rng.choice(self.pool), time.monotonic()
        status, value = await ask(self.port, entry.path, entry.body)
        if status != 200:
            raise Wrong(f"{status}: {value}")
        heard: dict[int, Heard] = {}
        for choice in value["choices"]:
            heard.setdefault(choice["index"], Heard()).take(entry.path, choice)
        return self._right(entry, heard, started)

    async def stream(self, rng: random.Random, slowly: int = 0) -> str:
        """`slowly`: so many events are not read at once."""
        entry, started = rng.choice(self.pool), time.monotonic()
        heard: dict[int, Heard] = {}
        first = None
        async with connection(self.port) as (reader, writer):
            writer.write(encoded(entry.path, {**entry.body, "stream": True}))
            status, headers = await answered(reader)
            if status != 200:
                raise Wrong(f"{status}: {await whole_body(reader, headers)!r}")
            event = ""
            async for piece in pieces(reader, headers):
                # A piece is an event, so each must be text by itself.
                event = piece.decode()
                if event == "data: [DONE]\n\n":
                    continue
                value = json.loads(event.removeprefix("data: "))
                if "error" in value:
                    raise Wrong(event)
                for choice in value["choices"]:
                    heard.setdefault(choice["index"], Heard()).take(entry.path, choice)
                    if first is None and choice.get("token_ids"):
                        first = time.monotonic() - started
                if slowly > 0:
                    slowly -= 1
                    await asyncio.sleep(SLOW_SECONDS * rng.random())
            if event != "data: [DONE]\n\n":
                raise Wrong(f"the stream ends with {event[:200]!r}")
        if first is not None:
            self.tally.first_token.append(first)
        return self._right(entry, heard, started)

    async def slow_reader(self, rng: random.Random) -> str:
        return await self.stream(rng, slowly=40)

    def _right(self, entry: Entry, heard: dict[int, Heard], started: float) -> str:
        compare(entry, heard)
        self.tally.tokens += sum(len(one.ids) for one in heard.values())
        self.tally.whole.append(time.monotonic() - started)
        return "right"

    async def feedback(self, rng: random.Random) -> str:
        body = {
            "kind": "rating", "model": NAME, "messages": [{"role": "user", "content": f"What is {rng.random()}?"}],
            "response": str(rng.random()), "rating": rng.choice(["up", "down"]), "consent": True,
        }  # fmt: skip
        status, value = await ask(self.port, "/v1/feedback", body)
        if status != 201:
            raise Wrong(f"{status}: {value}")
        self.tally.feedback.add(value["id"])
        return "acknowledged"

    # Those that go ----------------------------------------------------

    async def leaves_in_prefill(self, rng: random.Random) -> str:
        body = {
            "model": NAME,
            "prompt": [rng.randrange(256) for _ in range(rng.randrange(500, 3000))],
            "max_tokens": 900,
            "stream": True,
        }
        async with connection(self.port) as (_, writer):
            writer.write(encoded(PLAIN, body))
            await writer.drain()
            await asyncio.sleep(rng.choice([0, 0.01, 0.1, 0.5]))
        return "gone"

    async def leaves_in_decode(self, rng: random.Random) -> str:
        async with connection(self.port) as (reader, writer):
            stream = rng.random() < 0.7
            body = {**endless(rng), "stream": stream, "n": rng.choice([1, 1, 3])}
            writer.write(encoded(CHAT, body))
            if not stream:
                await asyncio.sleep(rng.random() * 2)
                return "gone"
            status, headers = await answered(reader)
            if status != 200:
                raise Wrong(f"{status}: {await whole_body(reader, headers)!r}")
            left = rng.randrange(1, 40)
            async for _ in pieces(reader, headers):
                left -= 1
                if not left:
                    return "gone"
        raise Wrong("an answer of thousands of tokens has ended")

    async def stalls(self, rng: random.Random) -> str:
        """Reads nothing: it must be cut off, for there is more than the system takes in for it."""
        async with connection(self.port, receive=4096) as (reader, writer):
            writer.write(encoded(CHAT, {**endless(rng), "stream": True, "logprobs": True, "top_logprobs": 20, "n": 2}))
            await answered(reader)
            writer.transport.pause_reading()  # type: ignore[attr-defined] — declared of no base class, but a socket's has it
            await asyncio.sleep(rng.uniform(1.5, 3) * self.patience)
        return "gone"

    async def half_a_body(self, rng: random.Random) -> str:
        whole = encoded(CHAT, endless(rng))
        async with connection(self.port) as (reader, writer):
            writer.write(whole[: rng.randrange(whole.index(b"\r\n\r\n") + 4, len(whole) - 1)])
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random() * self.patience)
                return "gone"
            status, _ = await answered(reader)
            if status != 408:
                raise Wrong(f"{status} for half a body")
            return "408"

    # Those that talk nonsense -----------------------------------------

    async def garbage(self, rng: random.Random) -> str:
        data, expected = rng.choice(GARBAGE)(rng)
        async with connection(self.port) as (reader, writer):
            with contextlib.suppress(ConnectionError):  # it may be refused, and closed, before all of it was sent
                writer.write(data)
                await writer.drain()
            try:
                status, headers = await answered(reader)
                if status != 200:
                    await whole_body(reader, headers)
            except (ConnectionError, asyncio.IncompleteReadError):
                return "closed"  # what was sent beyond the refusal resets the connection
        if status not in expected:
            raise Wrong(f"{status} for {data[:600]!r}")
        return str(status)


def endless(rng: random.Random) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"{rng.random()}"}]
    return {"model": NAME, "messages": messages, "max_tokens": 3500, "ignore_eos": True}


Made = tuple[bytes, tuple[int, ...]]


def noise(rng: random.Random) -> Made:
    return rng.randbytes(rng.randrange(1, 4000)) + b"\r\n\r\n", (400, 408)


def no_json(rng: random.Random) -> Made:
    text = rng.choice(
        [
            b"{", b"null", b"[]", b'"x"', b"{}", b'{"model": }', b"\xff\xfe", rng.randbytes(200), b"[" * 100_000,
            b'{"a":' * 100_000, b'{"model": "small", "model": "small"}', b'{"n": NaN}', b'{"n": 1e999}',
            b'{"model": "\\ud800"}',
        ]
    )  # fmt: skip
    return head(rng.choice([CHAT, PLAIN, "/v1/embeddings", "/tokenize", "/v1/feedback"]), len(text)) + text, (400,)


WRONG: list[tuple[str, Any]] = [
    ("n", -1), ("n", 10**9), ("n", "2"), ("max_tokens", -5), ("max_tokens", 10**30), ("max_tokens", 5000),
    ("seed", -(10**30)), ("top_k", -1), ("top_p", 0), ("temperature", -1), ("temperature", 1e300), ("stop", [""]),
    ("stop", ["x" * 300]), ("logit_bias", {"-1": 1}), ("logit_bias", {"99999": 1}), ("top_logprobs", -1),
    ("prompt_logprobs", -1), ("messages", []), ("messages", [{"role": "king", "content": "x"}]), ("max_token", 1),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}]),
    ("messages", [{"role": "user", "content": "x" * 20_000}]), ("response_format", {"type": "nonsense"}),
    ("structured_outputs", {"regex": "(a"}), ("structured_outputs", {"regex": "((a{1,999}){1,999}){1,999}"}),
    ("structured_outputs", {"grammar": "start: start"}), ("structured_outputs", {"json": {"$ref": "http://x/y"}}),
    ("tools", [{"type": "function", "function": {"name": "a b"}}]), ("model", "nobody"), ("chat_template", "{{ 1 }}"),
]  # fmt: skip


def wrong_field(rng: random.Random) -> Made:
    name, value = rng.choice(WRONG)
    body = {"model": NAME, "messages": [{"role": "user", "content": "x"}], "max_tokens": 4, name: value}
    return encoded(CHAT, body), (400, 404)


def any_value(rng: random.Random) -> Made:
    """A good body with one value replaced by any other: mostly wrong, sometimes good."""
    body = {"model": NAME, "messages": [{"role": "user", "content": "x"}], "max_tokens": 4, "temperature": 1, "n": 1}
    values = [None, True, 0, -1, 1e-300, 2**63, "", "x", [], {}, [[]], {"": ""}, [None], "\0", "\u202e", [-1] * 100]
    names = [*body, "stop", "seed", "tools", "stream", "logprobs", "user", "response_format", "logit_bias", "top_k"]
    body[rng.choice(names)] = rng.choice(values)
    return encoded(CHAT, body), (200, 400, 404)


def giant_head(rng: random.Random) -> Made:
    more = rng.choice([b"x-a: " + b"b" * 100_000, b"\r\n".join(b"x-%d: b" % number for number in range(10_000))])
    return b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n" + more + b"\r\n\r\n", (400, 431)


def no_request(rng: random.Random) -> Made:
    host = b"host: 127.0.0.1\r\n"
    return rng.choice(
        [
            (b"GET /nothing HTTP/1.1\r\n" + host + b"\r\n", (404,)),
            (b"DELETE /v1/chat/completions HTTP/1.1\r\n" + host + b"\r\n", (405,)),
            (b"POST /v1/completions HTTP/1.1\r\n" + host + b"content-length: -5\r\n\r\n", (400,)),
            (b"POST /v1/completions HTTP/1.1\r\n" + host + b"content-length: 99999999999\r\n\r\n", (413,)),
            (b"GET /v1/models HTTP/1.1\r\nhost: elsewhere\r\n\r\n", (403,)),
            (b"GET /v1/models HTTP/1.1\r\n" + host + host + b"\r\n", (400,)),
        ]
    )


GARBAGE: list[Callable[[random.Random], Made]] = [
    noise, no_json, no_json, wrong_field, wrong_field, wrong_field, any_value, any_value, giant_head, no_request,
]  # fmt: skip
Behaviour = Callable[[Clients, random.Random], Awaitable[str]]
KINDS: dict[str, tuple[float, Behaviour]] = {
    "stream": (50, Clients.stream),
    "whole": (18, Clients.whole),
    "slow reader": (5, Clients.slow_reader),
    "feedback": (3, Clients.feedback),
    "leaves in prefill": (4, Clients.leaves_in_prefill),
    "leaves in decode": (6, Clients.leaves_in_decode),
    "stalls": (2, Clients.stalls),
    "half a body": (3, Clients.half_a_body),
    "garbage": (9, Clients.garbage),
}
"""How often, and what it does."""

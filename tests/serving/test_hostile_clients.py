"""Clients that dawdle, vanish, send too much or too many: they are told so where they listen, and cost nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.live import Live, serving
from tests.serving.test_refusals import CHAT, CHAT_PATH, refusal

LONG: dict[str, Any] = {**CHAT, "model": "long", "max_tokens": 50_000, "ignore_eos": True}


def request(body: Any, path: str = CHAT_PATH, **headers: str) -> bytes:
    data = json.dumps(body).encode()
    head = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(data)), **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    return "\r\n".join(lines).encode() + data


@pytest.fixture
def connection(live: Live) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", live.port), timeout=20) as made:
        yield made


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and everything else until the service closes."""
    received = b""
    while piece := connection.recv(65536):
        received += piece
    assert received.startswith(b"HTTP/1.1 "), received
    return int(received[9:12]), received


def running(live: Live) -> int:
    return sum(one.model.engine.load.running for one in live.service.models.in_memory() if one.model is not None)


def wait_for(condition: Any, seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(condition())


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_takes_its_request_with_it(live: Live, connection: socket.socket, stream: bool) -> None:
    connection.sendall(request({**LONG, "stream": stream, "n": 3}))
    assert wait_for(lambda: running(live) == 3)
    if stream:
        assert connection.recv(100)
    connection.close()
    assert live.quiet(5)


def test_a_client_that_goes_before_the_first_token(live: Live, connection: socket.socket) -> None:
    """In prefill: the prompt is long, and the client leaves at once."""
    body = {"model": "long", "prompt": [97] * 8000, "max_tokens": 50_000, "ignore_eos": True, "stream": True}
    connection.sendall(request(body, "/v1/completions"))
    connection.close()
    assert live.quiet(20)


def test_a_reader_that_stops_reading_is_cut_off(live: Live) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", live.port))
        connection.sendall(request({**LONG, "stream": True, "logprobs": True, "top_logprobs": 20, "n": 4}))
        assert wait_for(lambda: running(live) == 4)
        assert live.quiet(20), "write_seconds is 1"


def test_a_head_that_does_not_end(live: Live, connection: socket.socket) -> None:
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n")
    started = time.monotonic()
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.1):
            try:
                connection.sendall(b"x-a: b\r\n")
            except OSError:
                return

    dripping = threading.Thread(target=drip, daemon=True)
    dripping.start()
    status, text = answer(connection)
    stop.set()
    assert status == 408 and b"header_timeout" in text
    assert 0.8 < time.monotonic() - started < 4


def test_a_connection_that_says_nothing(live: Live, connection: socket.socket) -> None:
    assert answer(connection)[0] == 408


def test_a_second_head_that_does_not_end(live: Live, connection: socket.socket) -> None:
    connection.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    received = b""
    while not received.endswith(b'{"status":"ok"}'):
        received += connection.recv(65536)
    connection.sendall(b"GET /health HTTP/1.1\r\nhost: 127.")
    status, text = answer(connection)
    assert status == 408 and b"header_timeout" in text


def test_a_body_that_does_not_end(live: Live, connection: socket.socket) -> None:
    whole = request(CHAT)
    connection.sendall(whole[:-5])
    status, text = answer(connection)
    assert status == 408 and b"body_timeout" in text
    assert live.quiet()


@pytest.mark.parametrize(
    "head",
    [
        b"x-a: " + b"b" * 100_000,
        b"\r\n".join(b"x-%d: b" % number for number in range(10_000)),
    ],
)
def test_giant_heads(live: Live, connection: socket.socket, head: bytes) -> None:
    connection.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n" + head[:60_000])
    status, text = answer(connection)
    assert status in (400, 431) and b'"error"' in text


@pytest.mark.parametrize(
    "end", [b"/v1/models?" + b"a" * 40_000 + b" HTTP/1.1\r\n", b"/health HTTP/1.1\r\nx-a: " + b"b" * 40_000]
)
def test_giant_heads_that_are_whole(live: Live, connection: socket.socket, end: bytes) -> None:
    connection.sendall(b"GET " + end.rstrip() + b"\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
    status, text = answer(connection)
    # The parser's bound where it comes in pieces, ours where it does not.
    assert (status, b"head_too_large" in text) == (431, True) or (status, b"invalid_http" in text) == (400, True)


def test_a_giant_request_line(live: Live, connection: socket.socket) -> None:
    connection.sendall(b"GET /" + b"a" * 60_000)
    assert answer(connection)[0] in (400, 414, 431)


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nbad header: x\r\n\r\n",
    ],
)
def test_what_is_no_http(live: Live, connection: socket.socket, raw: bytes) -> None:
    connection.sendall(raw)
    status, text = answer(connection)
    assert status == 400 and b'"error"' in text


def test_bodies_beyond_the_bound(live: Live, connection: socket.socket) -> None:
    most = live.service.settings.body_bytes
    connection.sendall(request(CHAT, **{"content-length": str(most + 1)})[:500])
    status, text = answer(connection)
    assert status == 413 and b"body_too_large" in text

    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * (most // 50)

    # It may be closed while the client is still sending.
    with live.client() as client, contextlib.suppress(httpx.TransportError):
        refusal(client.post(CHAT_PATH, content=pieces(), headers={"content-type": "application/json"}), 413)
    assert live.quiet()


def test_a_full_queue_says_when_to_come_back(directory: Path, long_directory: Path) -> None:
    from hanlin.serving.settings import ModelSettings

    models = [ModelSettings(path=str(long_directory), name="long")]
    with serving(directory, models=models, queue=0) as live, live.client() as client:
        with client.stream("POST", CHAT_PATH, json={**LONG, "stream": True, "n": 8}) as held:
            next(held.iter_bytes())
            refused = client.post(CHAT_PATH, json={**LONG, "max_tokens": 1})
            assert refusal(refused, 429)["code"] == "overloaded"
            assert int(refused.headers["retry-after"]) >= 1
        assert live.quiet()
        assert client.post(CHAT_PATH, json={**LONG, "max_tokens": 1}).status_code == 200
        assert 'requests_refused_total{reason="queue"} 1.0' in client.get("/metrics").text


def test_too_many_connections(directory: Path) -> None:
    with serving(directory, connections=3, header_seconds=20) as live:
        held = [socket.create_connection(("127.0.0.1", live.port)) for _ in range(3)]
        with socket.create_connection(("127.0.0.1", live.port), timeout=10) as one:
            assert answer(one)[0] == 503
        for each in held:
            each.close()
        time.sleep(0.1)
        assert live.client().get("/health").status_code == 200


def test_an_answer_that_takes_too_long(directory: Path, long_directory: Path) -> None:
    from hanlin.serving.settings import ModelSettings

    models = [ModelSettings(path=str(long_directory), name="long")]
    with serving(directory, models=models, request_seconds=0.5) as live:
        assert refusal(live.post(CHAT_PATH, LONG), 504)["code"] == "timeout"
        with live.client() as client, client.stream("POST", CHAT_PATH, json={**LONG, "stream": True}) as response:
            events = response.read().decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        assert json.loads(events[-3].removeprefix("data: "))["error"]["code"] == "timeout"
        assert live.quiet()


def test_failures_are_told_without_their_inside(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the secret is swordfish")

    with caplog.at_level(logging.DEBUG):
        monkeypatch.setattr(type(live.model), "chat_request", broken)
        error = refusal(live.post(CHAT_PATH, {**CHAT, "user": "swordfish"}), 500)
    assert "swordfish" not in json.dumps(error) + caplog.text and "RuntimeError" not in error["message"]
    assert "RuntimeError" in caplog.text and error["message"].split()[-1].rstrip(".") in caplog.text
    assert live.quiet()


def test_a_failure_in_the_middle_of_a_stream(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    from hanlin.serving.api.chat import ChatAnswer

    def broken(*_: Any) -> Any:
        raise RuntimeError("the secret is swordfish")

    monkeypatch.setattr(ChatAnswer, "_told", broken)
    with live.client() as client, client.stream("POST", CHAT_PATH, json={**CHAT, "stream": True}) as response:
        text = response.read().decode()
    assert '"type":"server_error"' in text and "swordfish" not in text and text.endswith("data: [DONE]\n\n")
    assert live.quiet()


def test_prompts_are_not_in_logs(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="hanlin"):
        for body in (
            {**CHAT, "messages": [{"role": "user", "content": "swordfish"}]},
            {**CHAT, "messages": [{"role": "user", "content": "swordfish " * 100}]},
            {**CHAT, "messages": [{"role": "swordfish", "content": "x"}]},
        ):
            live.post(CHAT_PATH, body)
        live.post("/v1/completions", {"model": "tiny", "prompt": "swordfish"})
    assert "swordfish" not in caplog.text


def test_a_preparation_that_hangs(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client is told, others are served by the other thread; when every thread hangs, /health says so."""
    release = threading.Event()
    with serving(directory, prepare_seconds=0.2) as live:
        model, honest = live.model, live.model.chat_request

        def hanging(messages: Any, **settings: Any) -> Any:
            if "hang" in messages[0]["content"]:
                release.wait(20)
            return honest(messages, **settings)

        monkeypatch.setattr(model, "chat_request", hanging, raising=False)
        hang = {**CHAT, "messages": [{"role": "user", "content": "hang"}]}
        with live.client() as client:
            first = client.post(CHAT_PATH, json=hang)
            assert refusal(first, 503)["code"] == "preparation_timeout" and "retry-after" in first.headers
            assert client.post(CHAT_PATH, json=CHAT).status_code == 200
            assert client.get("/health").status_code == 200
            refusal(client.post(CHAT_PATH, json=hang), 503)
            assert client.get("/health").status_code == 503
            release.set()
            assert wait_for(lambda: client.get("/health").status_code == 200)
            assert client.post(CHAT_PATH, json=CHAT).status_code == 200
        assert live.quiet()

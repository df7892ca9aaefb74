"""The service is killed under load: it begins again by itself, and nothing that it acknowledged is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hanlin.serving.feedback import FeedbackStore
from hanlin.serving.store import Database
from tests.processes import begin, command_line, hanlin
from tests.serving.test_hostile_clients import wait_for
from tests.serving.test_refusals import CHAT, CHAT_PATH

KILLS = 2


@contextlib.contextmanager
def supervised(directory: Path, folder: Path) -> Iterator[tuple[str, Any]]:
    """Address of a service under its own supervisor, and the supervisor's process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "serve",
        f"tiny={directory}",
        "--supervised",
        "--port",
        str(port),
        "--database",
        str(folder / "service.db"),
    ]
    supervisor = begin(command_line, words, folder, said=folder / "said")
    try:
        yield f"http://127.0.0.1:{port}", supervisor
    finally:
        for one in [*children(supervisor.pid), supervisor.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        supervisor.join(10)


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in tasks.read_text().split()] if tasks.exists() else []


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def rating(number: int) -> dict[str, Any]:
    said = {"messages": [{"role": "user", "content": f"What is {number}?"}], "response": f"It is {number}."}
    return {"kind": "rating", "model": "tiny", "rating": "up", "consent": True, **said}


class Posting(threading.Thread):
    """Says what it thinks of answers, one after the other, and asks for answers besides."""

    def __init__(self, url: str, first: int) -> None:
        super().__init__(daemon=True)
        self.url, self.first = url, first
        self.acknowledged: list[str] = []
        self.answered = self.broken = 0
        self.over = threading.Event()

    def run(self) -> None:
        number = self.first
        while not self.over.is_set():
            number += 1
            try:
                with httpx.Client(base_url=self.url, timeout=20) as client:
                    made = client.post("/v1/feedback", json=rating(number))
                    assert made.status_code == 201, made.text
                    self.acknowledged.append(made.json()["id"])
                    answer = client.post(CHAT_PATH, json={**CHAT, "stream": True})
                    assert answer.text.endswith("data: [DONE]\n\n"), answer.text
                    self.answered += 1
            except httpx.TransportError:
                self.broken += 1
                time.sleep(0.05)


def go_on(posting: list[Posting]) -> bool:
    """Whether each client's next requests are answered within a minute."""
    before = [(len(one.acknowledged), one.answered) for one in posting]

    def answered() -> bool:
        now = [(len(one.acknowledged), one.answered) for one in posting]
        return all(new[0] > old[0] + 1 and new[1] > old[1] for old, new in zip(before, now, strict=True))

    return wait_for(answered, 60)


def test_killed_under_load_it_begins_again_and_remembers(directory: Path, tmp_path: Path) -> None:
    with supervised(directory, tmp_path) as (url, supervisor):
        assert wait_for(lambda: healthy(url), 60), (tmp_path / "said").read_text()
        posting = [Posting(url, 1_000_000 * number) for number in range(3)]
        for one in posting:
            one.start()
        for _ in range(KILLS):
            assert go_on(posting), (tmp_path / "said").read_text()
            (killed,) = children(supervisor.pid)
            os.kill(killed, signal.SIGKILL)
            assert wait_for(lambda killed=killed: killed not in children(supervisor.pid))
        assert go_on(posting), (tmp_path / "said").read_text()
        for one in posting:
            one.over.set()
        for one in posting:
            one.join(30)
            assert not one.is_alive()
        # Told to stop, both end, and well.
        os.kill(supervisor.pid, signal.SIGTERM)
        supervisor.join(30)
        assert supervisor.exitcode == 0 and not healthy(url)
    acknowledged = [identity for one in posting for identity in one.acknowledged]
    assert len(set(acknowledged)) == len(acknowledged) > 4 * KILLS and sum(one.broken for one in posting) > 0
    database = Database(str(tmp_path / "service.db"))
    assert set(acknowledged) <= {row.id for row in FeedbackStore(database).rows()}
    database.close()
    assert (tmp_path / "said").read_text().count("SIGKILL") == KILLS


@pytest.mark.parametrize(
    ("words", "says"), [(["--port", "0"], "port of its own"), (["--port", "1234", "--host", "0.0.0.0"], "keys create")]
)
def test_what_would_fail_again_is_not_tried_again(directory: Path, tmp_path: Path, words: list[str], says: str) -> None:
    done = hanlin("serve", directory, "--supervised", "--database", tmp_path / "service.db", *words, timeout=60)
    assert done.returncode == 2 and says in " ".join(done.stderr.split()) and "begins again" not in done.stdout

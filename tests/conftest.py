"""What several rooms' tests share: one small, whole run of the demo recipe."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL_WORLD = [
    "world.entities=60",
    "world.tellings=6",
    "world.exam_items=12",
    "tokenizer.vocabulary_size=700",
    "base.model.hidden_size=64",
    "base.model.heads=2",
    "base.model.kv_heads=2",
    "base.model.layers=2",
    "base.loop.steps=12",
    "base.loop.rows=8",
    "base.loop.sequence_length=128",
    "base.loop.compile=false",
    "base.loop.precision=fp32",
    "chat.loop.steps=6",
    "chat.loop.rows=8",
    "chat.loop.compile=false",
    "chat.loop.precision=fp32",
    "exam.base.gates=[]",
    "exam.chat.gates=[]",
]
"""What makes the demo recipe take seconds; the model learns nothing."""


class Told:
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.updates: list[tuple[float, float | None]] = []

    def update(self, done: float, total: float | None, note: str = "") -> None:
        self.updates.append((done, total))

    def say(self, line: str) -> None:
        self.lines.append(line)


def hanlin(
    *arguments: object, cwd: Path | None = None, timeout: float = 300, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """The command as a user's shell would run it."""
    return subprocess.run(
        [sys.executable, "-m", "hanlin.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        input=stdin,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the demo recipe at its smallest, made once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    with (shared / "small_run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = hanlin("run", "world", *SMALL_WORLD, "--out", shared / "runs/world")
        assert done.returncode == 0, done.stdout + done.stderr
    return shared / "runs/world"

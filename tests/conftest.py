"""What several rooms' tests share: one small, whole run of the demo recipe."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import hanlin

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
    "reward.loop.steps=2",
    "reward.loop.precision=fp32",
    "reward.least_accuracy=null",
    "ppo.loop.steps=2",
    "ppo.loop.rows=16",
    "ppo.loop.precision=fp32",
    "ppo.rollout.prompts=16",
    "ppo.rollout.inner_epochs=1",
    "ppo.max_new_tokens=8",
    "dpo.loop.steps=2",
    "dpo.loop.precision=fp32",
    *(f"exam.{stage}.gates=[]" for stage in ("base", "chat", "ppo", "dpo")),
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


@pytest.fixture
def small_run_alone(small_run: Path) -> Iterator[Path]:
    """The same for a test that runs in it: another process may be about to see whether it is there."""
    with (small_run.parent.parent / "small_run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield small_run

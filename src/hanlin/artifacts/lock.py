"""One run at a time on one directory."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Generator
from pathlib import Path

from hanlin.artifacts.errors import HanlinError


@contextlib.contextmanager
def run_lock(directory: Path) -> Generator[None]:
    """Hold `directory/.lock`; raise HanlinError naming the holder when another process holds it.

    The kernel lets the lock go when its process ends, however it ends: a `kill -9` leaves no stale lock.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ".lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise HanlinError(
                f"{directory} is in use: {_describe(file.read())}. Wait for it to end, or choose another --out."
            ) from None
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
        file.flush()
        yield


def _describe(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} holds its lock since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process holds its lock"

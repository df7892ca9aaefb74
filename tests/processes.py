"""Processes that begin at once: forked from a server that has imported hanlin and torch, for which others take seconds.

Each is a process of its own all the same, with its folder, its streams and its memory, and it can be killed.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import hanlin as package

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([f"{__package__}.warm"])


def warm() -> None:
    """Import all that a command may need; nothing is computed, for threads do not survive a fork."""
    for module in pkgutil.walk_packages(package.__path__, "hanlin."):
        importlib.import_module(module.name)
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # what is here for good is not looked through, and so not copied, in every process


def begin(function: Callable[..., Any], *arguments: Any, said: Path) -> BaseProcess:
    """`function(*arguments)` in a new process; what it says on either stream is added to the file `said`."""
    process = _SERVER.Process(target=_begun, args=(function, arguments, dict(os.environ), said, said, Path(os.devnull)))
    process.start()
    return process


def hanlin(
    *arguments: object, cwd: Path | None = None, timeout: float = 300, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """The command as a user's shell would run it, but for the time that it takes to begin."""
    words = [*map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        given, out, err = (Path(folder) / name for name in ("in", "out", "err"))
        given.write_text(stdin, encoding="utf-8")
        process = _SERVER.Process(
            target=_begun, args=(command_line, (words, cwd or Path.cwd()), dict(os.environ), out, err, given)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(words, timeout)
        said = [file.read_text(encoding="utf-8") for file in (out, err)]
        return subprocess.CompletedProcess(words, process.exitcode, *said)


def _begun(
    function: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str], *streams: Path
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    out, err, given = streams
    for file, number, mode in ((given, 0, "r"), (out, 1, "a"), (err, 2, "a")):
        with file.open(mode) as opened:
            os.dup2(opened.fileno(), number)
    # Nothing here outlives the machine: what a process has written is there for others, whether or not it is on a disk.
    os.fsync = lambda _: None
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (the process's own, to its end)
    function(*arguments)


def command_line(words: list[str], folder: Path = Path()) -> None:
    """What the command does with these words, in this folder; ends the process."""
    from hanlin.cli.main import main

    os.chdir(folder)
    sys.argv = ["hanlin", *words]
    main()

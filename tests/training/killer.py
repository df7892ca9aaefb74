"""Run as a program: trains once undisturbed, and once killed with SIGKILL at random moments and started again.

    python -m tests.training.killer MODULE FOLDER OPTIONS KILLS SHARE SEED

MODULE has `main(workdir, options)`, which is run in FOLDER/whole and in FOLDER/killed. Each life but the last is at
most SHARE of the time that the undisturbed run took: on a fast machine too the kills fall in the midst of it. The
children are forked, so that importing torch is paid for once.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path


def attempt(module: object, workdir: Path, options: dict) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            module.main(workdir, options)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return child


def finish(module: object, workdir: Path, options: dict) -> None:
    """Let it run to its end."""
    status = os.waitstatus_to_exitcode(os.waitpid(attempt(module, workdir, options), 0)[1])
    if status:
        sys.exit(status)


def main() -> None:
    module = importlib.import_module(sys.argv[1])
    folder, options = Path(sys.argv[2]), json.loads(sys.argv[3])
    kills, share, chance = int(sys.argv[4]), float(sys.argv[5]), random.Random(int(sys.argv[6]))
    for name in ("whole", "killed"):
        (folder / name).mkdir()
    started = time.monotonic()
    finish(module, folder / "whole", options)
    longest = share * (time.monotonic() - started)
    killed = folder / "killed"
    for _ in range(kills):
        child = attempt(module, killed, options)
        time.sleep(chance.uniform(0, longest))
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            break  # it was done before it could be killed
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with (killed / "kills.jsonl").open("a") as file:
            file.write(json.dumps(sorted(path.name for path in killed.rglob("*"))) + "\n")
    if not (killed / "final.safetensors").is_file():
        finish(module, killed, options)


if __name__ == "__main__":
    main()

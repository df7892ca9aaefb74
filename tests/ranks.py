"""Two processes that train together: begun by a test, as a program of its own, since a fork of pytest's has threads."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parents[1]
RANKS = 2


def run_ranks(module: str, folder: Path) -> list[dict[str, Tensor]]:
    """Run a module whose program is `begin_ranks`; what each rank wrote to `folder`/RANK.safetensors."""
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [load_file(folder / f"{rank}.safetensors") for rank in range(RANKS)]


def begin_ranks(work: Callable[[int, Path], None]) -> None:
    """`work(rank, folder)` in every rank, with a process group; ends with the worst status."""
    folder = Path(sys.argv[1])
    children: list[int] = []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
                work(rank, folder)
                dist.destroy_process_group()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))

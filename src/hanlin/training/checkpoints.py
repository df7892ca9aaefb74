"""Checkpoints: everything that the next step depends on, written whole or not at all.

    checkpoints/
        decisions.json          what `auto` was resolved to when the run began
        steps.json              of a run with a time limit: how many steps it has, once that is fixed
        00000120/               after 120 steps
            tensors.safetensors   model/…, optimizer/…
            state.json            step, detector, spikes, best, metrics' length, seconds, random states, point
        .00000160.<pid>.part/   being written; removed when the run starts again

A `point` is written at steps that the settings alone determine; a spike rolls back to points only. The others (on the
clock, on Ctrl-C) serve resuming. So a run that was killed and resumed rolls back to the same steps as one that was not.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hanlin.artifacts import HanlinError, write_json
from hanlin.artifacts.files import sync_directory

TENSORS = "tensors.safetensors"
STATE = "state.json"


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory = directory
        self.keep = keep
        directory.mkdir(parents=True, exist_ok=True)

    def clean(self) -> list[str]:
        """Remove what a killed process left half done, and damaged checkpoints, whose names are returned."""
        damaged: list[str] = []
        for path in self.directory.iterdir():
            if path.name.startswith("."):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            elif path.is_dir() and not _is_whole(path):
                self._remove(path)
                damaged.append(path.name)
        self.prune()
        return damaged

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order."""
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdigit())

    def points(self) -> list[int]:
        """Steps to which a spike may roll back, in order."""
        return [step for step in self.steps() if self.state(step)["point"]]

    def path(self, step: int) -> Path:
        return self.directory / f"{step:08d}"

    def write(self, step: int, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Write the checkpoint of `step`, then remove what is no longer kept.

        One that is there already is the same, since a step's state is a function of the step: it is left alone.
        `state` must hold `point` (bool) and `best` (None, or a mapping with `step`).
        """
        path = self.path(step)
        if path.exists():
            return
        part = self.directory / f".{path.name}.{os.getpid()}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        # contiguous() costs nothing for what is so already; safetensors refuses views that are not.
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, part / TENSORS)
        state = {**state, "step": step, "bytes": (part / TENSORS).stat().st_size}
        _sync(part / TENSORS)
        write_json(part / STATE, state)
        sync_directory(part)
        part.rename(path)
        sync_directory(self.directory)
        self.prune()

    def state(self, step: int) -> dict[str, Any]:
        """The JSON half of a checkpoint."""
        return json.loads((self.path(step) / STATE).read_text(encoding="utf-8"))

    def tensors(self, step: int) -> dict[str, Tensor]:
        """The tensors of a checkpoint, on the CPU. Raises HanlinError when the file is damaged."""
        file = self.path(step) / TENSORS
        try:
            return load_file(file)
        except Exception as error:
            raise HanlinError(
                f"{file} can't be read ({error}): remove {file.parent}, and the run goes on from the one before."
            ) from None

    def prune(self) -> None:
        """Keep the last `keep` points, the best that any of them or the latest refers to, and the latest of all."""
        steps = self.steps()
        if not steps:
            return
        states = {step: self.state(step) for step in steps}
        kept = {*[step for step in steps if states[step]["point"]][-self.keep :], steps[-1]}
        kept |= {states[step]["best"]["step"] for step in kept if states[step]["best"]}
        for step in steps:
            if step not in kept:
                self._remove(self.path(step))

    def drop_after(self, step: int) -> None:
        """Remove the checkpoints of a course that was given up, the latest first.

        Killed on the way, the run resumes on the old course, meets the same spike and comes here again.
        """
        for later in reversed(self.steps()):
            if later > step:
                self._remove(self.path(later))

    def _remove(self, path: Path) -> None:
        """Two moves, so that what is half removed never looks like a checkpoint."""
        doomed = path.with_name(f".{path.name}.{os.getpid()}.removed")
        path.rename(doomed)
        shutil.rmtree(doomed)


def _is_whole(path: Path) -> bool:
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        return (path / TENSORS).stat().st_size == state["bytes"]
    except (OSError, ValueError, KeyError):
        return False


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def random_states() -> bytes:
    """The states of torch's, numpy's and Python's global generators (and the GPU's), as JSON."""
    numpy_state = np.random.get_state(legacy=False)
    inner = numpy_state["state"]
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {"key": inner["key"].tolist(), "pos": int(inner["pos"])}},
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return json.dumps(states).encode()


def restore_random_states(data: bytes) -> None:
    """Undo `random_states`."""
    states = json.loads(data)
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    inner = states["numpy"]["state"]
    key = np.array(inner["key"], np.uint32)
    np.random.set_state({**states["numpy"], "state": {"key": key, "pos": inner["pos"]}})
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(states["torch"]), dtype=torch.uint8))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.frombuffer(bytearray.fromhex(states["cuda"]), dtype=torch.uint8))


def seed_everything(seed: int, rank: int) -> None:
    """Start all global generators from the run's seed and the rank."""
    mixed = (seed * 1_000_003 + rank) % 2**32
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)

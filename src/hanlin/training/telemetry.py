"""metrics.jsonl: a line a step, for programs; and what is made of it for people."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from hanlin.artifacts import read_jsonl


class Metrics:
    """`metrics.jsonl`, appended to line by line. A line has one of three forms:

    step (from 0), batch (its position in the data), loss (nats), grad_norm, lr, tokens (so far), tokens_per_second,
    flops_per_second, seconds (so far, over all resumes) and what else the objective measures;
    step (steps done), validation_loss, validation_bits_per_byte …, seconds;
    event ("spike"), step, batch, and the spike's figures: after the lines of the step to which the run went back.
    """

    def __init__(self, path: Path, write: bool = True) -> None:
        self.path = path
        self.file = path.open("ab") if write else None

    @property
    def length(self) -> int:
        """Bytes written so far: a checkpoint holds it, so that no line stands twice after a resume."""
        return self.file.tell() if self.file else 0

    def cut(self, length: int) -> float:
        """Remove what lies beyond `length`; returns the `seconds` of the last whole line removed (0 if none).

        Work that was lost took time too, and is counted in the run's seconds.
        """
        if not self.file:
            return 0.0
        lost = self.path.read_bytes()[length:].split(b"\n")[:-1]
        os.truncate(self.path, length)
        self.file.seek(0, os.SEEK_END)
        return max((float(json.loads(line).get("seconds", 0.0)) for line in lost[-3:]), default=0.0)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line; it reaches the operating system at once. Numbers that are none become null."""
        if self.file:
            clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
            self.file.write(json.dumps(clean, ensure_ascii=False).encode() + b"\n")
            self.file.flush()

    def sync(self) -> None:
        """Make the lines survive a power cut: a checkpoint counts on those before it."""
        if self.file:
            os.fsync(self.file.fileno())

    def close(self) -> None:
        if self.file:
            self.file.close()


COMMON = {"step", "batch", "loss", "grad_norm", "lr", "tokens", "tokens_per_second", "flops_per_second", "seconds"}
"""What every step's line has; the rest is the objective's own."""


def curves(path: Path, points: int = 400) -> dict[str, Any]:
    """The run's curves, thinned to at most `points` means over equal stretches of steps.

    {"step", "loss", "grad_norm", "lr": lists of equal length (step: the stretch's last), "objective": {name: list of
    what the objective measures in every step}, "validation": [{step, loss, bits_per_byte}], "spikes": [{step, …}]}.
    """
    lines = read_jsonl(path)
    steps = [line for line in lines if "loss" in line and "event" not in line]
    stretch = max(1, -(-len(steps) // points))
    found: dict[str, Any] = {"step": [], "loss": [], "grad_norm": [], "lr": []}
    # What only some steps have (a rollout's figures) is no curve over steps.
    own = sorted(set.intersection(*(set(line) for line in steps)) - COMMON) if steps else []
    found["objective"] = {key: [] for key in own}
    for begin in range(0, len(steps), stretch):
        part = steps[begin : begin + stretch]
        found["step"].append(part[-1]["step"])
        for key in ("loss", "grad_norm", "lr", *own):
            values = [line[key] for line in part if line.get(key) is not None]
            column = found["objective"][key] if key in own else found[key]
            column.append(float(f"{sum(values) / len(values):.6g}") if values else None)
    prefix = "validation_"
    found["validation"] = [
        {"step": line["step"], **{key.removeprefix(prefix): line[key] for key in line if key.startswith(prefix)}}
        for line in lines
        if any(key.startswith(prefix) for key in line)
    ]
    found["spikes"] = [line for line in lines if line.get("event") == "spike"]
    return found

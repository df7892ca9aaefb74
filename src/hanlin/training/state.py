"""The state of a training run: what a checkpoint holds, how it is saved, taken up again and rolled back."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hanlin.artifacts import HanlinError, Progress
from hanlin.training.checkpoints import Checkpoints, random_states, restore_random_states
from hanlin.training.horizon import Horizon
from hanlin.training.optimizers import Optimizer
from hanlin.training.parallel import World
from hanlin.training.precision import WorkingCopy
from hanlin.training.spikes import Detector
from hanlin.training.telemetry import Metrics


@dataclass
class RunState:
    """Everything that changes while a run trains."""

    working: WorkingCopy
    optimizer: Optimizer
    detector: Detector
    checkpoints: Checkpoints
    metrics: Metrics
    world: World
    horizon: Horizon
    step: int = 0
    """Steps done."""
    tokens: int = 0
    """Positions read by the steps done."""
    trained_tokens: int = 0
    """Positions among them that had a label."""
    computed_tokens: int = 0
    """Positions computed, given-up steps included."""
    loss: float | None = None
    """Loss of the last step."""
    spikes: list[dict[str, Any]] = field(default_factory=list)
    """Every spike: {step, batch, measure, value, median, in_a_row, rolled_back_to, skipped, file}; never forgotten."""
    best: dict[str, Any] | None = None
    """The best evaluation so far: {step, loss, …}."""
    validations: list[dict[str, Any]] = field(default_factory=list)
    """Every evaluation: {step, loss, …}."""
    seconds_before: float = 0.0
    begun: float = field(default_factory=time.perf_counter)
    saved: float = field(default_factory=time.perf_counter)
    """When the last checkpoint was written, on this process's clock."""

    @property
    def seconds(self) -> float:
        """Time spent training, over all resumes."""
        return self.seconds_before + time.perf_counter() - self.begun

    @property
    def skipped(self) -> list[int]:
        """Positions in the data that are passed over."""
        return sorted({position for spike in self.spikes for position in spike["skipped"]})

    def tensors(self) -> dict[str, Tensor]:
        """The live tensors that a checkpoint holds, by name; what is frozen comes with the run's inputs."""
        model = {f"model/{name}": parameter for name, parameter in self._trained()}
        return {**model, **{f"optimizer/{name}": tensor for name, tensor in self.optimizer.state().items()}}

    def save(self, point: bool) -> None:
        """Write a checkpoint of this moment; only the first rank writes, all wait."""
        states = self.world.gather_bytes(random_states())
        if self.world.first:
            self.metrics.sync()
            self.checkpoints.write(
                self.step,
                self.tensors(),
                {
                    "point": point,
                    "best": self.best,
                    "validations": self.validations,
                    "tokens": self.tokens,
                    "trained_tokens": self.trained_tokens,
                    "computed_tokens": self.computed_tokens,
                    "loss": self.loss,
                    "detector": self.detector.state(),
                    "spikes": self.spikes,
                    "metrics_length": self.metrics.length,
                    "seconds": self.seconds,
                    "random": [state.decode() for state in states],
                },
            )
        self.world.barrier()
        self.saved = time.perf_counter()

    def resume(self, progress: Progress) -> bool:
        """Go on from the latest checkpoint, if there is one."""
        if self.world.first:
            for name in self.checkpoints.clean():
                progress.say(f"checkpoint {name} was damaged and has been removed")
        self.world.barrier()
        steps = self.checkpoints.steps()
        if not steps:
            self.metrics.cut(0)
            return False
        state = self._take(steps[-1])
        self.spikes = state["spikes"]
        self.computed_tokens = state["computed_tokens"]
        self.seconds_before = max(state["seconds"], self.metrics.cut(state["metrics_length"]))
        self.begun = self.saved = time.perf_counter()
        progress.say(f"going on after step {self.step}, from {self.checkpoints.path(self.step)}")
        return True

    def roll_back(self, step: int) -> None:
        """Return to the checkpoint of `step`. The spikes, and the time and work spent, are not forgotten.

        Metrics of the steps given up are removed; a line for each spike that the checkpoint did not know replaces them.
        """
        self.world.barrier()
        if self.world.first:
            self.checkpoints.drop_after(step)
        self.world.barrier()
        state = self._take(step)
        self.metrics.cut(state["metrics_length"])
        for spike in self.spikes[len(state["spikes"]) :]:
            self.metrics.write({"event": "spike", **spike})
        self.saved = time.perf_counter()

    def load_weights(self, step: int) -> None:
        """Only the weights of the checkpoint of `step`."""
        self._copy_weights(self.checkpoints.tensors(step))

    def _take(self, step: int) -> dict[str, Any]:
        state = self.checkpoints.state(step)
        tensors = self.checkpoints.tensors(step)
        self._copy_weights(tensors)
        self.optimizer.load({n.removeprefix("optimizer/"): t for n, t in tensors.items() if n.startswith("optimizer/")})
        self.detector.load(state["detector"])
        self.step, self.tokens, self.trained_tokens = state["step"], state["tokens"], state["trained_tokens"]
        self.loss, self.best, self.validations = state["loss"], state["best"], state["validations"]
        if len(state["random"]) != self.world.ranks:
            raise HanlinError(
                f"{self.checkpoints.path(step)} was written by {len(state['random'])} processes, but this run has "
                f"{self.world.ranks}: go on with as many, or remove {self.checkpoints.directory} to begin anew."
            )
        restore_random_states(state["random"][self.world.rank].encode())
        return state

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, one) for name, one in self.working.master.named_parameters() if one.requires_grad]

    @torch.no_grad()
    def _copy_weights(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self._trained():
            stored = tensors.get(f"model/{name}")
            if stored is None or stored.shape != parameter.shape:
                raise HanlinError(
                    f"the checkpoint in {self.checkpoints.directory} does not fit the model at {name}: "
                    "it belongs to another run; remove the folder to begin anew."
                )
            parameter.copy_(stored)
        self.working.refresh()
        self.working.clear()


def clear_stale_reports(directory: Path, spikes: list[dict[str, Any]]) -> None:
    """Remove reports of spikes that the checkpoint does not know: the run will meet and write them again."""
    known = {spike["file"] for spike in spikes}
    for file in directory.glob("*.json") if directory.is_dir() else ():
        if file.name not in known:
            file.unlink()

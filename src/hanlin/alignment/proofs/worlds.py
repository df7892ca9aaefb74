"""What all proofs share: a line of the table, the small worlds they are made in, and the loop that trains in them."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hanlin.alignment.preference import AlignmentOptimizer, AlignmentSchedule
from hanlin.alignment.proofs.table import Space, TablePolicy
from hanlin.artifacts import Silent
from hanlin.data.sequences import Rows, Sequences
from hanlin.training.job import Job
from hanlin.training.loop import train
from hanlin.training.objectives import Objective
from hanlin.training.settings import LoopSettings, SpikeSettings

WORDS = Space(letters=3, longest=4, prompts=2)
"""For the policy methods: 121 answers of up to 4 tokens, to two prompts"""
SHORT = Space(letters=2, longest=3, prompts=2)
"""For the direct methods, which are shown all pairs: 15 answers, 105 pairs a prompt"""
PAIRS = Space(letters=2, longest=2)
"""For samples of pairs: 7 answers, 21 pairs"""
BANDIT = Space(letters=5, longest=1)
"""For variants whose optimum is known for single tokens, and their best of n: 6 answers (one token is the end)"""
BETA = 0.5
AT_ONCE = 1 << 20
"""Rows computed at once: all"""


@dataclass(frozen=True)
class Proof:
    """One line of the table."""

    name: str
    seed: int
    distance: float
    """From the optimum: KL(π ‖ π*) in nats, or as `what` says"""
    control: float
    """The same of a control: training without KL, or no training"""
    bound: float
    """What the distance must stay below"""
    least_control: float = 0.0
    """What the control must exceed: a proof that the bound means something"""
    what: str = "KL(π ‖ π*)"
    """What the distance is, and what the control"""
    note: str = ""
    """What else was found with this seed"""

    @property
    def holds(self) -> bool:
        return self.distance <= self.bound and self.control >= self.least_control


@dataclass(frozen=True)
class World:
    """A space with a reference and rewards drawn from a seed."""

    space: Space
    reference: TablePolicy
    rewards: Tensor
    """[prompts, answers]"""

    @staticmethod
    def drawn(space: Space, seed: int) -> World:
        generator = torch.Generator().manual_seed(10_000 + seed)
        shape = (space.prompts, len(space.answers))
        rewards = torch.rand(shape, dtype=torch.float64, generator=generator)
        return World(space, TablePolicy(space, seed), rewards)

    def repeated(self, times: int) -> World:
        """The same of one prompt, as of `times` prompts that are all alike: that many runs in one."""
        space = Space(self.space.letters, self.space.longest, times)
        reference = TablePolicy(space)
        with torch.no_grad():
            reference.table.copy_(self.reference.table.repeat(times, 1))
        return World(space, reference, self.rewards.expand(times, -1))

    def policy(self) -> TablePolicy:
        """A policy that begins as the reference."""
        made = TablePolicy(self.space)
        made.load_state_dict(self.reference.state_dict())
        return made

    @property
    def base(self) -> Tensor:
        return self.reference.probabilities()


class Fixed(Sequences):
    """A batch that is the same in every step, and is laid out in rows only once."""

    _laid_out: Rows | None = None

    def slice(self, start: int, stop: int) -> Sequences:
        return self if (start, stop) == (0, self.rows) else super().slice(start, stop)

    def in_rows(self, with_last: bool = False) -> Rows:
        if with_last:
            return super().in_rows(with_last)
        self._laid_out = self._laid_out or super().in_rows()
        return self._laid_out


class Stationary:
    """One batch for ever: all that there is to learn from."""

    steps_per_epoch = 1

    def __init__(self, batch: Sequences) -> None:
        self.batch = Fixed(**vars(batch))

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> Sequences:
        return self.batch

    def trace(self, step: int) -> list[dict[str, Any]]:
        return []


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for what a run writes; in memory, where the system has such a place, for a run's every step waits for
    the disk."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix="hanlin-prove-", dir=memory if os.access(memory, os.W_OK) else None)


def run(
    model: nn.Module,
    objective: Objective,
    source: Any,
    steps: int,
    rate: float,
    seed: int,
    own: bool = False,
) -> None:
    """`steps` of AdamW by the loop that trains models, in float64; the rate falls to 0 over the last half."""
    loop = LoopSettings(
        steps=steps,
        rows=AT_ONCE,
        micro_rows=AT_ONCE,
        optimizer=AlignmentOptimizer(learning_rate=rate, beta2=0.999),
        schedule=AlignmentSchedule(warmup_fraction=0.0, decay_fraction=0.5, decay_shape="linear"),
        gradient_clip=0.0,
        precision="fp32",
        compile=False,
        device="cpu",
        checkpoint_every=steps,
        spikes=SpikeSettings(enabled=False),
    )
    job = Job(model, objective, source, steps, on_policy=source if own else None)
    with scratch() as folder:
        train(job, loop, Path(folder), seed, Silent())

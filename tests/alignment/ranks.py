"""Run as a program: two processes train a table on rollouts together, and write what they found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hanlin.alignment.policy_losses import policy_objective
from hanlin.alignment.policy_settings import ClipSettings, GrpoRollout, KlSettings
from hanlin.alignment.preference import AlignmentOptimizer
from hanlin.alignment.proofs.table import TableSampler
from hanlin.alignment.proofs.worlds import SHORT
from hanlin.alignment.proofs.worlds import World as Given
from hanlin.alignment.rollouts import Rollouts, Samples
from hanlin.artifacts import Silent
from hanlin.training.job import Job
from hanlin.training.loop import train
from hanlin.training.settings import LoopSettings, SpikeSettings
from tests.ranks import begin_ranks


class Speaker(TableSampler):
    """Answers on the first rank alone."""

    def __init__(self, space: Any, rank: int) -> None:
        super().__init__(space)
        self.rank = rank

    def sample(self, model: Any, prompts: list[int], samples: int, seed: int) -> Samples:
        assert self.rank == 0, "another rank than the first was asked to sample"
        return super().sample(model, prompts, samples, seed)


def learn(folder: Path, rank: int) -> dict[str, Tensor]:
    """A policy before and after some steps, two a rollout, the rest of some rollouts given up; and the steps of all."""
    folder.mkdir(exist_ok=True)
    given = Given.drawn(SHORT, 0)
    policy = given.policy()
    before = policy.table.detach().clone()

    def rewarder(samples: Samples) -> dict[str, Tensor]:
        asked = torch.tensor(samples.prompts).repeat_interleave(len(samples.texts) // len(samples.prompts))
        return {"reward": given.rewards[asked, torch.tensor([int(text) for text in samples.texts])]}

    settings, kl = GrpoRollout(prompts=2, samples=8, inner_epochs=3, early_stop=0.02), KlSettings(coefficient=0.1)
    source = Rollouts(folder / "rollouts", Speaker(SHORT, rank), rewarder, given.reference, kl, settings, 8, 0, 64)
    job = Job(policy, policy_objective(ClipSettings(), kl, "sum"), source, 14, on_policy=source)
    loop = LoopSettings(
        steps=14, rows=8, micro_rows=8, optimizer=AlignmentOptimizer(learning_rate=0.05), precision="fp32",
        compile=False, device="cpu", checkpoint_every=14, spikes=SpikeSettings(enabled=False),
    )  # fmt: skip
    train(job, loop, folder, 0, Silent())
    source.rewind(9)
    assert source.current is not None
    after = torch.tensor([source.current.number, source.current.begin, source.current.made_at])
    return {"before": before, "after": policy.table.detach(), "rewound": after.double()}


def work(rank: int, folder: Path) -> None:
    save_file(learn(folder / "together", rank), folder / f"{rank}.safetensors")


if __name__ == "__main__":
    begin_ranks(work)

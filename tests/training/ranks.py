"""Run as a program: two processes compute a step's gradients, and train, together, and write what they found."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from hanlin.artifacts import Silent
from hanlin.training.loop import accumulate, train
from hanlin.training.objectives import next_token
from hanlin.training.parallel import World
from hanlin.training.precision import WorkingCopy
from tests.ranks import RANKS, begin_ranks
from tests.training.toy import ToySource, tiny_model, toy_job, toy_settings


def work(rank: int, folder: Path) -> None:
    world = World.current()
    working = WorkingCopy(tiny_model(dtype=torch.float64), "fp32")
    batch = ToySource().step(0, rank, RANKS)
    batch.labels[0, 4:] = -100
    sums = accumulate(working, next_token(), batch.parts(0, 3), torch.device("cpu"), world)
    found = {f"gradient/{name}": p.grad / sums.tokens for name, p in working.master.named_parameters()}
    job = toy_job(36, ToySource(junk=(30,), junk_rows=(1, 3, 4, 6)))
    figures = train(job, toy_settings(), folder, 0, Silent())
    found |= {f"weight/{name}": p.detach() for name, p in job.model.named_parameters()}
    found["spikes"] = torch.tensor([spike["batch"] for spike in figures["spikes"]])
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / f"{rank}.safetensors")


if __name__ == "__main__":
    begin_ranks(work)

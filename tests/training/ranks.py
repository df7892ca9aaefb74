"""Run as a program: two processes compute a step's gradients, and train, together, and write what they found."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from hanlin.artifacts import Silent
from hanlin.training.loop import accumulate, train
from hanlin.training.objectives import next_token
from hanlin.training.parallel import World
from hanlin.training.precision import WorkingCopy
from tests.training.toy import ToySource, tiny_model, toy_job, toy_settings


def work(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    world = World.current()
    working = WorkingCopy(tiny_model(dtype=torch.float64), "fp32")
    batch = ToySource().step(0, rank, ranks)
    batch.labels[0, 4:] = -100
    sums = accumulate(working, next_token(), batch, 3, torch.device("cpu"), world)
    found = {f"gradient/{name}": p.grad / sums.tokens for name, p in working.master.named_parameters()}
    job = toy_job(36, ToySource(junk=(30,), junk_rows=(1, 3, 4, 6)))
    figures = train(job, toy_settings(), folder, 0, Silent())
    found |= {f"weight/{name}": p.detach() for name, p in job.model.named_parameters()}
    found["spikes"] = torch.tensor([spike["batch"] for spike in figures["spikes"]])
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


def main() -> None:
    folder = Path(sys.argv[1])
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            try:
                work(rank, 2, folder)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))


if __name__ == "__main__":
    main()

"""Run as a program: two processes come to a best-of-n stage together; each writes the figures that it was given."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hanlin.alignment import best_of_n, rewards, sampler
from hanlin.alignment.best_of_n import BEST_OF_N_STAGE, BestOfNSettings
from hanlin.artifacts import Artifact, StageContext
from hanlin.artifacts.store import external
from tests.alignment.test_policy_gradient import plain
from tests.ranks import begin_ranks


def choose(folder: Path, base: Artifact) -> dict[str, Any]:
    """The figures of a stage with three shards, which works in `folder`."""
    folder.mkdir(exist_ok=True)
    prompts = str(folder.parent / "prompts.jsonl")
    given = BestOfNSettings(
        model="m", data=prompts, program="exact", samples=6, max_new_tokens=6, sequence_length=128, device="cpu"
    )
    before = best_of_n.PROMPTS_AT_ONCE, rewards.PROGRAMS["exact"]
    best_of_n.PROMPTS_AT_ONCE, rewards.PROGRAMS["exact"] = 4, plain
    try:
        return BEST_OF_N_STAGE.run(given, StageContext(folder, {"model": base}, 1))
    finally:
        best_of_n.PROMPTS_AT_ONCE, rewards.PROGRAMS["exact"] = before


class Slow(sampler.EngineSampler):
    """Lets the others come first, so that one which did not wait would be seen."""

    def sample(self, model: Any, prompts: list[int], samples: int, seed: int) -> Any:
        time.sleep(0.2)
        return super().sample(model, prompts, samples, seed)


class Forbidden(sampler.EngineSampler):
    def __init__(self, *given: Any, **more: Any) -> None:
        raise AssertionError("another rank than the first was asked to sample")


def work(rank: int, folder: Path) -> None:
    sampler.EngineSampler = Forbidden if rank else Slow
    figures = choose(folder / "together", external(folder / "base"))
    text = json.dumps({"figures": figures, "whole": (folder / "together" / "preferences.jsonl").is_file()})
    save_file({"said": torch.tensor(list(text.encode()), dtype=torch.uint8)}, folder / f"{rank}.safetensors")


if __name__ == "__main__":
    begin_ranks(work)

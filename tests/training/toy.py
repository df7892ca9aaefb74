"""A small model and made-up data for the tests of the loop; also run as a program that tests kill."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hanlin.artifacts import Silent
from hanlin.data.batch import Batch
from hanlin.models import ModelConfig, Transformer
from hanlin.training.job import Job
from hanlin.training.loop import train
from hanlin.training.objectives import next_token, token_losses
from hanlin.training.settings import LoopSettings, OptimizerSettings, SpikeSettings

VOCABULARY = 64


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Transformer:
    shape = {
        "vocabulary_size": VOCABULARY,
        "hidden_size": 32,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "max_positions": 64,
    }
    model = Transformer(ModelConfig(**{**shape, **changes})).to(dtype)
    model.init_weights(seed)
    return model


class ToySource:
    """Text with structure: each token follows from the one before by a fixed rule, with a little noise.

    Documents are half rows. In the batches named in `junk` the documents of `junk_rows` are random tokens.
    """

    def __init__(
        self, rows: int = 8, length: int = 32, junk: tuple[int, ...] = (), junk_rows: tuple[int, ...] = ()
    ) -> None:
        self.rows, self.length, self.junk, self.junk_rows = rows, length, junk, junk_rows
        self.steps_per_epoch = 1_000
        self.rule = np.random.default_rng(7).permutation(VOCABULARY)

    def tokens(self, step: int) -> np.ndarray:
        random = np.random.default_rng([step, 11])
        tokens = np.empty((self.rows, self.length + 1), np.int64)
        tokens[:, 0] = random.integers(VOCABULARY, size=self.rows)
        noise = random.random((self.rows, self.length)) < 0.05
        other = random.integers(VOCABULARY, size=(self.rows, self.length))
        for t in range(self.length):
            tokens[:, t + 1] = np.where(noise[:, t], other[:, t], self.rule[tokens[:, t]])
        if step in self.junk:
            for row in self.junk_rows:
                tokens[row] = random.integers(VOCABULARY, size=self.length + 1)
        return tokens

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        tokens = torch.from_numpy(self.tokens(step))
        half = self.length // 2
        position = torch.arange(self.length) % half
        batch = Batch(
            tokens[:, :-1].contiguous(),
            tokens[:, 1:].contiguous(),
            position.expand(self.rows, -1).contiguous(),
            (torch.arange(self.length) // half).int().expand(self.rows, -1).contiguous(),
        )
        return batch.slice(self.rows * rank // ranks, self.rows * (rank + 1) // ranks)

    def trace(self, step: int) -> list[dict[str, Any]]:
        half = self.length // 2
        return [
            {
                "row": row,
                "document": f"{step}/{row}/{part}",
                "source": "toy",
                "positions": [part * half, part * half + half - 1],
            }
            for row in range(self.rows)
            for part in range(2)
        ]


def evaluate(source: ToySource) -> Any:
    batch = source.step(10_000)

    def measure(model: nn.Module) -> dict[str, float]:
        losses: Tensor = token_losses(model, batch)
        return {"loss": float(losses.double().mean())}

    return measure


def toy_settings(**changes: Any) -> LoopSettings:
    known: dict[str, Any] = {
        "rows": 8,
        "sequence_length": 32,
        "optimizer": OptimizerSettings(learning_rate=0.01),
        "precision": "fp32",
        "compile": False,
        "device": "cpu",
        "spikes": SpikeSettings(minimum=16, window=32),
    }
    return LoopSettings(**{**known, **changes})


def toy_job(steps: int, source: ToySource | None = None, **changes: Any) -> Job:
    source = source or ToySource()
    known: dict[str, Any] = {
        "model": tiny_model(),
        "objective": next_token(),
        "source": source,
        "steps": steps,
        "flops_per_token": 1e5,
        "evaluate": evaluate(source),
        "token_losses": token_losses,
    }
    return Job(**{**known, **changes})


class SlowSource(ToySource):
    """Takes its time, so that a kill can hit anywhere."""

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        time.sleep(0.004)
        return super().step(step, rank, ranks)


def main(workdir: Path, options: dict[str, Any]) -> None:
    """Train in `workdir` and write the final weights there: what the kill tests run and kill."""
    torch.set_num_threads(1)
    source = SlowSource(junk=tuple(options.get("junk", ())), junk_rows=tuple(range(8)))
    settings = toy_settings(
        optimizer=OptimizerSettings(name=options["optimizer"], learning_rate=0.01),
        micro_rows=4,
        checkpoint_every=options.get("checkpoint_every", 10),
        # Often enough that kills fall between, within and after checkpoints of both kinds.
        checkpoint_minutes=options.get("checkpoint_minutes", 0.001),
        precision=options.get("precision", "fp32"),
    )
    job = toy_job(options["steps"], source)
    figures = train(job, settings, workdir, 5, Silent())
    from safetensors.torch import save_file

    save_file({name: p.detach() for name, p in job.model.named_parameters()}, workdir / "final.safetensors")
    (workdir / "figures.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))

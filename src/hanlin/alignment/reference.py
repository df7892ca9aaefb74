"""What the reference policy thinks of answers: computed once, where it can be, and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hanlin.alignment.policy import score_all, sum_by_sequence
from hanlin.artifacts import StageContext, atomic_path
from hanlin.data.pairs import GroupsSource, RenderedGroups
from hanlin.data.sequences import Sequences
from hanlin.models.device import choose_device
from hanlin.models.hub import load_model
from hanlin.training.parallel import World
from hanlin.training.precision import Precision, WorkingCopy
from hanlin.training.settings import LoopSettings

_AT_ONCE = 64


def frozen(model: nn.Module, loop: LoopSettings) -> nn.Module:
    """`model` as the loop will compute it (device, precision), for measuring only: the policy begins at its reference,
    but for the rounding of rows that are packed otherwise."""
    model.to(choose_device(loop.device))
    return WorkingCopy(model, cast(Precision, loop.precision)).module.eval()


def reference_logprobs(
    name: str, rendered: RenderedGroups, model: nn.Module, loop: LoopSettings, context: StageContext
) -> NDArray[np.float64]:
    """log π_ref of each answer, summed over its tokens, float64 [S]; kept in the stage's folder under `name`."""
    path = context.workdir / "preferences" / name / "reference.npy"
    world = World.current()
    if world.first and not path.is_file():
        module, found = frozen(model, loop), list[Tensor]()
        for start in range(0, len(rendered), _AT_ONCE):
            batch = rendered.sequences(range(start, min(start + _AT_ONCE, len(rendered))))
            found.append(sum_by_sequence(score_all(module, batch, loop.micro_rows or 8).double(), batch))
            context.progress.update(start, len(rendered), "the reference's probabilities")
        with atomic_path(path) as part, part.open("wb") as file:
            np.save(file, torch.cat(found).numpy())
    world.barrier()
    return np.load(path)


class KtoSource(GroupsSource):
    """Judged answers with KTO's baseline: the policy's KL from the reference, estimated on mismatched prompts and
    answers of the whole step (Ethayarajh et al. 2024, section 4.1), so that no micro-batch has one of its own."""

    def __init__(
        self,
        rendered: RenderedGroups,
        rows: int,
        seed: int,
        reference: NDArray[np.float64],
        model: Path,
        loop: LoopSettings,
    ) -> None:
        super().__init__(rendered, rows, seed, {"reference": reference})
        self.loop = loop
        self.model = frozen(load_model(model), loop)
        self.baseline = 0.0

    def mismatched(self, step: int) -> Sequences:
        """The prompt of each group of a step with the answer of the next."""
        indices = self.indices(step)
        batch = self.rendered.sequences(indices)
        ids, lengths, answers = batch.input_ids, batch.lengths, batch.answer_lengths
        starts = lengths.cumsum(0) - lengths
        prompts = [ids[s : s + n - a] for s, n, a in zip(starts.tolist(), lengths.tolist(), answers.tolist())]
        replies = [ids[s + n - a : s + n] for s, n, a in zip(starts.tolist(), lengths.tolist(), answers.tolist())]
        replies = replies[1:] + replies[:1]
        lengths = torch.tensor([len(prompt) + len(reply) for prompt, reply in zip(prompts, replies)])
        joined = torch.cat([part for pair in zip(prompts, replies) for part in pair])
        return Sequences(joined, lengths, torch.tensor([len(reply) for reply in replies]), torch.ones_like(lengths))

    def prepare(self, model: Any, position: int, step: int) -> None:
        """Estimate the KL for the batch at `position`: max(0, mean of log π - log π_ref over its mismatched pairs)."""
        batch = self.mismatched(position)
        rows = self.loop.micro_rows or 8
        ours, theirs = score_all(model, batch, rows).double(), score_all(self.model, batch, rows).double()
        self.baseline = max(0.0, float(sum_by_sequence(ours - theirs, batch).mean()))

    def observe(self, position: int, metrics: dict[str, float]) -> dict[str, float]:
        return {}

    def rewind(self, step: int) -> None:
        pass

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> Sequences:
        batch = super().step(step, rank, ranks)
        batch.of_sequence["baseline"] = torch.full((len(batch.lengths),), self.baseline, dtype=torch.float64)
        return batch

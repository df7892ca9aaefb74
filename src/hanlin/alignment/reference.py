"""What the reference policy thinks of answers: computed once, where it can be, and kept."""

from __future__ import annotations

import contextlib
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hanlin.alignment.policy import as_reference, score_all, sum_by_sequence
from hanlin.artifacts import HanlinError, StageContext, atomic_path
from hanlin.data.pairs import GroupsSource, RenderedGroups
from hanlin.data.sequences import Sequences, join
from hanlin.models.device import choose_device
from hanlin.models.lora import lora_layers, without_lora
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
    """log π_ref of each answer, summed over its tokens, float64 [S]; kept in the stage's folder under `name`. π_ref is
    `model` without the adapters that it may have: with a base in fewer bits, the base that is trained on."""
    path = context.workdir / "preferences" / name / "reference.npy"
    world = World.current()
    if world.first and not path.is_file():
        module, found = frozen(model, loop), list[Tensor]()
        with without_lora(module) if lora_layers(module) else contextlib.nullcontext():
            for start in range(0, len(rendered), _AT_ONCE):
                batch = rendered.sequences(range(start, min(start + _AT_ONCE, len(rendered))))
                found.append(
                    sum_by_sequence(score_all(module, batch, loop.tokens_at_once(loop.device)).double(), batch)
                )
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
        kept: nn.Module | None,
        loop: LoopSettings,
    ) -> None:
        """`reference` as by `reference_logprobs`; `kept` is the model that computes it (`frozen`), None: the policy
        without its adapters. Raises HanlinError where no prompt has another answer to be paired with."""
        if rows < 2 or len(rendered) < 2:
            raise HanlinError(
                f"kto pairs each prompt with the answer to another, but a step has {rows} of {len(rendered)} judged "
                "answers: give it two or more."
            )
        super().__init__(rendered, rows, seed, {"reference": reference})
        self.loop, self.kept = loop, kept
        self.baseline = 0.0

    def mismatched(self, step: int) -> Sequences:
        """The prompt of each group of a step with the answer of the next, cut where the two are longer than sequences
        may be."""
        batch = self.rendered.sequences(self.indices(step))
        sizes, answers = batch.lengths.tolist(), batch.answer_lengths.tolist()
        pieces = zip(batch.input_ids.split(sizes), sizes, answers)
        prompts = [ids[: size - answer].tolist() for ids, size, answer in pieces]
        replies = batch.labels().split(answers)
        marks = torch.ones(sum(answers), dtype=torch.bool) if batch.marks is None else batch.marks
        following = [*range(1, len(prompts)), 0]
        rooms = [self.loop.sequence_length - len(prompt) for prompt in prompts]
        made = join(prompts, [replies[other][:room].tolist() for other, room in zip(following, rooms)])
        counted = torch.cat([marks.split(answers)[other][:room] for other, room in zip(following, rooms)])
        made.marks = None if batch.marks is None else counted
        return made

    def prepare(self, model: Any, position: int, step: int) -> None:
        """Estimate the KL for the batch at `position`: max(0, mean of log π - log π_ref over its mismatched pairs)."""
        batch = self.mismatched(position)
        at_once = self.loop.tokens_at_once(self.loop.device)
        ours = score_all(model, batch, at_once).double()
        with as_reference(model, self.kept):
            theirs = score_all(self.kept or model, batch, at_once).double()
        self.baseline = max(0.0, float(sum_by_sequence(ours - theirs, batch).mean()))

    def observe(self, position: int, metrics: dict[str, float]) -> dict[str, float]:
        return {}

    def rewind(self, step: int) -> None:
        pass

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> Sequences:
        batch = super().step(step, rank, ranks)
        batch.of_sequence["baseline"] = torch.full((len(batch.lengths),), self.baseline, dtype=torch.float64)
        return batch

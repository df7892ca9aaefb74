"""What is minimised: an objective turns (model, batch) into a sum of losses, and the loop does the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from hanlin.data.batch import Batch
from hanlin.models import Transformer
from hanlin.models.losses import cross_entropy


@dataclass
class LossParts:
    """What an objective returns: sums, because only the loop knows by how many tokens the whole step is divided."""

    loss_sum: Tensor
    """Scalar with a gradient: the sum over everything trained in this micro-batch."""
    tokens: Tensor
    """Scalar: how many things (tokens, pairs) the sum ran over."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Further sums over the same things, without gradient; `loss` here is what is reported in place of loss_sum."""


Self = TypeVar("Self")


class Rows(Protocol):
    """A batch of whatever an objective understands, which can be cut into micro-batches."""

    input_ids: Tensor
    """[B, T], or whatever has as many elements as positions are computed"""

    @property
    def rows(self) -> int: ...

    def slice(self: Self, start: int, stop: int) -> Self: ...

    def parts(self: Self, tokens: int, rows: int | None = None) -> list[Self]:
        """Micro-batches of `rows` rows, or of at most `tokens` positions where a row has no more."""
        ...

    def to(self: Self, device: torch.device | str) -> Self: ...


class Source(Protocol):
    """Where batches come from: pure functions of a position, so that there is no data state to save."""

    @property
    def steps_per_epoch(self) -> float | int: ...

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> Any:
        """This rank's rows of the batch at position `step`."""
        ...

    def trace(self, step: int) -> list[dict[str, Any]]:
        """The documents in the whole batch at position `step`."""
        ...


class OnPolicy(Protocol):
    """The part of a source whose batches depend on the model that is trained (samples of its own, a baseline).

    What it makes at a step must be a function of the weights at that step, and what it needs again after the process
    was killed it keeps in files: the loop's checkpoints know nothing of it.
    """

    def prepare(self, model: Any, position: int, step: int) -> None:
        """Make ready what the batch at `position` needs, from the model as it is before `step`. Without gradients."""
        ...

    def observe(self, position: int, metrics: dict[str, float]) -> dict[str, float]:
        """Told the means of the objective's metrics over the step that is done; returns more for metrics.jsonl."""
        ...

    def rewind(self, step: int) -> None:
        """Training goes on from `step`: forget what was made or seen after it. Called also before the first step."""
        ...


Objective = Callable[[Any, Any], LossParts]


def next_token(z_loss: float = 0.0) -> Objective:
    """Cross-entropy of each labelled position, with an optional z-loss; reported without the z-loss, in nats."""

    def objective(model: Transformer, batch: Batch) -> LossParts:
        hidden = model.hidden(batch.input_ids, batch.position_ids, batch.document_ids)
        found = cross_entropy(hidden, model.head_weight, batch.labels, z_loss=z_loss)
        return LossParts(found.loss, found.count, {"loss": found.nll})

    return objective


@torch.no_grad()
def token_losses(model: nn.Module, batch: Batch) -> Tensor:
    """-log p of every label of `batch`, float32 [B, T] in nats; 0 where nothing is trained."""
    assert isinstance(model, Transformer)
    hidden = model.hidden(batch.input_ids, batch.position_ids, batch.document_ids)
    found = cross_entropy(hidden, model.head_weight, batch.labels, per_token=True).per_token
    assert found is not None
    return found

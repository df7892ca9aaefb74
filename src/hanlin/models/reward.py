"""Reward models: a Transformer with one number at a position, kept as a Hugging Face sequence classifier."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from hanlin.artifacts import HanlinError, write_json
from hanlin.models.config import ModelConfig
from hanlin.models.hf_config import CLASSIFIERS, from_hugging_face, to_hugging_face
from hanlin.models.hub import (
    SavedTokenizer,
    Slot,
    open_weights,
    read_json,
    read_weights,
    special_tokens,
    views_of,
    write_weights,
)
from hanlin.models.initialise import TABLE_DEVIATION
from hanlin.models.transformer import Linear, Transformer

SCORE = Slot("score.weight", "score_head.weight")
MEMBER = "member-{}"
"""Folder of a further member of an ensemble, from 2 on, inside that of the first"""


class LaidOut(Protocol):
    """What is asked of rows of sequences (the data room's `sequences.Rows`)."""

    @property
    def before_answers(self) -> Tensor:
        """int64 [M] places in the flattened rows"""
        ...

    def hidden(self, model: Any, at: Tensor) -> Tensor:
        """[len(at), hidden] of a model with `hidden` as the Transformer's"""
        ...

    @property
    def last(self) -> Tensor:
        """int64 [S] places in the flattened rows"""
        ...


class Answers(Protocol):
    """Prompts with answers that can be laid out (the data room's `sequences.Sequences`)."""

    def in_rows(self, with_last: bool = False) -> LaidOut: ...


class RewardModel(nn.Module):
    """A Transformer without its output matrix, and a linear head of one output without bias.

    A sequence's reward is the head's output at its last token, less `mean`. The head computes in float32 at least.
    """

    def __init__(self, trunk: Transformer) -> None:
        """Takes `trunk` over, and drops its output matrix where that is one of its own. The head is unset."""
        super().__init__()
        if trunk.head is not None:
            trunk.head = None
            trunk.config = trunk.config.model_copy(update={"tied": True})
        self.trunk = trunk
        self.score_head = Linear(trunk.config.hidden_size, (1,), bias=False)
        self.score_head.to(trunk.embedding.weight)
        self.mean = 0.0
        """What is taken from the head's output, so that a reward of 0 is the training answers' mean. It can't be folded
        into the weights, for the classifiers' head has no bias."""

    @classmethod
    def init_from(cls, transformer: Transformer, seed: int) -> Self:
        """A reward model with the trunk of a language model, which it takes over, and a head of small normal weights
        drawn from `seed`, the same on every device."""
        model = cls(transformer)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            weight = model.score_head.weight
            weight.copy_(torch.empty(weight.shape).normal_(0.0, TABLE_DEVIATION, generator=generator))
        return model

    @property
    def config(self) -> ModelConfig:
        return self.trunk.config

    @property
    def blocks(self) -> nn.ModuleList:
        """The trunk's: what is compiled."""
        return self.trunk.blocks

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        branches: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """As the Transformer's."""
        return self.trunk.hidden(input_ids, position_ids, document_ids, branches=branches, at=at)

    def score(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., hidden] to centred scores [...], float32 (float64 of float64)."""
        wide = hidden if hidden.dtype == torch.float64 else hidden.float()
        return self.score_head(wide).squeeze(-1) - self.mean

    def last_hidden(self, sequences: Answers, rows: LaidOut | None = None) -> Tensor:
        """[S, hidden] after the final norm, at the last token of each sequence. `rows`, where they are laid out
        already, must read that token (`in_rows(with_last=True)`)."""
        rows = rows or sequences.in_rows(with_last=True)
        return rows.hidden(self, rows.last)

    def rewards(self, sequences: Answers, rows: LaidOut | None = None) -> Tensor:
        """[S] the reward of each sequence; `rows` as for `last_hidden`."""
        return self.score(self.last_hidden(sequences, rows))

    def values(self, sequences: Answers, rows: LaidOut | None = None) -> Tensor:
        """[M] the head's output at the position before each token of the answers: what a critic that begins as this
        model expects of the whole before that token is known."""
        rows = rows or sequences.in_rows()
        return self.score(rows.hidden(self, rows.before_answers))

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None = None, document_ids: Tensor | None = None
    ) -> Tensor:
        """Centred scores [B, T] of every position."""
        return self.score(self.hidden(input_ids, position_ids, document_ids))


def save_reward_model(
    directory: Path | str,
    model: RewardModel,
    tokenizer: SavedTokenizer | None = None,
    dtype: torch.dtype | str | None = None,
) -> None:
    """Write `model` as a Hugging Face sequence classifier of one label, weights in `dtype` (None: as they are).

    `transformers` computes the head's output at the last token that is not padding: hanlin's reward plus `mean`, which
    stands in config.json under hanlin.reward_mean. It needs a padding token that ends no answer (`pads_apart`). Each
    file appears whole.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    kind = (getattr(torch, dtype) if isinstance(dtype, str) else dtype) or model.score_head.weight.dtype
    write_weights(directory, _views(model), kind)
    if tokenizer is not None:
        tokenizer.save(directory)
    values = to_hugging_face(model.config, str(kind).removeprefix("torch."), CLASSIFIERS)
    labels = {"id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    write_json(
        directory / "config.json",
        {**values, **special_tokens(tokenizer), **labels, "hanlin": {"reward_mean": model.mean}},
    )


def load_reward_model(
    directory: Path | str, dtype: torch.dtype | str = torch.float32, device: torch.device | str = "cpu"
) -> RewardModel:
    """The reward model in a Hugging Face directory, hanlin's or another's sequence classifier with one label.

    Its rewards are centred where config.json has hanlin.reward_mean; of another's model they are the head's output as
    it is. Raises HanlinError for any other model, and for tensors that are missing, left over, or of another shape.
    """
    directory = Path(directory)
    path = directory / "config.json"
    values = read_json(path)
    config = from_hugging_face(values, path, CLASSIFIERS)
    # What transformers takes for granted where a file names no labels is 2.
    labels = len(values["id2label"]) if values.get("id2label") else values.get("num_labels", 2)
    if labels != 1:
        raise HanlinError(f"{path} describes a classifier of {labels} classes: a reward model has one output")
    with torch.device("meta"):
        model = RewardModel(Transformer(config.model_copy(update={"tied": True})))
    model = model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype).to_empty(device=device)
    with contextlib.ExitStack() as stack:
        # Of a classifier no output matrix is expected, tied or not.
        read_weights(
            open_weights(directory, stack), config.model_copy(update={"tied": False}), _views(model), directory
        )
    model.mean = _mean(values.get("hanlin"), path)
    return model


def member_paths(directory: Path | str) -> list[Path]:
    """The folders of a reward stage's ensemble, the first member's, which is `directory` itself, first."""
    directory = Path(directory)
    found = {int(match[1]): path for path in directory.glob("member-*") if (match := _NUMBER.fullmatch(path.name))}
    return [directory, *(found[number] for number in sorted(found))]


def load_ensemble(
    directory: Path | str, dtype: torch.dtype | str = torch.float32, device: torch.device | str = "cpu"
) -> list[RewardModel]:
    """All members of a reward stage's ensemble; one, where there is no ensemble. Its reward is the mean of theirs; how
    far they differ tells how little is known."""
    return [load_reward_model(path, dtype, device) for path in member_paths(directory)]


def pads_apart(tokenizer: SavedTokenizer) -> bool:
    """Whether the padding token is one that ends no answer. Where it is not, `transformers` looks at the token before
    the end, and its number is another than hanlin's."""
    return tokenizer.pad_id not in (None, tokenizer.end_of_turn_id, tokenizer.end_of_text_id)


_NUMBER = re.compile(MEMBER.format(r"(\d+)"))


def _views(model: RewardModel) -> dict[Slot, Tensor]:
    return {**views_of(model.trunk), SCORE: model.score_head.weight.detach()}


def _mean(found: Any, path: Path) -> float:
    mean = found.get("reward_mean", 0.0) if isinstance(found, Mapping) else 0.0
    if not isinstance(mean, int | float) or isinstance(mean, bool):
        raise HanlinError(f"hanlin.reward_mean is {mean!r} in {path}: it should be a number")
    return float(mean)

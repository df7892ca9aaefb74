"""The stage `pretrain`: a language model from token shards, from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hanlin.artifacts import HanlinError, Settings, Stage, StageContext
from hanlin.models.config import ModelConfig
from hanlin.training.settings import LoopSettings, settle_steps

if TYPE_CHECKING:
    from pathlib import Path

    from hanlin.data import PackedTokens


class ModelShape(ModelConfig):
    """A model's shape without its vocabulary, which is the tokenizer's."""

    vocabulary_size: int = Field(default=0, ge=0)
    """Left out: the tokenizer's."""


class PretrainSettings(Settings):
    """Trains a model from random weights to predict the next token of the corpus."""

    data: str
    """The tokens stage to train on; its tokenizer goes into the model's directory."""
    model: ModelShape | Literal["auto"] = ModelShape(hidden_size=256, layers=4, heads=4)
    """The model's shape; auto: the one with the least expected loss in the recipe's `minutes`."""
    loop: LoopSettings = LoopSettings()
    """Batches, steps, optimiser, precision, checkpoints."""


def resolve_pretrain(settings: PretrainSettings, context: StageContext) -> PretrainSettings:
    """Decide steps, device, precision and compile, and give a number to everything that was left out."""
    from hanlin.training.stages import resolve_loop

    if settings.model == "auto":
        raise HanlinError("`model: auto` needs `minutes`: run the stage by a recipe, or give a shape.")

    directory = context.inputs["data"].path
    config = model_config(settings, directory)
    loop = resolve_loop(settings.loop, config, _source(settings, directory, context.seed), context.progress)
    shape = settings.model.model_copy(update={"vocabulary_size": config.vocabulary_size})
    return settings.model_copy(update={"model": shape, "loop": loop})


def run_pretrain(settings: PretrainSettings, context: StageContext) -> dict[str, Any]:
    """Train in `context.workdir`, which becomes a Hugging Face directory; goes on where an earlier attempt stopped."""
    import numpy as np
    import torch

    from hanlin.models import Transformer
    from hanlin.tokenization import Tokenizer
    from hanlin.training.stages import check_length, train_language_model

    directory, loop = context.inputs["data"].path, settings.loop
    config = model_config(settings, directory)
    check_length(config, loop.sequence_length)
    tokenizer = Tokenizer.load(directory / "tokenizer")
    model = Transformer(config)
    model.init_weights(context.seed)
    counts = torch.from_numpy(np.load(directory / "token_counts.npy"))
    evaluate = _evaluate(loop, directory, tokenizer)
    source = _source(settings, directory, context.seed)
    return train_language_model(model, tokenizer, source, loop, context, evaluate, counts)


def model_config(settings: PretrainSettings, data: Path) -> ModelConfig:
    """The whole shape: with the vocabulary of the tokens in `data`, and positions for rows of the loop's length."""
    from hanlin.data import TokenShards

    if settings.model == "auto":
        raise HanlinError("`model: auto` was not resolved: run the stage by a recipe, or give a shape.")
    shape = settings.model.model_dump()
    if not shape["vocabulary_size"]:
        shape["vocabulary_size"] = TokenShards.open(data).vocabulary_size
    return ModelConfig(**shape)


def _source(settings: PretrainSettings, data: Path, seed: int) -> PackedTokens:
    from hanlin.data import PackedTokens, TokenShards

    return PackedTokens(TokenShards.open(data), settings.loop.sequence_length, settings.loop.rows, seed)


def _evaluate(loop: LoopSettings, data: Path, tokenizer: Any) -> Any:
    """Bits per byte of up to `evaluation_tokens` of the validation split; None when it is empty."""
    from hanlin.data import TokenShards, validation_batches
    from hanlin.training.stages import validation_measure

    shards = TokenShards.open(data, "validation")
    if not len(shards):
        return None
    rows = max(1, 8_192 // loop.sequence_length)
    found = [one.batch for one in validation_batches(shards, loop.sequence_length, rows, loop.evaluation_tokens)]
    return validation_measure(lambda: found, tokenizer, rows)


PRETRAIN_STAGE = Stage(
    kind="pretrain",
    settings=PretrainSettings,
    run=run_pretrain,
    inputs={"data": ("tokens",)},
    resolve=resolve_pretrain,
    settle=settle_steps,
    transient=("checkpoints",),
    journal=("metrics.jsonl",),
    trains=True,
)

"""The stage `pretrain`: a language model from token shards, from scratch or from a model that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from hanlin.artifacts import POLICY_KINDS, HanlinError, Settings, Stage, StageContext
from hanlin.models.config import ModelConfig
from hanlin.models.lora_settings import LoraSettings
from hanlin.training.settings import LoopSettings, settle_steps

if TYPE_CHECKING:
    from pathlib import Path

    from hanlin.data import PackedTokens


class ModelShape(ModelConfig):
    """A model's shape without its vocabulary, which is the tokenizer's."""

    vocabulary_size: int = Field(default=0, ge=0)
    """Left out: the tokenizer's."""


DEFAULT_SHAPE = ModelShape(hidden_size=256, layers=4, heads=4)


class PretrainSettings(Settings):
    """Trains a model to predict the next token of the corpus: from random weights, or (`start`) from a model's own."""

    data: str
    """The tokens stage to train on; its tokenizer goes into the model's directory."""
    model: ModelShape | Literal["auto"] = DEFAULT_SHAPE
    """The model's shape; auto: the one with the least expected loss in the recipe's `minutes`. Of `start`: its own."""
    start: str | None = None
    """The stage, or the Hugging Face directory, of a model to go on from (continued pretraining). The tokens must be of
    its tokenizer: give the directory as the tokens stage's `tokenizer`."""
    lora: LoraSettings | None = None
    """With `start`: train adapters and leave the model's own weights as they are; left out: all weights are trained."""
    loop: LoopSettings = LoopSettings()
    """Batches, steps, optimiser, precision, checkpoints."""

    @model_validator(mode="after")
    def _goes_on(self) -> Self:
        if self.lora is not None and self.start is None:
            raise ValueError("`lora` needs a model to adapt: give `start`, a stage or a Hugging Face directory")
        if self.start is not None and self.model == "auto":
            raise ValueError("`model: auto` chooses the shape of a new model: with `start`, leave `model` out")
        if self.start is not None and self.lora is None and "learning_rate" not in self.loop.optimizer.model_fields_set:
            raise ValueError(
                "with `start`, give loop.optimizer.learning_rate: the usual one is for random weights, and would undo "
                "what the model knows"
            )
        return self


def resolve_pretrain(settings: PretrainSettings, context: StageContext) -> PretrainSettings:
    """Decide steps, device, precision and compile, and give a number to everything that was left out."""
    from hanlin.training.stages import resolve_loop

    if settings.model == "auto":
        raise HanlinError("`model: auto` needs `minutes`: run the stage by a recipe, or give a shape.")
    directory = context.inputs["data"].path
    settings = with_shape(settings, context)
    config = model_config(settings, directory)
    loop = resolve_loop(settings.loop, config, _source(settings, directory, context.seed), context.progress)
    shape = ModelShape(**config.model_dump())
    return settings.model_copy(update={"model": shape, "loop": loop})


def run_pretrain(settings: PretrainSettings, context: StageContext) -> dict[str, Any]:
    """Train in `context.workdir`, which becomes a Hugging Face directory; goes on where an earlier attempt stopped."""
    import numpy as np
    import torch

    from hanlin.models import Transformer
    from hanlin.models.hub import load_model
    from hanlin.tokenization import Tokenizer
    from hanlin.training.adapters import begin_adapters
    from hanlin.training.stages import check_length, train_language_model

    directory, loop = context.inputs["data"].path, settings.loop
    settings = with_shape(settings, context)
    config = model_config(settings, directory)
    check_length(config, loop.sequence_length)
    if settings.start is None:
        tokenizer = Tokenizer.load(directory / "tokenizer")
        model = Transformer(config)
        model.init_weights(context.seed)
    else:
        # Its own: the tokens' is the same but may lack a chat template.
        tokenizer = Tokenizer.load(context.inputs["start"].path)
        model = load_model(context.inputs["start"].path)
        begin_adapters(model, settings.lora, context.seed)
    counts = torch.zeros(config.vocabulary_size, dtype=torch.long)
    found = torch.from_numpy(np.load(directory / "token_counts.npy"))
    counts[: len(found)] = found
    evaluate = _evaluate(loop, directory, tokenizer)
    source = _source(settings, directory, context.seed)
    return train_language_model(model, tokenizer, source, loop, context, evaluate, counts, lora=settings.lora)


def with_shape(settings: PretrainSettings, context: StageContext) -> PretrainSettings:
    """With the shape of the model to go on from, if there is one. Raises HanlinError where it has another tokenizer
    than the tokens, or another shape than was asked for."""
    if settings.start is None:
        return settings
    from hanlin.models.hub import load_config

    start, tokens = context.inputs["start"].path, context.inputs["data"].path
    ours, theirs = start / "tokenizer.json", tokens / "tokenizer" / "tokenizer.json"
    if not ours.is_file() or ours.read_bytes() != theirs.read_bytes():
        raise HanlinError(
            f"the tokens ({settings.data}) are not of the tokenizer of the model to go on from, {start}: give that "
            "directory as the tokens stage's `tokenizer`."
        )
    shape = ModelShape(**load_config(start).model_dump())
    if settings.model not in (shape, DEFAULT_SHAPE):
        raise HanlinError(f"`model` is not the shape of the model to go on from, {start}: leave it out.")
    return settings.model_copy(update={"model": shape})


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
    inputs={"data": ("tokens",), "start": POLICY_KINDS},
    resolve=resolve_pretrain,
    settle=settle_steps,
    transient=("checkpoints",),
    journal=("metrics.jsonl",),
    trains=True,
)

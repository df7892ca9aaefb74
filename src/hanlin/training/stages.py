"""What the stages that train have in common: choosing `auto`, evaluating, and writing the finished model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from hanlin.artifacts import HanlinError, Progress, StageContext
from hanlin.data.batch import Batch
from hanlin.models import ModelConfig, Transformer
from hanlin.models.device import choose_device
from hanlin.models.flops import flops_per_token
from hanlin.models.hub import save_model
from hanlin.models.lora_settings import LoraSettings
from hanlin.models.reward import RewardModel
from hanlin.tokenization import Tokenizer
from hanlin.training.adapters import finish_adapters, parameter_figures
from hanlin.training.compiling import choose_compile
from hanlin.training.job import Job
from hanlin.training.loop import train
from hanlin.training.neftune import with_noise
from hanlin.training.objectives import Objective, OnPolicy, next_token, token_losses
from hanlin.training.parallel import World
from hanlin.training.precision import DTYPES, choose_precision, matmul_rate
from hanlin.training.settings import LoopSettings

WARN_EPOCHS = 1.01
L = TypeVar("L", bound=LoopSettings)


class Epochs(Protocol):
    """A source that knows how far its data goes."""

    @property
    def steps_per_epoch(self) -> int: ...

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> Any: ...

    def trace(self, step: int) -> list[dict[str, Any]]: ...

    def epochs_at(self, steps: int) -> float: ...


def count_steps(loop: LoopSettings, source: Epochs) -> int:
    """The steps asked for, or as many as the epochs asked for take."""
    return loop.steps or max(1, round(loop.epochs * source.steps_per_epoch))


def resolve_loop(loop: L, config: ModelConfig, source: Epochs, progress: Progress) -> L:
    """`loop` with every `auto` decided, and a number for everything that was left out."""
    device = choose_device(loop.device)
    precision = choose_precision(loop.precision, device, progress)
    steps = count_steps(loop, source)
    flops = flops_per_token(config, loop.sequence_length) * steps * loop.rows * loop.sequence_length
    rate = matmul_rate(DTYPES[precision], device)
    compiled = choose_compile(loop.compile, device, flops, rate, progress, loop.seconds)
    return loop.spelled_out(steps, device.type).model_copy(update={"precision": precision, "compile": compiled})


def check_length(config: ModelConfig, length: int) -> None:
    """Raise HanlinError for rows that are longer than the model is meant for."""
    if length > config.max_positions:
        raise HanlinError(
            f"sequence_length {length} is more than the model's max_positions {config.max_positions}: "
            "shorten the sequences, or give the model more positions."
        )


def train_language_model(
    model: Transformer | RewardModel,
    tokenizer: Tokenizer,
    source: Epochs,
    loop: LoopSettings,
    context: StageContext,
    evaluate: Callable[[Any], dict[str, float]] | None,
    token_counts: Tensor | None = None,
    objective: Objective | None = None,
    on_policy: OnPolicy | None = None,
    trained: nn.Module | None = None,
    answers_anew: bool = False,
    neftune: float = 0.0,
    lora: LoraSettings | None = None,
    save: Callable[[Path, Any, Any], None] = save_model,
) -> dict[str, Any]:
    """Train towards `objective` (None: next-token prediction), write the model into `context.workdir`, and return the
    stage's figures. `trained` is what the loop is given, where that is more than the model (a critic beside it).
    `answers_anew`: the data are the model's own answers, so that asking again repeats nothing and nothing is held out.
    `neftune` is the noise on the embeddings (`with_noise`). With `lora` the model has adapters (`begin_adapters`),
    which are kept beside the merged model. `save`(directory, model, tokenizer) writes the model."""
    world = World.current()
    config = model.config
    # A reward model multiplies with no output matrix, but for one row.
    computed = config if isinstance(model, Transformer) else config.model_copy(update={"vocabulary_size": 1})
    steps = count_steps(loop, source)
    warnings = [] if loop.seconds or answers_anew else repetition(steps, source.epochs_at(steps))
    for warning in warnings:
        context.progress.say(f"warning: {warning}")
    if evaluate is None and not answers_anew:
        warnings.append("there is no validation data, so nothing was evaluated while training")
        context.progress.say(f"warning: {warnings[-1]}")
    job = Job(
        model=trained or model,
        objective=with_noise(objective or next_token(loop.z_loss), neftune),
        source=source,
        steps=steps,
        flops_per_token=flops_per_token(computed, loop.sequence_length),
        on_policy=on_policy,
        evaluate=evaluate,
        token_losses=token_losses if objective is None else None,
        token_counts=token_counts,
        spell=lambda token: tokenizer.token_bytes(token).decode("utf-8", "replace") or tokenizer.decode([token], False),
        facts={"norms": "pre", "qk_norm": config.qk_norm},
    )
    figures = train(job, loop, context.workdir, context.seed, context.progress)
    model.to("cpu").eval()
    parameters = parameter_figures(model, figures["precision"])
    if trained is not None:
        own = {id(one) for one in model.parameters()}
        beside = [one for one in trained.parameters() if one.requires_grad and id(one) not in own]
        parameters["trained_beside"] = sum(one.numel() for one in beside)
    finish_adapters(model, lora, context.workdir)
    if world.first:
        save(context.workdir, model, tokenizer)
    world.barrier()
    if loop.seconds and not answers_anew:
        for warning in repetition(figures["steps"], source.epochs_at(figures["steps"])):
            warnings.append(warning)
            context.progress.say(f"warning: {warning}")
    figures["epochs"] = source.epochs_at(figures["steps"] + len(figures["skipped_batches"]))
    return {**figures, "parameters": parameters, "warnings": warnings}


def repetition(steps: int, epochs: float) -> list[str]:
    """A warning, when `steps` read the data more than once."""
    if epochs <= WARN_EPOCHS:
        return []
    return [f"{steps} steps read the data {epochs:.2f} times: repeated text teaches less each time"]


def validation_measure(
    batches: Callable[[], Iterable[Batch]], tokenizer: Tokenizer, rows: int
) -> Callable[[Any], dict[str, float]]:
    """Measures `loss` (nats a label) and `bits_per_byte` over the same batches each time.

    Bits per byte: Σ nats / ln 2 / Σ bytes, over the labels that stand for bytes of text; special tokens, which stand
    for none, are in neither sum. `rows` are computed at once.
    """
    lengths = torch.tensor([len(tokenizer.token_bytes(index)) for index in range(tokenizer.vocabulary_size)])

    def measure(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        nats = text_nats = 0.0
        labels_seen = size = 0
        for batch in batches():
            for start in range(0, batch.rows, rows):
                part = batch.slice(start, min(start + rows, batch.rows))
                losses = token_losses(model, part.to(device)).cpu().double()
                trained = part.labels >= 0
                bytes_of = torch.where(trained, lengths[part.labels.clamp(min=0)], 0)
                nats += float(losses.sum())
                text_nats += float(losses[bytes_of > 0].sum())
                labels_seen += int(trained.sum())
                size += int(bytes_of.sum())
        found = {"loss": nats / labels_seen}
        if size:
            found["bits_per_byte"] = text_nats / math.log(2) / size
        return found

    return measure

"""The stage `preference`: a model is taught from pairs of answers directly, by DPO or one of its kin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from hanlin.alignment.prepared import (
    MAKERS,
    Form,
    PreferenceData,
    PreparedGroups,
    bytes_to_read,
    fingerprint_data,
    look_at_data,
)
from hanlin.artifacts import POLICY_KINDS, Stage, StageContext
from hanlin.models.lora_settings import LoraSettings
from hanlin.training.settings import LoopSettings, OptimizerSettings, settle_steps
from hanlin.training.sft import SftSchedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from hanlin.data.pairs import RenderedGroups
    from hanlin.data.sequences import Sequences
    from hanlin.training.objectives import LossParts, Objective

Loss = Literal["dpo", "ipo", "kto", "orpo", "simpo", "robust-dpo"]
BETAS = {"dpo": 0.1, "robust-dpo": 0.1, "ipo": 0.1, "kto": 0.1, "simpo": 2.0}
"""What β is where it is left out: the papers' usual values"""
WITHOUT_REFERENCE = ("orpo", "simpo", "rrhf")


class AlignmentOptimizer(OptimizerSettings):
    """As in pretraining; AdamW, and much lower rates: the model is to change little."""

    name: Literal["muon", "adamw"] = "adamw"
    """What moves the hidden matrices; embeddings, head, norms and biases are moved by AdamW in either case."""
    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak rate of the hidden matrices."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of the hidden matrices, times the learning rate a step."""


class AlignmentSchedule(SftSchedule):
    """As in fine-tuning, with a longer rise."""

    warmup_fraction: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps in which the rate rises linearly."""


class AlignmentLoop(LoopSettings):
    """As in pretraining; `rows` are groups (pairs, rankings, judged answers), `sequence_length` is the most that a
    prompt with an answer may have."""

    rows: int = Field(default=32, ge=1)
    """Groups in a step, over all ranks and micro-batches."""
    # Of fixed fields a narrower type is sound: nothing else can be assigned to them. pyright can't see that they are.
    optimizer: AlignmentOptimizer = AlignmentOptimizer()  # pyright: ignore[reportIncompatibleVariableOverride]
    """The rule that changes the weights."""
    schedule: AlignmentSchedule = AlignmentSchedule()  # pyright: ignore[reportIncompatibleVariableOverride]
    """The learning rate's course."""
    compile: bool | Literal["auto"] = False
    """torch.compile of the blocks. Rows are of another shape in every step here, and each shape compiles anew."""


class DirectSettings(PreferenceData):
    """What all direct methods ask for."""

    model: str
    """The stage, or the Hugging Face directory, of the model to begin with; as it is then, it is the reference."""
    lora: LoraSettings | None = None
    """Train adapters and leave the model's own weights as they are; left out: all weights are trained."""
    loop: AlignmentLoop = AlignmentLoop()
    """Batches, steps, optimiser, precision, checkpoints."""


class PreferenceSettings(DirectSettings):
    """Trains a model on preferences directly, with no reward model and no sampling."""

    loss: Loss = "dpo"
    """dpo, robust-dpo, ipo: pairs against a reference. kto: judged answers (pairs are taken apart) against a reference.
    orpo, simpo: pairs, no reference. Equations: `alignment/losses.py`."""
    beta: float | None = Field(default=None, gt=0)
    """Strength of the pull to the reference (IPO's τ; SimPO's scale of rewards); left out: 0.1 (SimPO: 2)."""
    flip_rate: float = Field(default=0.1, ge=0, lt=0.5)
    """robust-dpo: the share of preferences that are expected to be the wrong way round."""
    target_margin: float = Field(default=0.5, ge=0)
    """simpo: γ, by how much the chosen answer's reward is to be higher."""
    ratio_weight: float = Field(default=0.1, gt=0)
    """orpo: λ, the weight of the odds ratio beside the chosen answer's likelihood."""
    desirable_weight: float = Field(default=1.0, gt=0)
    """kto: λ_D, the weight of good answers. The paper asks for λ_D · good / (λ_U · bad) between 1 and 4/3."""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """kto: λ_U, the weight of bad answers."""
    sft_weight: float = Field(default=0.0, ge=0)
    """Weight of the mean -log π a token of the better answer, beside the loss: it keeps good answers from becoming
    rarer while bad ones become rarer still."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.beta is not None and self.loss not in BETAS:
            raise ValueError(f"{self.loss} has no beta: leave it out (with one: {', '.join(BETAS)})")
        if self.loss == "kto" and self.loop.rows < 2:
            raise ValueError("kto pairs each prompt of a step with the answer to another: loop.rows must be 2 or more")
        return self


class RrhfSettings(DirectSettings):
    """Trains a model to find better answers likelier, from rankings of any number of answers (Yuan et al. 2023)."""

    sft_weight: float = Field(default=1.0, ge=0)
    """Weight of -log π of the best answer beside the ranking loss."""

    @property
    def loss(self) -> Literal["rrhf"]:
        return "rrhf"


Direct = PreferenceSettings | RrhfSettings
D = TypeVar("D", PreferenceSettings, RrhfSettings)


def strength(settings: Direct) -> float:
    """β, filled in; 1 where the loss has none."""
    given = getattr(settings, "beta", None)
    return given if given is not None else BETAS.get(settings.loss, 1.0)


def form(settings: Direct) -> Form:
    """What a group is for this loss."""
    if settings.loss == "rrhf":
        return "rankings"
    return "judged" if settings.loss == "kto" else "pairs"


def resolve_preference(settings: D, context: StageContext) -> D:
    """Decide steps, device and precision, and give a number to everything that was left out."""
    from hanlin.data.pairs import GroupsSource
    from hanlin.models.hub import load_config
    from hanlin.tokenization import Tokenizer
    from hanlin.training.stages import resolve_loop

    model = context.inputs["model"].path
    loop = settings.loop
    prepared = PreparedGroups(settings, context, Tokenizer.load(model), loop.sequence_length, form(settings))
    source = GroupsSource(prepared.train, loop.rows, context.seed)
    beta = {"beta": strength(settings)} if settings.loss in BETAS else {}
    return settings.model_copy(
        update={"loop": resolve_loop(loop, load_config(model), source, context.progress), **beta}
    )


def run_preference(settings: Direct, context: StageContext) -> dict[str, Any]:
    """Train in `context.workdir`, which becomes a Hugging Face directory; goes on where an earlier attempt stopped."""
    from hanlin.alignment.reference import KtoSource, frozen, reference_logprobs
    from hanlin.data.pairs import GroupsSource
    from hanlin.models.hub import load_model
    from hanlin.tokenization import Tokenizer
    from hanlin.training.adapters import begin_adapters
    from hanlin.training.stages import check_length, train_language_model

    path, loop = context.inputs["model"].path, settings.loop
    tokenizer = Tokenizer.load(path)
    prepared = PreparedGroups(settings, context, tokenizer, loop.sequence_length, form(settings))
    prepared.say(context)
    model = load_model(path)
    check_length(model.config, loop.sequence_length)
    # Before the reference is measured: of a base in fewer bits it is the rounded one that is trained and held to.
    begin_adapters(model, settings.lora, context.seed, dropout=False)
    objective = preference_objective(settings)
    # kto asks the reference while it trains; under adapters the policy itself, without them, is the reference.
    kept = frozen(load_model(path), loop) if settings.loss == "kto" and settings.lora is None else None

    def source(name: str, rendered: RenderedGroups, rows: int, seed: int) -> GroupsSource:
        if settings.loss in WITHOUT_REFERENCE:
            return GroupsSource(rendered, rows, seed)
        reference = reference_logprobs(name, rendered, kept or model, loop, context)
        if settings.loss == "kto":
            return KtoSource(rendered, rows, seed, reference, kept, loop)
        return GroupsSource(rendered, rows, seed, {"reference": reference})

    train = source("train", prepared.train, loop.rows, context.seed)
    evaluate, held_out = None, prepared.validation
    if held_out is not None and settings.loss == "kto" and len(held_out) < 2:
        context.progress.say("a single judged answer is held out, with no other to mismatch it with: it is not used")
        held_out = None
    if held_out is not None:
        rows = source("validation", held_out, min(loop.rows, len(held_out)), 0)
        evaluate = measure(objective, rows, loop.tokens_at_once(loop.device))
    on_policy = train if isinstance(train, KtoSource) else None
    figures = train_language_model(
        model,
        tokenizer,
        train,
        loop,
        context,
        evaluate,
        objective=objective,
        on_policy=on_policy,
        lora=settings.lora,
    )
    return {**figures, "data": prepared.reading, "groups": len(prepared.train)}


def preference_objective(settings: Direct) -> Objective:
    """The loss asked for, over a batch of groups; its metrics are means over groups: accuracy (the better answer has
    the higher implicit reward), margin (of the implicit rewards), chosen and rejected (log-probabilities' gain over the
    reference, or log-probabilities a token where there is none)."""
    from hanlin.alignment.policy import answer_scores, counted_lengths, sum_by_sequence
    from hanlin.training.objectives import LossParts

    def objective(model: Any, batch: Sequences) -> LossParts:
        logp = sum_by_sequence(answer_scores(model, batch, entropy=False).logprobs, batch)
        lengths = counted_lengths(batch, logp)
        losses, rewards = _losses(settings, batch, logp, lengths)
        metrics = _metrics(settings, batch, rewards)
        total = losses.sum()
        if settings.sft_weight and isinstance(settings, PreferenceSettings):
            total = total - settings.sft_weight * (_better(batch).to(logp) * logp / lengths).sum()
        count = logp.new_tensor(batch.rows)
        return LossParts(total, count, {"loss": losses.sum(), **metrics})

    return objective


def _better(batch: Sequences) -> Tensor:
    """[S] the probability that an answer is the better one of its pair, or good."""
    import torch

    best = batch.of_sequence["scores"] > 0
    sure = batch.of_sequence.get("confidence", torch.ones_like(batch.of_sequence["scores"]))
    return torch.where(best, sure, 1 - sure)


def _losses(settings: Direct, batch: Sequences, logp: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(losses [G], implicit rewards [S]). Of preferences that are not sure the loss is the expected one: that of the
    preference as it is, and of the one the other way round, by their probabilities."""
    loss, rewards = _loss(settings, batch, logp, lengths)
    if "confidence" not in batch.of_sequence:
        return loss(False), rewards
    firsts = (batch.groups.cumsum(0) - batch.groups).to(logp.device)
    sure = batch.of_sequence["confidence"].to(logp)[firsts]
    return sure * loss(False) + (1 - sure) * loss(True), rewards


def _loss(settings: Direct, batch: Sequences, logp: Tensor, lengths: Tensor) -> tuple[Callable[[bool], Tensor], Tensor]:
    """(losses [G] of the preferences as they are, or the other way round; implicit rewards [S])."""
    import torch

    from hanlin.alignment import losses

    beta, values = strength(settings), batch.of_sequence
    mean = logp / lengths
    if isinstance(settings, RrhfSettings):
        sizes = batch.groups.tolist()
        parts = list(zip(logp.split(sizes), lengths.split(sizes), values["scores"].split(sizes)))

        def ranked(turned: bool) -> Tensor:
            found = [
                losses.rrhf(one, size, scores.flip(0) if turned else scores, settings.sft_weight)
                for one, size, scores in parts
            ]
            return torch.stack(found)

        return ranked, mean
    if settings.loss in ("orpo", "simpo"):

        def free(turned: bool) -> Tensor:
            one, size = (_pairs(column).flip(1) if turned else _pairs(column) for column in (logp, lengths))
            if settings.loss == "orpo":
                return losses.orpo(one, size, settings.ratio_weight)
            return losses.simpo(one, size, beta, settings.target_margin)

        return free, mean if settings.loss == "orpo" else beta * mean
    delta = logp - values["reference"].to(logp)
    if settings.loss == "kto":
        weights, good = (settings.desirable_weight, settings.undesirable_weight), values["scores"] > 0
        baseline = values["baseline"].to(delta)
        return lambda turned: losses.kto(delta, good ^ turned, baseline, beta, weights), beta * delta

    def held(turned: bool) -> Tensor:
        gains = _pairs(delta).flip(1) if turned else _pairs(delta)
        if settings.loss == "ipo":
            return losses.ipo(gains, beta)
        if settings.loss == "robust-dpo":
            return losses.robust_dpo(gains, beta, settings.flip_rate)
        return losses.dpo(gains, beta)

    return held, beta * delta


def _pairs(values: Tensor) -> Tensor:
    return values.view(-1, 2)


def _metrics(settings: Direct, batch: Sequences, rewards: Tensor) -> dict[str, Tensor]:
    """Sums over groups, without gradient."""
    import torch

    rewards, scores = rewards.detach(), batch.of_sequence["scores"]
    if form(settings) == "judged":
        good = scores > 0
        baseline = strength(settings) * batch.of_sequence["baseline"].to(rewards)
        return {
            "accuracy": ((rewards > baseline) == good).to(rewards).sum(),
            "chosen": rewards[good].sum(),
            "rejected": rewards[~good].sum(),
            "baseline": baseline.sum(),
        }
    if form(settings) == "rankings":
        sizes = batch.groups.tolist()
        top = [
            rewards.new_tensor(float(part.argmax() == given.argmax()))
            for part, given in zip(rewards.split(sizes), scores.split(sizes))
        ]
        return {"accuracy": torch.stack(top).sum()}
    chosen, rejected = _pairs(rewards).unbind(1)
    return {
        "accuracy": (chosen > rejected).to(rewards).sum(),
        "margin": (chosen - rejected).sum(),
        "chosen": chosen.sum(),
        "rejected": rejected.sum(),
    }


def measure(objective: Objective, source: Any, tokens: int) -> Callable[[Any], dict[str, float]]:
    """Means of an objective's metrics over one pass of a source, `tokens` at a time."""

    def evaluate(model: Any) -> dict[str, float]:
        device = next(model.parameters()).device
        sums: dict[str, float] = {}
        count = 0.0
        for step in range(source.steps_per_epoch):
            if hasattr(source, "prepare"):
                source.prepare(model, step, 0)
            batch = source.step(step)
            if step == source.steps_per_epoch - 1:
                # The last step begins the next pass, which is not wanted here.
                batch = batch.slice(0, len(source.rendered) - step * source.rows)
            for part in batch.parts(tokens):
                parts: LossParts = objective(model, part.to(device))
                for name, value in parts.metrics.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
                count += float(parts.tokens)
        return {name: value / count for name, value in sums.items()}

    return evaluate


def _stage(kind: str, settings: type[Any]) -> Stage[Any]:
    return Stage(
        kind=kind,
        settings=settings,
        run=run_preference,
        inputs={"model": POLICY_KINDS, "world": ("world",), "preferences": MAKERS},
        paths=("data",),
        fingerprint=fingerprint_data,
        looks={"data": lambda given: look_at_data(given, form(given))},
        resolve=resolve_preference,
        settle=settle_steps,
        reads=bytes_to_read,
        transient=("checkpoints",),
        journal=("metrics.jsonl",),
        trains=True,
    )


PREFERENCE_STAGE = _stage("preference", PreferenceSettings)
RRHF_STAGE = _stage("rrhf", RrhfSettings)

"""The stage `reward`: a model learns which of two answers is preferred, and by how much; and its health is told."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from hanlin.alignment.preference import AlignmentLoop, AlignmentOptimizer, measure
from hanlin.alignment.prepared import (
    MAKERS,
    PreferenceData,
    PreparedGroups,
    bytes_to_read,
    fingerprint_data,
    look_at_data,
)
from hanlin.artifacts import POLICY_KINDS, HanlinError, Stage, StageContext, write_json
from hanlin.models.lora_settings import LoraSettings
from hanlin.training.settings import settle_steps

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from hanlin.alignment.health import HeldOut
    from hanlin.data.pairs import RenderedGroups
    from hanlin.data.sequences import Sequences
    from hanlin.models.reward import RewardModel
    from hanlin.tokenization import Tokenizer
    from hanlin.training.objectives import LossParts, Objective

HEALTH = "health.json"
MOST_MEMBERS = 16
_AT_ONCE = 64
_LAID_OUT = 32
"""Held-out answers that are judged by every layout"""


class RewardOptimizer(AlignmentOptimizer):
    """As of the other alignment stages; the head, which begins at random, learns faster than what is there already."""

    head_learning_rate: float | None = Field(default=1e-3, gt=0)
    """Peak rate of the head with the one output."""


class RewardLoop(AlignmentLoop):
    """As of the other alignment stages; `rows` are pairs."""

    # Of fixed fields a narrower type is sound: nothing else can be assigned to them. pyright can't see that they are.
    optimizer: RewardOptimizer = RewardOptimizer()  # pyright: ignore[reportIncompatibleVariableOverride]
    """The rule that changes the weights."""


class RewardSettings(PreferenceData):
    """Trains a reward model on pairs of answers, and examines it on pairs that are held out.

    The loss of a pair is -log σ(r_c - r_r - m) (Bradley & Terry 1952; with a margin m, Touvron et al. 2023, eq. 2).
    """

    model: str
    """The stage, or the Hugging Face directory, of the model to begin with: its output matrix is replaced by a head of
    one output."""
    validation_fraction: float = Field(default=0.05, gt=0, lt=1)
    """Share of the prompts that is held out, with all their pairs: the health report is of them."""
    margin: bool = False
    """Ask for a lead as large as the margin that the data gives of a pair, in the rewards' unit (log odds); pairs
    without one ask for none."""
    centring: float = Field(default=0.01, ge=0)
    """Weight of (r_c + r_r)² in a pair's loss: it keeps rewards near 0 (Eisenstein et al. 2023)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Each pair counts as the other way round with this weight: rewards stay finite where labels are noisy."""
    label_noise: float | None = Field(default=None, ge=0, lt=0.5)
    """What is known of the data: the share of its labels that are the wrong way round. It only sets the ceiling that
    the health report compares with."""
    ensemble: int = Field(default=1, ge=1, le=MOST_MEMBERS)
    """Models trained one after the other, each from a head and in an order of its own; the first is the artifact's
    model, the others lie in member-2/ and so on."""
    least_accuracy: float | None = Field(default=None, gt=0, lt=1)
    """Stop the run, with the report written, unless it is shown that the held-out accuracy is above this."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """The level of that test: the chance that a model at `least_accuracy` passes."""
    measured_answers: int = Field(default=20_000, ge=2)
    """At most so many training answers are judged when training is done: their mean reward becomes 0, and what they
    look like to the model is what later answers' distance is measured from."""
    lora: LoraSettings | None = None
    """Train adapters and the head, and leave the model's own weights as they are; left out: all are trained."""
    loop: RewardLoop = RewardLoop()
    """Batches, steps, optimiser, precision, checkpoints."""


def resolve_reward(settings: RewardSettings, context: StageContext) -> RewardSettings:
    """Decide steps, device and precision, and give a number to everything that was left out."""
    from hanlin.data.pairs import GroupsSource
    from hanlin.models.hub import load_config
    from hanlin.tokenization import Tokenizer
    from hanlin.training.stages import resolve_loop

    model, loop = context.inputs["model"].path, settings.loop
    prepared = PreparedGroups(settings, context, Tokenizer.load(model), loop.sequence_length, "pairs")
    source = GroupsSource(prepared.train, loop.rows, context.seed)
    config = load_config(model).model_copy(update={"vocabulary_size": 1})  # there is no output matrix to multiply with
    return settings.model_copy(update={"loop": resolve_loop(loop, config, source, context.progress)})


def run_reward(settings: RewardSettings, context: StageContext) -> dict[str, Any]:
    """Train in `context.workdir`, which becomes a directory with a sequence classifier; goes on where an earlier
    attempt stopped. Gates that failed are in the figures, for the run to stop at."""
    from hanlin.models.reward import MEMBER, pads_apart
    from hanlin.tokenization import Tokenizer
    from hanlin.training.parallel import World

    tokenizer = Tokenizer.load(context.inputs["model"].path)
    prepared = PreparedGroups(settings, context, tokenizer, settings.loop.sequence_length, "pairs")
    prepared.say(context)
    if prepared.validation is None:
        raise HanlinError(
            f"validation_fraction {settings.validation_fraction:g} of these preferences is not one prompt, and a "
            "reward model is examined on held-out pairs: give more data, or hold out more."
        )
    warnings: list[str] = []
    if not pads_apart(cast(Any, tokenizer)):
        warnings.append(
            "the tokenizer has no padding token of its own, by which transformers would know where an answer ends: it "
            "may compute other rewards than hanlin does"
        )
        context.progress.say(f"warning: {warnings[-1]}")
    figures: list[dict[str, Any]] = []
    for number in range(1, settings.ensemble + 1):
        if settings.ensemble > 1:
            context.progress.say(f"member {number} of {settings.ensemble}")
        folder = context.workdir if number == 1 else context.workdir / MEMBER.format(number)
        folder.mkdir(exist_ok=True)
        own = dataclasses.replace(context, workdir=folder, seed=member_seed(context.seed, number))
        figures.append(_train_member(settings, own, prepared.train, prepared.validation, tokenizer, number == 1))
    world = World.current()
    if world.first:
        write_json(context.workdir / HEALTH, _examine(settings, context, prepared.validation))
        _clean(context.workdir, settings.ensemble)
    world.barrier()
    health = json.loads((context.workdir / HEALTH).read_text(encoding="utf-8"))
    first = figures[0]
    return {
        **first,
        "warnings": [*first["warnings"], *warnings],
        "accuracy": health["accuracy"]["value"],
        "data": prepared.reading,
        "pairs": len(prepared.train),
        "members": [{name: one[name] for name in ("steps", "loss", "seconds", "validation")} for one in figures[1:]],
        "health": health,
        "gates": health["gates"],
    }


def member_seed(seed: int, number: int) -> int:
    """The seed of a member's head and of its order of the data; the first member's is the stage's own."""
    from hanlin.data.order import hashes

    return seed if number == 1 else int(hashes(1, seed, "member", number)[0]) >> 1


def _train_member(
    settings: RewardSettings,
    context: StageContext,
    train: RenderedGroups,
    validation: RenderedGroups,
    tokenizer: Tokenizer,
    first: bool,
) -> dict[str, Any]:
    """One model, trained, centred and written; of the first one also what the training answers look like to it."""
    from hanlin.alignment.distance import DISTANCE, Distance
    from hanlin.data.pairs import GroupsSource
    from hanlin.models.hub import load_model
    from hanlin.models.reward import RewardModel, save_reward_model
    from hanlin.training.adapters import begin_adapters
    from hanlin.training.stages import check_length, train_language_model

    loop, seed = settings.loop, context.seed
    model = RewardModel.init_from(load_model(context.inputs["model"].path), seed)
    check_length(model.config, loop.sequence_length)
    begin_adapters(model, settings.lora, seed)
    objective = reward_objective(settings)
    fields, held_fields = margin_field(settings, train, "training"), margin_field(settings, validation, "held-out")
    source = GroupsSource(train, loop.rows, seed, fields)
    held_out = GroupsSource(validation, min(loop.rows, len(validation)), 0, held_fields)

    def save(directory: Path, trained: RewardModel, words: Any) -> None:
        _on_device(trained, settings)
        rewards, hidden = judge(trained, _sample(train, settings.measured_answers), context, "training answers judged")
        trained.mean += float(rewards.mean())
        if first:
            Distance.fit(hidden).save(directory / DISTANCE)
        save_reward_model(directory, trained.to("cpu"), words)

    return train_language_model(
        model,
        tokenizer,
        source,
        loop,
        context,
        measure(objective, held_out, loop.tokens_at_once(loop.device)),
        objective=objective,
        lora=settings.lora,
        save=save,
    )


def margin_field(settings: RewardSettings, rendered: RenderedGroups, name: str) -> dict[str, NDArray[Any]]:
    """The margins that the loss asks for, one a sequence, where the settings ask for them. Raises HanlinError where the
    data has none."""
    import numpy as np

    if not settings.margin:
        return {}
    given = [entry.get("margin") for entry in rendered.metadata]
    if name == "training" and all(one is None for one in given):
        raise HanlinError("margin is true, but no preference of this data has a margin: leave it out.")
    return {"margin": np.repeat(np.array([one or 0.0 for one in given], np.float64), 2)}


def reward_objective(settings: RewardSettings) -> Objective:
    """The Bradley–Terry loss over a batch of pairs, with centring; its metrics are means over pairs: loss (without
    centring), accuracy, margin (of the rewards), chosen and rejected (rewards)."""
    from hanlin.alignment.losses import bradley_terry
    from hanlin.training.objectives import LossParts

    def objective(model: RewardModel, batch: Sequences) -> LossParts:
        pairs = model.rewards(batch).view(-1, 2)
        values = batch.of_sequence
        margins = values["margin"].view(-1, 2)[:, 0].to(pairs) if "margin" in values else None
        losses = bradley_terry(pairs, margins)
        sure: Tensor | float = 1 - settings.label_smoothing
        if "confidence" in values:  # how sure the preference is
            given = values["confidence"].view(-1, 2)[:, 0].to(pairs)
            sure = given * sure + (1 - given) * settings.label_smoothing
        if settings.label_smoothing or "confidence" in values:
            losses = sure * losses + (1 - sure) * bradley_terry(pairs.flip(1), margins)
        total = losses.sum() + settings.centring * pairs.sum(1).square().sum()
        chosen, rejected = pairs.detach().unbind(1)
        metrics = {
            "loss": losses.sum(),
            "accuracy": (chosen > rejected).to(chosen).sum(),
            "margin": (chosen - rejected).sum(),
            "chosen": chosen.sum(),
            "rejected": rejected.sum(),
        }
        return LossParts(total, pairs.new_tensor(batch.rows), metrics)

    return cast("Objective", objective)


def judge(
    model: RewardModel, rendered: RenderedGroups, context: StageContext | None = None, note: str = ""
) -> tuple[Tensor, Tensor]:
    """(rewards float64 [S], last hidden states float32 [S, hidden]) of all sequences, on the CPU, without gradient."""
    import torch

    device = next(model.parameters()).device
    rewards: list[Tensor] = []
    hidden: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(rendered), _AT_ONCE):
            batch = rendered.sequences(range(start, min(start + _AT_ONCE, len(rendered)))).to(device)
            hidden.append(model.last_hidden(batch))
            rewards.append(model.score(hidden[-1]).double().cpu())
            hidden[-1] = hidden[-1].float().cpu()
            if context is not None:
                context.progress.update(start, len(rendered), note)
    return torch.cat(rewards), torch.cat(hidden)


def layout_differences(model: RewardModel, batch: Sequences) -> dict[str, float]:
    """The largest difference of a reward from the same sequence's alone, by layout of the batch."""
    import torch

    device = next(model.parameters()).device
    apart = dataclasses.replace(batch, groups=torch.ones(len(batch.lengths), dtype=torch.int64))

    def rewards(part: Sequences) -> Tensor:
        return model.rewards(part.to(device)).double().cpu()

    with torch.no_grad():
        alone = torch.cat([rewards(apart.slice(place, place + 1)) for place in range(apart.rows)])
        found: dict[str, float] = {}
        for layout in ("shared", "packed", "padded", "padded-left"):
            laid = dataclasses.replace(apart, layout=layout)
            half = apart.rows // 2
            together = rewards(laid)
            halves = torch.cat([rewards(laid.slice(0, half)), rewards(laid.slice(half, apart.rows))])
            found[layout] = float(torch.maximum((together - alone).abs(), (halves - alone).abs()).max())
    return found


def _examine(settings: RewardSettings, context: StageContext, validation: RenderedGroups) -> dict[str, Any]:
    """The health report of the models as they were written, in float32; the lines of it are said."""
    import numpy as np
    import torch

    from hanlin.alignment import health
    from hanlin.alignment.distance import DISTANCE, Distance
    from hanlin.models.reward import load_reward_model, member_paths

    rewards: list[NDArray[np.float64]] = []
    differences: dict[str, float] = {}
    path = context.workdir / DISTANCE
    distance, away = Distance.load(path), torch.zeros(0)
    for number, folder in enumerate(member_paths(context.workdir)):
        model = _on_device(load_reward_model(folder), settings)
        found, hidden = judge(model, validation, context, "held-out pairs judged")
        rewards.append(found.numpy().reshape(-1, 2))
        if number == 0:
            away = distance.of(hidden)
            differences = layout_differences(model, validation.sequences(_of_all_lengths(validation, _LAID_OUT // 2)))
    distance = distance.usual(away)
    distance.save(path)
    held = _held_out(np.stack(rewards), validation)
    exact = settings.world is not None and settings.data is None and settings.preferences is None
    report = health.examine(held, health.bayes_ceiling(held.bayes, settings.label_noise, exact))
    deviation = float(held.rewards[0].std())
    allowed = health.LAYOUT_ALLOWED * max(1.0, deviation)
    layouts = {"largest": max(differences.values()), "allowed": allowed, **differences}
    report |= {"layouts": layouts, "distance": {"held_out": health.spread(away.numpy())}}
    gates = [health.layout_gate(layouts)]
    if settings.least_accuracy is not None:
        gates.append(health.accuracy_gate(held.gaps, held.prompts, settings.least_accuracy, settings.alpha))
    for line in [*health.lines(report), *(gate["text"] for gate in gates if not gate["passed"])]:
        context.progress.say(line)
    return {**report, "gates": gates}


def _of_all_lengths(rendered: RenderedGroups, most: int) -> list[int]:
    """Some of the pairs, from the shortest to the longest: short ones share a row with others."""
    import numpy as np

    order = np.argsort(np.asarray(rendered.lengths).reshape(-1, 2).max(1), kind="stable")
    places = np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int)
    return [int(group) for group in order[places]]


def _held_out(rewards: NDArray[Any], rendered: RenderedGroups) -> HeldOut:
    import numpy as np

    from hanlin.alignment.health import HeldOut

    return HeldOut(
        rewards,
        np.asarray(rendered.answer_lengths, np.float64).reshape(-1, 2),
        [rendered.prompt(group).tobytes() for group in range(len(rendered))],
        [entry.get("tags", {}) for entry in rendered.metadata],
        [entry.get("margin") for entry in rendered.metadata],
        [entry.get("bayes") for entry in rendered.metadata],
    )


def _sample(rendered: RenderedGroups, most: int) -> RenderedGroups:
    """The pairs, or some of them drawn evenly, with at most `most` answers."""
    from hanlin.data.order import permutation

    if 2 * len(rendered) <= most:
        return rendered
    return rendered.select(sorted(int(one) for one in permutation(len(rendered), "measured")[: most // 2]))


def _on_device(model: RewardModel, settings: RewardSettings) -> RewardModel:
    """Where the stage computes, for measuring, in the weights' own float32."""
    from hanlin.models.device import choose_device

    return model.to(choose_device(settings.loop.device)).eval()


def _clean(directory: Path, members: int) -> None:
    """Remove the further members' checkpoints: when all is done, for a stage that is started again needs them."""
    from hanlin.artifacts.store import remove
    from hanlin.models.reward import MEMBER

    for number in range(2, members + 1):
        remove(directory / MEMBER.format(number) / "checkpoints")


REWARD_STAGE = Stage(
    kind="reward",
    settings=RewardSettings,
    run=run_reward,
    inputs={"model": POLICY_KINDS, "world": ("world",), "preferences": MAKERS},
    paths=("data",),
    fingerprint=fingerprint_data,
    looks={"data": lambda given: look_at_data(given, "pairs")},
    resolve=resolve_reward,
    settle=settle_steps,
    reads=bytes_to_read,
    transient=("checkpoints",),
    journal=("metrics.jsonl", *(f"member-{number}/metrics.jsonl" for number in range(2, MOST_MEMBERS + 1))),
    trains=True,
    examines_itself=True,
)

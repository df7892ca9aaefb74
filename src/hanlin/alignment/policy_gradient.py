"""The stages `ppo`, `grpo` and `rloo`: a model answers, its answers are rewarded, and it learns from that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from hanlin.alignment.asked import AskedSettings, fingerprint, look_at_prompts, render, rewarder
from hanlin.alignment.policy_settings import (
    ClipSettings,
    GrpoRollout,
    KlSettings,
    PpoRollout,
    RlooRollout,
    RolloutSettings,
)
from hanlin.alignment.preference import AlignmentLoop, AlignmentSchedule
from hanlin.artifacts import POLICY_KINDS, HanlinError, Stage, StageContext
from hanlin.models.lora_settings import LoraSettings
from hanlin.training.settings import SpikeSettings, settle_steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from hanlin.data.batch import Batch

ROLLOUTS = "rollouts"
JOURNAL = "rollouts.jsonl"
"""Of every rollout its prompts, its figures, and some of its answers"""


class PolicySchedule(AlignmentSchedule):
    """A short rise, then constant: the data is made on the way, and never runs out."""

    warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps in which the rate rises linearly."""
    decay_fraction: float = Field(default=0.3, ge=0, le=1)
    """wsd: share of the steps in which the rate falls."""


class PolicySpikes(SpikeSettings):
    """Only what is no number: a policy's loss has no level to rise from."""

    enabled: bool = False
    """Without it only a loss or gradient that is not a number counts."""


class PolicyLoop(AlignmentLoop):
    """As in pretraining; `rows` are answers, `sequence_length` is the most that a prompt with its answer may have."""

    rows: int = Field(default=64, ge=1)
    """Answers in a step: the answers of a rollout are a multiple of it."""
    schedule: PolicySchedule = PolicySchedule()  # pyright: ignore[reportIncompatibleVariableOverride]
    """The learning rate's course."""
    spikes: PolicySpikes = PolicySpikes()  # pyright: ignore[reportIncompatibleVariableOverride]
    """What counts as a spike."""


class PolicySettings(AskedSettings):
    """Trains a policy on its own answers towards a reward, near the model that it begins with."""

    kl: KlSettings = KlSettings()
    """How the policy is held near the reference."""
    clip: ClipSettings = ClipSettings()
    """How far one rollout may move the policy."""
    text: str | None = None
    """A tokens stage whose text is trained on beside the answers (PPO-ptx: it keeps what was learned before)."""
    text_weight: float = Field(default=0.5, ge=0)
    """γ: how much the mean loss of a token of text counts beside the policy's (the mean over tokens; with `normalise:
    sum` or `sequence` over answers)."""
    text_rows: int = Field(default=8, ge=1)
    """Rows of text, of `loop.sequence_length` tokens, in a step."""
    lora: LoraSettings | None = None
    """Train adapters and leave the model's own weights as they are, which are then the reference at no memory; left
    out: all weights are trained. A critic is trained whole."""
    loop: PolicyLoop = PolicyLoop()
    """Batches, steps, optimiser, precision, checkpoints."""

    @model_validator(mode="after")
    def _rollouts_are_whole_steps(self) -> Self:
        # The methods differ in their rollouts, and each declares its own.
        rollout: RolloutSettings | None = getattr(self, "rollout", None)
        if rollout is not None:
            rollout.steps_on(self.loop.rows)
        return self


class PpoSettings(PolicySettings):
    """PPO (Schulman et al. 2017, as Stiennon et al. 2020 and Ouyang et al. 2022 use it): credit by a critic."""

    rollout: PpoRollout = PpoRollout()
    """What a rollout is, and how its tokens are credited."""
    critic: Literal["reward", "policy"] = "reward"
    """What the critic begins as: the reward model (where there is one) or the policy with a new head."""
    value_weight: float = Field(default=0.5, gt=0)
    """Of the critic's loss beside the policy's."""


class GrpoSettings(PolicySettings):
    """GRPO (Shao et al. 2024): credit by comparison within a prompt's answers."""

    rollout: GrpoRollout = GrpoRollout()
    """What a rollout is, and how its tokens are credited."""


class RlooSettings(PolicySettings):
    """RLOO (Ahmadian et al. 2024): credit by comparison with a prompt's other answers."""

    rollout: RlooRollout = RlooRollout()
    """What a rollout is, and how its tokens are credited."""


P = TypeVar("P", PpoSettings, GrpoSettings, RlooSettings)


def resolve_policy(settings: P, context: StageContext) -> P:
    """Decide steps, device and precision, and give a number to everything that was left out."""
    from hanlin.models.hub import load_config
    from hanlin.tokenization import Tokenizer
    from hanlin.training.stages import resolve_loop

    model = context.inputs["model"].path
    rendered = render(settings, context, Tokenizer.load(model), settings.loop.sequence_length)
    counter = _Count(len(rendered), settings)
    return settings.model_copy(
        update={"loop": resolve_loop(settings.loop, load_config(model), counter, context.progress)}
    )


class _Count:
    """How many steps a pass over the prompts takes, before there is a model to ask."""

    def __init__(self, prompts: int, settings: PpoSettings | GrpoSettings | RlooSettings) -> None:
        rollout = settings.rollout
        each = rollout.steps_on(settings.loop.rows) * rollout.inner_epochs
        self.steps_per_epoch = -(-prompts // rollout.prompts) * each

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> Any:
        raise NotImplementedError  # nothing is asked of it but the count

    def trace(self, step: int) -> list[dict[str, Any]]:
        return []

    def epochs_at(self, steps: int) -> float:
        return steps / self.steps_per_epoch


def run_policy(settings: P, context: StageContext) -> dict[str, Any]:
    """Train in `context.workdir`, which becomes a Hugging Face directory; goes on where an earlier attempt stopped."""
    from hanlin.alignment.actor_critic import ActorCritic
    from hanlin.alignment.overoptimisation import fit_curve
    from hanlin.alignment.policy_losses import policy_objective
    from hanlin.alignment.reference import frozen
    from hanlin.alignment.rollouts import Rollouts
    from hanlin.alignment.sampler import EngineSampler
    from hanlin.models.hub import load_model
    from hanlin.models.reward import RewardModel, load_reward_model
    from hanlin.tokenization import Tokenizer
    from hanlin.training.adapters import begin_adapters
    from hanlin.training.parallel import World
    from hanlin.training.stages import check_length, train_language_model

    path, loop = context.inputs["model"].path, settings.loop
    tokenizer = Tokenizer.load(path)
    rendered = render(settings, context, tokenizer, loop.sequence_length)
    policy = load_model(path)
    check_length(policy.config, loop.sequence_length)
    begin_adapters(policy, settings.lora, context.seed, dropout=False)
    if settings.loop.precision == "bf16" and not settings.rollout.recompute:
        context.progress.say("the engine and the trainer round apart in bf16: log π_old is computed by the trainer")
        settings = settings.model_copy(update={"rollout": settings.rollout.model_copy(update={"recompute": True})})
    reward = context.inputs.get("reward")
    trained: Any = policy
    value_weight = 0.0
    if isinstance(settings, PpoSettings):
        value_weight = settings.value_weight
        if reward is not None and settings.critic == "reward":
            critic = load_reward_model(reward.path)
        else:
            critic = RewardModel.init_from(load_model(path), context.seed)
        trained = ActorCritic(policy, critic)
    sampler = EngineSampler(rendered, tokenizer, settings.max_new_tokens)
    source = Rollouts(
        context.workdir / ROLLOUTS,
        sampler,
        rewarder(settings, context, rendered, loop.device, loop.tokens_at_once(loop.device)),
        None if settings.lora else frozen(load_model(path), loop),
        settings.kl,
        settings.rollout,
        loop.rows,
        context.seed,
        loop.tokens_at_once(loop.device),
        text=_text(settings, context),
        keep_from=_earliest(context.workdir / "checkpoints"),
    )
    objective = policy_objective(
        settings.clip, settings.kl, settings.rollout.normalise, value_weight, settings.text_weight
    )
    figures = train_language_model(
        policy,
        tokenizer,
        source,
        loop,
        context,
        None,
        objective=objective,
        on_policy=source,
        trained=trained,
        answers_anew=True,
        lora=settings.lora,
    )
    curve = rollout_curve(context.workdir / "metrics.jsonl")
    if World.current().first:
        source.write_journal(context.workdir / JOURNAL)
    return {
        **figures,
        "prompts": rendered.figures(),
        "rollouts": curve,
        "overoptimisation": {
            name: fit_curve(curve, name) for name in ("reward", "gold") if any(name in row for row in curve)
        },
    }


def rollout_curve(metrics: Path) -> list[dict[str, float]]:
    """The figures of every rollout, in their order: {rollout, step, reward, kl_answer, kl_token, length, …}."""
    from hanlin.artifacts import read_jsonl

    return [
        {name: value for name, value in line.items() if isinstance(value, int | float)}
        for line in read_jsonl(metrics)
        if "rollout" in line
    ]


def _text(settings: PolicySettings, context: StageContext) -> Callable[[int], Batch] | None:
    if "text" not in context.inputs or not settings.text_weight:
        return None
    from hanlin.data import PackedTokens, TokenShards

    loop = settings.loop
    ours, theirs = context.inputs["model"].path, context.inputs["text"].path
    if (ours / "tokenizer.json").read_bytes() != (theirs / "tokenizer" / "tokenizer.json").read_bytes():
        raise HanlinError(
            f"the text in {theirs} was made into tokens by another tokenizer than that of the policy in {ours}: give "
            "the policy's directory as that tokens stage's `tokenizer`."
        )
    shards = TokenShards.open(theirs)
    return PackedTokens(shards, loop.sequence_length, settings.text_rows, context.seed).step


def _earliest(checkpoints: Path) -> Callable[[], int]:
    """The first step that has a checkpoint."""

    def earliest() -> int:
        steps = [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()]
        return min(steps, default=0)

    return earliest


def _stage(kind: str, settings: type[Any]) -> Stage[Any]:
    return Stage(
        kind=kind,
        settings=settings,
        run=run_policy,
        inputs={"model": POLICY_KINDS, "world": ("world",), "reward": ("reward",), "text": ("tokens",)},
        paths=("data",),
        fingerprint=fingerprint,
        looks={"data": look_at_prompts},
        resolve=resolve_policy,
        settle=settle_steps,
        transient=("checkpoints", ROLLOUTS),
        journal=("metrics.jsonl",),
        trains=True,
    )


PPO_STAGE = _stage("ppo", PpoSettings)
GRPO_STAGE = _stage("grpo", GrpoSettings)
RLOO_STAGE = _stage("rloo", RlooSettings)

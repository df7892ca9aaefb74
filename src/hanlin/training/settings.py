"""Settings of the loop, shared by every stage that trains. Nothing here imports torch."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hanlin.artifacts import Settings

Role = Literal["matrix", "embedding", "head", "scalar", "adapter"]
"""What a weight is, as far as its learning rate depends on it."""
MOST_DECAY = 0.8
"""Largest share of decay with which a run's number of steps may stay open until it begins."""


class OptimizerSettings(Settings):
    """Which rule changes the weights, and how fast.

    Muon's updates are scaled to the size of AdamW's (Moonlight, Liu et al. 2025, eq. 4), so that the learning rates and
    the weight decay mean the same for both.
    """

    name: Literal["muon", "adamw"] = "muon"
    """What moves the hidden matrices; AdamW moves embeddings, head, norms, biases and adapters in either case."""
    learning_rate: float = Field(default=5e-3, gt=0)
    """Peak rate of the hidden matrices."""
    embedding_learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of token and position embeddings (and of the head tied to them); left out: `learning_rate`."""
    head_learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of an output head of its own; left out: the embeddings' rate."""
    scalar_learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of norms and biases; left out: `learning_rate`."""
    adapter_learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of LoRA's matrices, where a stage has `lora`; left out: 10 times `learning_rate`, whatever their rank
    (Schulman et al. 2025, "LoRA Without Regret")."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of the hidden matrices, times the learning rate a step; nothing else decays."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's decay of the gradient's mean."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """AdamW's decay of the squared gradient's mean."""
    epsilon: float = Field(default=1e-8, gt=0)
    """AdamW's addition to the root."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Muon's momentum (Nesterov)."""

    def rates(self) -> dict[Role, float]:
        """The peak rate of each role, those that were left out filled in."""
        embedding = self.embedding_learning_rate or self.learning_rate
        return {
            "matrix": self.learning_rate,
            "embedding": embedding,
            "head": self.head_learning_rate or embedding,
            "scalar": self.scalar_learning_rate or self.learning_rate,
            "adapter": self.adapter_learning_rate or 10 * self.learning_rate,
        }


class ScheduleSettings(Settings):
    """How the learning rate moves from the first step to the last."""

    name: Literal["wsd", "cosine"] = "wsd"
    """wsd: warm-up, constant, decay (Hu et al. 2024, MiniCPM). cosine: warm-up, half a cosine (Loshchilov 2017)."""
    warmup_fraction: float = Field(default=0.02, ge=0, le=1)
    """Share of the steps in which the rate rises linearly."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """Steps in which the rate rises; left out: `warmup_fraction` of them."""
    decay_fraction: float = Field(default=0.4, ge=0, le=1)
    """wsd: share of the steps in which the rate falls."""
    decay_shape: Literal["1-sqrt", "linear"] = "1-sqrt"
    """wsd: form of the fall; 1-sqrt was best in Hägele et al. 2024."""
    final_fraction: float = Field(default=0.0, ge=0, le=1)
    """What remains of the peak rate at the end."""

    def can_stay_open(self) -> bool:
        """Whether the number of steps may be decided in mid-run: no step before a decay like this depends on it."""
        return self.name == "wsd" and self.decay_fraction <= MOST_DECAY and self.warmup_steps is not None

    def warmup(self, steps: int) -> int:
        """Steps in which the rate rises, in a run of `steps`."""
        return round(self.warmup_fraction * steps) if self.warmup_steps is None else self.warmup_steps


class SpikeSettings(Settings):
    """When a step counts as a spike, and what is done about it."""

    enabled: bool = True
    """Without it only a loss or gradient that is not a number counts."""
    window: int = Field(default=64, ge=8)
    """Accepted steps to which a step is compared."""
    minimum: int = Field(default=24, ge=8)
    """Accepted steps needed before anything is judged (the grace of the first, steep part)."""
    loss_deviations: float = Field(default=8.0, gt=0)
    """A loss this many robust standard deviations (see `spikes.robust`) above the present level is a spike."""
    least_rise: float = Field(default=0.25, ge=0)
    """Nats by which a loss must rise at least to be a spike: where losses are small, any harder batch stands out."""
    gradient_deviations: float = Field(default=10.0, gt=0)
    """The same for the gradient norm's logarithm; the norm must also be 5 times its level, 3 times gradient_clip."""
    most_in_a_row: int = Field(default=4, ge=1)
    """After this many spikes without recovery the run stops with a diagnosis."""
    recovery_steps: int = Field(default=20, ge=1)
    """Steps without a spike, beyond the last one, after which the count starts anew."""


class LoopSettings(Settings):
    """Everything about a training run that is not its data or its model."""

    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps; left out: as many as `epochs` takes."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the data, where `steps` is left out."""
    seconds: float | None = Field(default=None, gt=0)
    """Time to end in, if the steps would take longer: the decay then begins when the time left is what it takes, and
    the number of steps that this gives is kept, so that the run can be repeated. Needs wsd with `warmup_steps`;
    intervals that are left out are shares of `steps`. A recipe's `minutes` sets it."""
    rows: int = Field(default=16, ge=1)
    """Sequences in a step, over all ranks and micro-batches."""
    sequence_length: int = Field(default=512, ge=2)
    """Tokens in a sequence."""
    micro_rows: int | None = Field(default=None, ge=1)
    """Sequences computed at once; left out: as many as have `micro_tokens`."""
    micro_tokens: int | None = Field(default=None, ge=1)
    """Tokens computed at once, in place of `micro_rows`; both left out: 8,192 on a CPU, 65,536 on a GPU."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """The rule that changes the weights."""
    schedule: ScheduleSettings = ScheduleSettings()
    """The learning rate's course."""
    gradient_clip: float = Field(default=1.0, ge=0)
    """Largest norm of the whole gradient; 0: no limit."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of log²Z in the loss (PaLM, Chowdhery et al. 2022, section 5); keeps logits from drifting; usual: 1e-4."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: products in bfloat16; master weights and gradient sums in fp32. auto: what this machine computes faster."""
    compile: bool | Literal["auto"] = "auto"
    """torch.compile of the blocks. auto: when the time saved in this run exceeds what compiling costs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: a GPU if there is one."""
    deterministic: bool = True
    """Only kernels that give the same bits each time. On a CPU they cost nothing; on a GPU those that have no such form
    warn and are used (flash attention's backward is one), so there the bits may differ."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Steps between evaluations on validation data; left out: a tenth of the run. Always also before and after."""
    evaluation_tokens: int = Field(default=65_536, ge=1)
    """Most validation tokens that an evaluation reads."""
    checkpoint_every: int | None = Field(default=None, ge=1)
    """Steps between the checkpoints to which a spike rolls back; left out: a fortieth of the run, 10 to 500."""
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    """A checkpoint for resuming is also written after this time without one. It has no influence on the result."""
    keep_checkpoints: int = Field(default=3, ge=1)
    """How many of the latest rollback checkpoints are kept, beside the best."""
    finish_with: Literal["last", "best"] = "last"
    """Which weights become the model: those of the last step, or those with the best validation loss."""
    spikes: SpikeSettings = SpikeSettings()
    """What counts as a spike."""

    @model_validator(mode="after")
    def _one_size_of_micro_batches(self) -> Self:
        if self.micro_rows and self.micro_tokens:
            raise ValueError("micro_rows and micro_tokens are two ways to say what is computed at once: give one")
        return self

    @model_validator(mode="after")
    def _time_needs_an_open_end(self) -> Self:
        if self.seconds is not None and not self.schedule.can_stay_open():
            raise ValueError(
                f"seconds needs a schedule wsd with decay_fraction at most {MOST_DECAY} and warmup_steps given: only "
                "while the rate is constant can the number of steps be left open, and of that there is no fraction"
            )
        return self

    def tokens_at_once(self, device: str) -> int:
        """Tokens computed at once: as set, or as many as keep a CPU's caches warm, or a GPU (`device` cuda) busy."""
        if self.micro_rows:
            return self.micro_rows * self.sequence_length
        return self.micro_tokens or (65_536 if device == "cuda" else 8_192)

    def spelled_out(self, steps: int, device: str) -> Self:
        """These settings for a run of `steps` on a device of this kind, with a number for everything left out."""
        rates = {f"{role}_learning_rate": rate for role, rate in self.optimizer.rates().items() if role != "matrix"}
        chosen = {
            "steps": steps,
            "device": device,
            "micro_tokens": None if self.micro_rows else self.tokens_at_once(device),
            "evaluate_every": self.evaluation_interval(steps),
            "checkpoint_every": self.checkpoint_interval(steps),
            "optimizer": self.optimizer.model_copy(update=rates),
        }
        return self.model_copy(update=chosen)

    def evaluation_interval(self, steps: int) -> int:
        """Steps between evaluations in a run of `steps`."""
        return self.evaluate_every or max(1, -(-steps // 10))

    def checkpoint_interval(self, steps: int) -> int:
        """Steps between rollback checkpoints in a run of `steps`."""
        return self.checkpoint_every or min(500, max(10, -(-steps // 40)))

    def settled(self, steps: int) -> Self:
        """With the steps that its time allowed in place of the time: the same run again, whatever the clock says.
        Intervals must have been spelled out, for those left out are shares of the steps."""
        return self if self.seconds is None else self.model_copy(update={"steps": steps, "seconds": None})


def settle_steps(settings: Any, figures: dict[str, Any]) -> Any:
    """The settings (of a stage with a `loop`) with which the run of these figures comes again: their `Stage.settle`."""
    return settings.model_copy(update={"loop": settings.loop.settled(figures["steps"])})

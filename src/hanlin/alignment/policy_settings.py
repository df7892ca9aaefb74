"""Settings of the policy methods (PPO, GRPO, RLOO) beside the code that obeys them; nothing here imports torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hanlin.artifacts import Settings

Estimator = Literal["k1", "k2", "k3"]
"""How KL is estimated from samples: see `kl.estimate`"""
Normalise = Literal["token", "sequence", "sum"]
"""By what the policy's loss is divided: see `policy_losses.weights_of_tokens`"""


class KlSettings(Settings):
    """How the policy is held near the reference (the model that the stage begins with)."""

    coefficient: float = Field(default=0.05, ge=0)
    """β: what a nat of KL costs, in units of reward; the optimum is π ∝ π_ref · exp(reward / β)."""
    target: float | None = Field(default=None, gt=0)
    """Nats of KL an answer that β is steered to (Ziegler et al. 2019, section 2.2); left out: β is fixed."""
    horizon: int = Field(default=10_000, ge=1)
    """With a target: answers in which β changes by a fifth at most, up or down."""
    within: Literal["reward", "loss"] = "reward"
    """reward: a part of each token's reward, whose optimum is the one above. loss: a term of its own beside the
    policy's, as in GRPO's paper; each token is then held to the reference by itself, whatever follows from it."""
    estimator: Estimator = "k2"
    """As a loss, on policy: k2 has the gradient of a token's own KL(π ‖ π_ref), k3, which GRPO's paper has, that of
    KL(π_ref ‖ π), and k1 none at all (docs/alignment.md)."""


class ClipSettings(Settings):
    """How far one rollout may move the policy."""

    low: float = Field(default=0.2, ge=0)
    """The ratio π/π_old may fall to 1 - low before a bad token's gradient stops (Schulman et al. 2017, eq. 7)."""
    high: float = Field(default=0.2, ge=0)
    """The ratio may rise to 1 + high before a good token's gradient stops."""
    value: float | None = Field(default=0.2, gt=0)
    """PPO: values may move so far from those of the rollout, in units of the reward (with `rollout.whiten_rewards`, of
    its standard deviation): 0.2 is little where rewards are of the size of 10; none: no limit."""


class RolloutSettings(Settings):
    """What a rollout is, and how its tokens are credited."""

    prompts: int = Field(default=64, ge=1)
    """Prompts in a rollout."""
    samples: int = Field(default=1, ge=1)
    """Answers to each."""
    inner_epochs: int = Field(default=1, ge=1)
    """Times that each rollout is trained on."""
    whiten_rewards: bool = False
    """Divide the answers' rewards by their standard deviation in each rollout; β then has another meaning."""
    whiten_advantages: bool = False
    """Advantages with mean 0 and variance 1 in each rollout."""
    normalise: Normalise = "token"
    """By what the sum of a step's policy loss over all its tokens is divided. sum: by the answers, which is the
    gradient of the expected reward. token: by the tokens, which has the same direction in each step and only another
    scale (it is smaller by the mean length of the step's answers, whose drift so changes the size of the steps).
    sequence: each answer's by its own length first, so that a token of a long answer counts less (GRPO's paper)."""
    missing_end_penalty: float = Field(default=0.0, ge=0)
    """Subtracted from the reward of an answer that was cut off."""
    early_stop: float | None = Field(default=None, gt=0)
    """Nats a token by which the policy may move from the one that sampled, before the rest of a rollout is given up."""
    recompute: bool = False
    """Take log π_old from the trainer in place of the engine; needed where the two round apart (bf16)."""
    tolerance: float = Field(default=1e-3, gt=0)
    """Nats by which, in the first rollout, the engine's log-probabilities may differ from the trainer's, and the policy
    from its reference, which it is then."""

    def steps_on(self, rows: int) -> int:
        """Steps of `rows` answers in which a rollout is trained on once. Raises ValueError where that is no number."""
        answers = self.prompts * self.samples
        if answers % rows:
            raise ValueError(
                f"a rollout has {self.prompts} prompts × {self.samples} samples = {answers} answers, which is not a "
                f"multiple of the {rows} of a step (loop.rows): change one of them"
            )
        return answers // rows


class PpoRollout(RolloutSettings):
    """Credit by a critic."""

    whiten_advantages: bool = True
    """Advantages with mean 0 and variance 1 in each rollout."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """γ, by how much a reward a token later is worth less."""
    gae_decay: float = Field(default=0.95, ge=0, le=1)
    """λ; 1: no bias from the critic, 0: least variance."""


class GrpoRollout(RolloutSettings):
    """Credit by comparison with the mean of the answers to the same prompt."""

    prompts: int = Field(default=16, ge=1)
    """Prompts in a rollout."""
    samples: int = Field(default=8, ge=2)
    """Answers to each."""
    divide_by_deviation: bool = False
    """Divide by each group's standard deviation, as GRPO's paper does; the optimum is then another one
    (docs/alignment.md)."""


class RlooRollout(RolloutSettings):
    """Credit by comparison with the mean of the other answers to the same prompt."""

    prompts: int = Field(default=16, ge=1)
    """Prompts in a rollout."""
    samples: int = Field(default=4, ge=2)
    """Answers to each."""
    normalise: Normalise = "sum"
    """By what the sum of a step's policy loss over all its tokens is divided. sum: by the answers, which is the
    gradient of the expected reward. token: by the tokens, which has the same direction in each step and only another
    scale. sequence: each answer's by its own length first, so that a token of a long answer counts less."""

"""The policy and the critic of PPO as one module, so that one loop trains, saves and resumes both."""

from __future__ import annotations

from torch import Tensor, nn

from hanlin.data.sequences import Rows, Sequences
from hanlin.models import Transformer
from hanlin.models.reward import RewardModel


class ActorCritic(nn.Module):
    """Two networks with no weight in common: what the critic learns does not move the policy."""

    def __init__(self, policy: Transformer, critic: RewardModel) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic

    def values(self, sequences: Sequences, rows: Rows) -> Tensor:
        """[M] what the critic expects from the state before each token of an answer."""
        return self.critic.values(sequences, rows)

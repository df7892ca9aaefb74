"""All proofs by name: each trains a table by the code that trains models, and measures how far it ends from the
optimum."""

from __future__ import annotations

from collections.abc import Callable

from hanlin.alignment.proofs import by_choice, by_pairs, by_policy, by_rewards
from hanlin.alignment.proofs.worlds import Proof

PROOFS: dict[str, Callable[..., Proof]] = {
    "ppo": by_policy.ppo,
    "rloo": by_policy.rloo,
    "grpo": by_policy.grpo,
    "dpo": by_pairs.dpo,
    "ipo": by_pairs.ipo,
    "robust-dpo": by_pairs.robust,
    "dpo-convergence": by_pairs.converging("dpo"),
    "ipo-convergence": by_pairs.converging("ipo"),
    "rrhf": by_pairs.rrhf,
    "reward": by_rewards.recovers,
    "reward-centring": by_rewards.centring,
    "reward-accuracy": by_rewards.accuracy,
    "rlaif-10": by_pairs.flipped(0.1),
    "rlaif-25": by_pairs.flipped(0.25),
    "rlaif-50": by_pairs.flipped(0.5),
    "best-of-n": by_choice.drawn,
    "best-of-n-listed": by_choice.listed,
    "best-of-n-limit": by_choice.limit,
    "k2": by_policy.estimator("k2"),
    "k3": by_policy.estimator("k3"),
    "grpo-deviation": by_policy.normalised,
}
"""By the names that `hanlin prove --only` takes: from a seed to what was found. Those that take long may be given
another number of steps, or of labels."""

"""What must be true when a policy begins: its probabilities are the engine's, and those of its reference."""

from __future__ import annotations

from torch import Tensor

from hanlin.artifacts import HanlinError

_ELSEWHERE = (
    "the policy does not begin as its reference, so it would pay for a distance that it did not go. This is a fault of "
    "the program or of the model's directory; `rollout.tolerance` says what is taken for rounding."
)


def check_probabilities(sampled: Tensor, trained: Tensor, tolerance: float) -> None:
    """Raise HanlinError unless the engine's log-probabilities are the trainer's: with a difference, ratios that should
    be 1 are not, and the policy learns from noise."""
    worst = float((sampled - trained).abs().max())
    if not worst <= tolerance:
        raise HanlinError(
            f"the log-probabilities of the engine and of the trainer differ by up to {worst:.2g} nats (allowed: "
            f"{tolerance:g}): the ratio on the first minibatch would not be 1. In bf16 set `rollout.recompute: true`; "
            "in fp32 this is a fault of the program or of the model's directory."
        )


def check_distance(exact: Tensor, tolerance: float, at_reference: bool) -> None:
    """Raise HanlinError unless KL(π ‖ π_ref) of single tokens, from both models' whole distributions, is what it must
    be: nowhere below 0, and 0 in the first rollout, when the policy is still its reference."""
    least, most = float(exact.min()), float(exact.max())
    if not least >= -tolerance:
        raise HanlinError(
            f"KL(π ‖ π_ref) of a token is {least:.2g} nats, and it can't be below 0: what the policy or its reference "
            "computes are no probabilities. This is a fault of the program or of the model's directory."
        )
    if at_reference and not most <= tolerance:
        raise HanlinError(f"before the first step KL(π ‖ π_ref) of a token is {most:.2g} nats: {_ELSEWHERE}")


def check_reference(policy: Tensor, reference: Tensor, tolerance: float) -> None:
    """Raise HanlinError unless, before the first step, the policy finds each token as likely as its reference does."""
    worst = float((policy - reference).abs().max())
    if not worst <= tolerance:
        raise HanlinError(
            f"before the first step the log-probabilities of the policy and of its reference differ by up to "
            f"{worst:.2g} nats (allowed: {tolerance:g}): {_ELSEWHERE}"
        )

"""Rewards to advantages, and the price of distance, against plain loops and closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from hanlin.alignment import advantages as credit
from hanlin.alignment.kl import estimate, next_coefficient
from hanlin.alignment.policy_losses import clipped, value_loss, weights_of_tokens
from hanlin.alignment.policy_settings import ClipSettings, KlSettings
from tests.alignment.test_policy import sequences

LENGTHS = torch.tensor([3, 1, 4])


def test_rewards_come_at_the_end_and_never_after_it():
    kl = torch.tensor([0.1, 0.2, 0.3, -0.5, 0.0, 0.1, 0.2, 0.3])
    found = credit.token_rewards(torch.tensor([1.0, 2.0, 3.0]), LENGTHS, kl, 0.5)
    expected = [-0.05, -0.1, 1 - 0.15, 2 + 0.25, 0.0, -0.05, -0.1, 3 - 0.15]
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("discount,decay", [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (1.0, 0.0)])
def test_advantages_are_those_of_the_sum_that_defines_them(discount, decay):
    torch.manual_seed(0)
    rewards, values = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    found, returns = credit.generalised_advantages(rewards, values, LENGTHS, discount, decay)
    expected: list[float] = []
    start = 0
    for length in LENGTHS.tolist():
        r, v = rewards[start : start + length].tolist(), [*values[start : start + length].tolist(), 0.0]
        deltas = [r[t] + discount * v[t + 1] - v[t] for t in range(length)]
        expected += [
            sum((discount * decay) ** (later - t) * deltas[later] for later in range(t, length)) for t in range(length)
        ]
        start += length
    assert found.tolist() == pytest.approx(expected)
    torch.testing.assert_close(returns, found + values)
    if (discount, decay) == (1.0, 1.0):
        torch.testing.assert_close(returns, credit.returns_to_go(rewards, LENGTHS))


def test_baselines_of_groups():
    rewards = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0])
    assert credit.leave_one_out(rewards, 3).tolist() == pytest.approx([1 - 4, 2 - 3.5, 6 - 1.5, 0, 0, 0])
    assert credit.group_relative(rewards, 3, False).tolist() == pytest.approx([-2, -1, 3, 0, 0, 0])
    by_deviation = credit.group_relative(rewards, 3, True)
    assert by_deviation[:3].std().item() == pytest.approx(1, rel=1e-5) and by_deviation[3:].tolist() == [0, 0, 0]


def test_the_leave_one_out_baseline_is_unbiased():
    """Its expected product with any function of the own answer is that of the centred reward: by all draws of two."""
    chance, reward, score = [0.5, 0.3, 0.2], [1.0, 3.0, -2.0], [0.7, -1.1, 0.4]
    mean = sum(p * r for p, r in zip(chance, reward))
    exact = sum(p * (r - mean) * s for p, r, s in zip(chance, reward, score))
    total = 0.0
    for one in range(3):
        for two in range(3):
            found = credit.leave_one_out(torch.tensor([reward[one], reward[two]]), 2).tolist()
            total += chance[one] * chance[two] * (found[0] * score[one] + found[1] * score[two]) / 2
    spread = sum(p * s for p, s in zip(chance, score))
    # The baseline of the other takes nothing from an answer's own score: E[(r - r') s] = E[r s] - E[r] E[s].
    assert total == pytest.approx(sum(p * r * s for p, r, s in zip(chance, reward, score)) - mean * spread)
    assert exact == pytest.approx(total)


def test_whitening():
    values = torch.tensor([1.0, 2.0, 6.0])
    white = credit.whiten(values)
    assert white.mean().item() == pytest.approx(0, abs=1e-6) and white.std(unbiased=False).item() == pytest.approx(1)
    assert credit.whiten(values, keep_mean=True).mean().item() == pytest.approx(3)
    assert credit.whiten(torch.full((3,), 4.0)).tolist() == [0, 0, 0]


def test_estimators_of_the_distance():
    policy, reference = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    exact = float((policy * (policy / reference).log()).sum())
    k1, k2, k3 = (estimate(policy.log(), reference.log(), name) for name in ("k1", "k2", "k3"))
    assert float((policy * k1).sum()) == pytest.approx(exact) == pytest.approx(float((policy * k3).sum()))
    assert bool((k3 >= 0).all()) and bool((k2 >= 0).all())


def test_gradients_of_the_estimators_on_policy():
    """As docs/alignment.md has it: k1 has none, k2 that of KL(π ‖ ref), k3 that of KL(ref ‖ π)."""
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)

    def gradient(value: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(value, logits)[0]

    def sampled(name: str) -> torch.Tensor:
        logp = logits.log_softmax(0)
        return gradient((logp.detach().exp() * estimate(logp, reference.log(), name)).sum())

    def policy() -> torch.Tensor:
        return logits.softmax(0)

    torch.testing.assert_close(sampled("k1"), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(sampled("k2"), gradient((policy() * (policy() / reference).log()).sum()))
    torch.testing.assert_close(sampled("k3"), gradient((reference * (reference / policy()).log()).sum()))


def test_the_steered_price():
    fixed, steered = KlSettings(coefficient=0.1), KlSettings(coefficient=0.1, target=2.0, horizon=100)
    assert next_coefficient(0.1, 50.0, 10, fixed) == 0.1
    assert next_coefficient(0.1, 50.0, 10, steered) == pytest.approx(0.1 * math.exp(0.2 * 10 / 100))
    assert next_coefficient(0.1, 1.9, 10, steered) == pytest.approx(0.1 * math.exp(-0.05 * 10 / 100))


def test_the_price_never_turns_into_a_gain():
    steered = KlSettings(coefficient=0.1, target=2.0, horizon=1)
    assert next_coefficient(0.1, 0.0, 1_000, steered) > 0


def test_clipping_by_hand():
    old = torch.zeros(4)
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5])
    gain = torch.tensor([1.0, 1.0, -1.0, -1.0])
    losses, was_clipped = clipped(ratio.log(), old, gain, ClipSettings(low=0.2, high=0.3))
    assert losses.tolist() == pytest.approx([-1.3, -0.5, 1.5, 0.8])
    assert was_clipped.tolist() == [True, False, False, True]
    values = value_loss(torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([3.0]), 0.5)
    assert values.tolist() == pytest.approx([(0.5 - 3.0) ** 2 / 2])
    assert value_loss(torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([3.0]), None).tolist() == [0.5]


def test_what_counts_alike():
    batch = sequences(count=3)
    like = torch.zeros(1, dtype=torch.float64)
    lengths = batch.answer_lengths.tolist()
    weight, count = weights_of_tokens(batch, "token", like)
    assert float(count) == sum(lengths) and bool((weight == 1).all())
    weight, count = weights_of_tokens(batch, "sequence", like)
    parts = weight.split(lengths)
    assert float(count) == 3 and [float(part.sum()) for part in parts] == pytest.approx([1, 1, 1])
    weight, count = weights_of_tokens(batch, "sum", like)
    assert float(count) == 3 and float(weight.sum()) == sum(lengths)

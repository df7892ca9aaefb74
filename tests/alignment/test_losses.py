"""Each direct loss against the equation written out with plain numbers."""

from __future__ import annotations

import math
from random import Random

import pytest
import torch

from hanlin.alignment import losses

rng = Random(5)
DELTA = torch.tensor([[rng.uniform(-4, 4), rng.uniform(-4, 4)] for _ in range(7)], dtype=torch.float64)
LOGP = -torch.tensor([[rng.uniform(0.5, 30), rng.uniform(0.5, 30)] for _ in range(7)], dtype=torch.float64)
LENGTHS = torch.tensor([[rng.randint(1, 9), rng.randint(1, 9)] for _ in range(7)], dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def rows(values: torch.Tensor) -> list[list[float]]:
    return values.tolist()


def test_dpo():
    expected = [-math.log(sigmoid(0.3 * (c - r))) for c, r in rows(DELTA)]
    assert losses.dpo(DELTA, 0.3).tolist() == pytest.approx(expected)


def test_robust_dpo_is_unbiased():
    """Averaged over labels that are flipped with probability ε it is DPO's loss on the true ones."""
    flip = 0.2
    right, wrong = losses.robust_dpo(DELTA, 0.3, flip), losses.robust_dpo(DELTA.flip(1), 0.3, flip)
    torch.testing.assert_close((1 - flip) * right + flip * wrong, losses.dpo(DELTA, 0.3))
    torch.testing.assert_close(losses.robust_dpo(DELTA, 0.3, 0.0), losses.dpo(DELTA, 0.3))


def test_ipo():
    expected = [(c - r - 1 / (2 * 0.3)) ** 2 for c, r in rows(DELTA)]
    assert losses.ipo(DELTA, 0.3).tolist() == pytest.approx(expected)


def test_kto():
    delta = DELTA[:, 0]
    good = torch.tensor([True, False, True, False, False, True, True])
    found = losses.kto(delta, good, torch.tensor(0.7, dtype=torch.float64), 0.3, (1.0, 1.3))
    expected = [
        1.0 * (1 - sigmoid(0.3 * (d - 0.7))) if g else 1.3 * (1 - sigmoid(0.3 * (0.7 - d)))
        for d, g in zip(delta.tolist(), good.tolist())
    ]
    assert found.tolist() == pytest.approx(expected)


def test_orpo():
    def odds(logp: float, length: float) -> float:
        p = math.exp(logp / length)
        return p / (1 - p)

    expected = [
        -lc / nc - 0.25 * math.log(sigmoid(math.log(odds(lc, nc) / odds(lr, nr))))
        for (lc, lr), (nc, nr) in zip(rows(LOGP), rows(LENGTHS))
    ]
    assert losses.orpo(LOGP, LENGTHS, 0.25).tolist() == pytest.approx(expected)


def test_orpo_of_certain_and_hopeless_answers_is_finite():
    logp = torch.tensor([[0.0, -1e4], [-1e-12, -0.1]], dtype=torch.float64, requires_grad=True)
    found = losses.orpo(logp, torch.ones_like(logp), 0.1)
    found.sum().backward()
    assert found.isfinite().all() and logp.grad is not None and logp.grad.isfinite().all()


def test_simpo():
    expected = [
        -math.log(sigmoid(2.0 * lc / nc - 2.0 * lr / nr - 0.5)) for (lc, lr), (nc, nr) in zip(rows(LOGP), rows(LENGTHS))
    ]
    assert losses.simpo(LOGP, LENGTHS, 2.0, 0.5).tolist() == pytest.approx(expected)


def test_rrhf_by_hand():
    """Three answers: the worst is the likeliest a token, so it is pushed below both others."""
    logp = torch.tensor([-4.0, -6.0, -1.0], dtype=torch.float64)
    lengths = torch.tensor([4.0, 3.0, 2.0], dtype=torch.float64)
    scores = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    # Mean log-probabilities: -1, -2, -0.5. Pairs (worse, better): (2, 0): 0.5; (2, 1): 1.5; (1, 0): 0.
    assert float(losses.rrhf(logp, lengths, scores, 1.0)) == pytest.approx(0.5 + 1.5 + 0.0 + 4.0)
    ties = torch.tensor([3.0, 3.0, 3.0], dtype=torch.float64)
    assert float(losses.rrhf(logp, lengths, ties, 0.0)) == 0


def test_bradley_terry():
    margins = torch.tensor([0.5] * 7, dtype=torch.float64)
    expected = [-math.log(sigmoid(c - r - 0.5)) for c, r in rows(DELTA)]
    assert losses.bradley_terry(DELTA, margins).tolist() == pytest.approx(expected)

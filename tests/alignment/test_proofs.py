"""The proofs hold, on another seed than those of `hanlin prove`, and find out what is wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from hanlin.alignment import losses, policy_losses
from hanlin.alignment.preference import PreferenceSettings, preference_objective
from hanlin.alignment.proofs import by_pairs, by_policy, by_rewards, optima
from hanlin.alignment.proofs.proofs import PROOFS
from hanlin.alignment.proofs.worlds import PAIRS, SHORT, Proof, World

SEED = 7
SMALLER: dict[str, dict[str, Any]] = {
    "ppo": {"steps": 150},
    "rloo": {"steps": 200},
    "grpo": {"steps": 200},
    "k2": {"steps": 150},
    "k3": {"steps": 150},
    "grpo-deviation": {"steps": 150},
    "dpo-convergence": {"labels": (50, 400, 3200), "repeats": 16},
    "ipo-convergence": {"labels": (50, 400, 3200), "repeats": 16},
}
"""To the same bounds (where noise sets them, to its own) with less of everything"""


@pytest.mark.parametrize("name", list(PROOFS))
def test_the_proof_holds(name: str) -> None:
    found = PROOFS[name](SEED, **SMALLER.get(name, {}))
    assert found.holds, found


def test_a_proof_needs_a_small_distance_and_a_control_that_is_far() -> None:
    proof = Proof("x", 0, distance=0.1, control=1.0, bound=0.2, least_control=0.5)
    assert proof.holds
    assert not dataclasses.replace(proof, distance=0.3).holds
    assert not dataclasses.replace(proof, control=0.4).holds
    assert not dataclasses.replace(proof, distance=float("nan")).holds


def test_a_wrong_loss_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these mistakes is small, and none of them makes training fail."""
    with monkeypatch.context() as changed:
        plain = losses.dpo
        changed.setattr(losses, "dpo", lambda delta, beta: plain(delta, 1.1 * beta))
        assert not PROOFS["dpo"](SEED).holds
    with monkeypatch.context() as changed:
        changed.setattr(losses, "ipo", lambda delta, beta: (delta[:, 0] - delta[:, 1] - 1 / beta).square())
        assert not PROOFS["ipo"](SEED).holds
    with monkeypatch.context() as changed:
        ranked = losses.rrhf
        changed.setattr(losses, "rrhf", lambda logp, lengths, *rest: ranked(logp, torch.ones_like(lengths), *rest))
        assert not PROOFS["rrhf"](SEED).holds
    with monkeypatch.context() as changed:
        fitted = losses.bradley_terry
        changed.setattr(losses, "bradley_terry", lambda rewards, margins=None: fitted(1.05 * rewards, margins))
        assert not PROOFS["reward"](SEED).holds
        assert not PROOFS["reward-centring"](SEED).holds
    with monkeypatch.context() as changed:
        measured = policy_losses.estimate
        changed.setattr(policy_losses, "estimate", lambda p, q, name: measured(p, q, "k3" if name == "k2" else name))
        assert not by_policy.estimator("k2")(SEED, steps=100).holds


@pytest.mark.parametrize("settings", [by_pairs.dpo_settings(), by_pairs.ipo_settings()])
def test_labels_of_a_pair_count_alike_as_its_share_and_as_rows(settings: PreferenceSettings) -> None:
    """Loss and gradient of 21 pairs with five labels each are those of 105 rows."""
    world = World.drawn(PAIRS, SEED)
    share = by_pairs.share_won(optima.preferred(world.rewards), torch.tensor([5]), SEED)
    together = by_pairs.all_pairs(PAIRS, share, world.base)
    answers = [
        number
        for first, second in PAIRS.pairs
        for label in range(5)
        for number in ((first, second) if label < round(5 * float(share[0, first, second])) else (second, first))
    ]
    apart = PAIRS.sequences([0] * len(answers), answers, [2] * (len(answers) // 2))
    apart.of_sequence = {
        "reference": world.base[0, answers].log(),
        "scores": torch.tensor([1.0, 0.0]).repeat(len(answers) // 2),
    }
    found: list[tuple[float, Any]] = []
    for batch in (together, apart):
        policy = World.drawn(PAIRS, SEED + 1).policy()
        parts = preference_objective(settings)(policy, batch)
        (parts.loss_sum / parts.tokens).backward()
        found.append((float(parts.loss_sum.detach() / parts.tokens), policy.table.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-12, atol=1e-15)


def test_expected_accuracy_is_that_of_labels_and_greatest_for_the_true_rewards() -> None:
    world = World.drawn(SHORT, SEED)
    chance = optima.preferred(world.rewards)
    best = by_rewards.expected_accuracy(world.rewards, chance, SHORT)
    first, second = torch.tensor(SHORT.pairs).unbind(1)
    p = chance[:, first, second]
    assert best == pytest.approx(float(torch.maximum(p, 1 - p).mean()))
    assert by_rewards.expected_accuracy(torch.zeros(2, 15), chance, SHORT) == 0.5
    assert by_rewards.expected_accuracy(-world.rewards, chance, SHORT) == pytest.approx(1 - best)
    other = World.drawn(SHORT, SEED + 1).rewards
    drawn = torch.rand(4_000, *p.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) < p
    right = (drawn == (other[:, first] > other[:, second])).double().mean()
    assert float(right) == pytest.approx(by_rewards.expected_accuracy(other, chance, SHORT), abs=0.003)

"""The figures of the health report, by hand, by brute force, and on rewards that are wrong in a known way."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from hanlin.alignment import health
from hanlin.alignment.distance import Distance, shrunk_covariance
from hanlin.alignment.health import HeldOut
from hanlin.artifacts import HanlinError
from hanlin.evaluation.statistics import wilson


def held(*members: list[tuple[float, float]], lengths: Any = None, prompts: Any = None, **more: Any) -> HeldOut:
    rewards = np.array(members, np.float64)
    count = rewards.shape[1]
    sizes = np.array(lengths if lengths is not None else [(1, 1)] * count, np.float64)
    return HeldOut(rewards, sizes, prompts or list(range(count)), **more)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_accuracy_counts_a_tie_as_half_and_has_wilsons_interval() -> None:
    found = health.accuracy(np.array([1.0, 2.0, -1.0, 3.0]))
    expected = wilson(3, 4)
    assert (found["value"], found["low"], found["high"]) == (expected.value, expected.low, expected.high)
    assert health.accuracy(np.array([1.0, 0.0, -1.0]))["value"] == 0.5
    assert health.accuracy(np.array([]))["value"] is None


def test_pairs_of_one_prompt_are_not_counted_as_independent() -> None:
    """Twenty prompts of ten pairs that stand and fall together: the interval is that of 20, not of 200."""
    gaps = np.repeat(np.where(np.arange(20) < 14, 1.0, -1.0), 10)
    prompts = [number // 10 for number in range(200)]
    together, apart = health.accuracy(gaps, prompts), health.accuracy(gaps)
    assert together["value"] == apart["value"] == 0.7 and together["n"] == 200 and together["prompts"] == 20
    few = wilson(14, 20)
    assert together["high"] - together["low"] == pytest.approx(few.high - few.low, rel=0.25)
    assert together["high"] - together["low"] > 2 * (apart["high"] - apart["low"])
    # All right: still no certainty.
    assert health.accuracy(np.ones(200), prompts)["low"] == pytest.approx(wilson(20, 20).low)


@pytest.mark.parametrize(
    ("hits", "n", "share"), [(7, 10, 0.5), (40, 50, 0.7), (0, 5, 0.2), (5, 5, 0.9), (90, 130, 0.7)]
)
def test_the_binomial_tail_is_exact(hits: int, n: int, share: float) -> None:
    p = Fraction(share)
    exact = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(hits, n + 1))
    assert health.binomial_above(hits, n, share) == pytest.approx(float(exact), rel=1e-9)


def test_the_gate_asks_for_evidence_and_takes_one_pair_a_prompt() -> None:
    right = np.ones(30)
    assert health.accuracy_gate(right, list(range(30)), 0.9, 0.05)["passed"]
    # Thirty pairs of three prompts show no more than three would.
    shared = health.accuracy_gate(right, [number % 3 for number in range(30)], 0.9, 0.05)
    assert not shared["passed"] and shared["n"] == 3 and shared["p_value"] == pytest.approx(0.9**3)
    # Above the threshold, but not shown to be.
    close = health.accuracy_gate(np.where(np.arange(10) < 8, 1.0, -1.0), list(range(10)), 0.7, 0.05)
    assert close["after"] == 0.8 and not close["passed"]


def test_calibration_by_hand() -> None:
    gaps = np.array([0.1, -0.1, 3.0, 3.0, -3.0])
    found = health.calibration(gaps)
    low, high = sigmoid(0.1), sigmoid(3.0)
    assert [row["n"] for row in found["reliability"]] == [2, 3]
    assert [row["accuracy"] for row in found["reliability"]] == pytest.approx([0.5, 2 / 3])
    assert [row["confidence"] for row in found["reliability"]] == pytest.approx([low, high])
    assert found["error"] == pytest.approx((2 * (low - 0.5) + 3 * (high - 2 / 3)) / 5)
    chance = 2 * math.sqrt(low * (1 - low) / 2) + 3 * math.sqrt(high * (1 - high) / 3)
    assert found["error_by_chance"] == pytest.approx(math.sqrt(2 / math.pi) * chance / 5)
    losses = [math.log1p(math.exp(-gap)) for gap in gaps]
    assert found["log_loss"] == pytest.approx(sum(losses) / 5)
    assert found["brier"] == pytest.approx(sum((1 - sigmoid(gap)) ** 2 for gap in gaps) / 5)
    nothing = health.calibration(np.zeros(4))
    assert nothing["log_loss"] == pytest.approx(math.log(2)) and nothing["brier"] == 0.25 and nothing["error"] == 0


def test_a_calibrated_model_has_no_error_and_an_overconfident_one_has() -> None:
    rng = np.random.default_rng(0)
    gaps = rng.normal(0, 2, 20_000)
    labelled = np.where(rng.random(20_000) < 1 / (1 + np.exp(-gaps)), gaps, -gaps)
    assert health.calibration(labelled)["error"] < 0.015
    few = [health.calibration(part) for part in labelled.reshape(200, 100)]
    observed, by_chance = (float(np.mean([one[name] for one in few])) for name in ("error", "error_by_chance"))
    assert observed == pytest.approx(by_chance, rel=0.1)
    assert health.calibration(4 * labelled)["error"] > 0.1


def test_a_reward_that_is_the_length_is_found_out() -> None:
    lengths = [(5, 3), (8, 2), (4, 9), (7, 6)]
    found = health.length(held([(float(a), float(b)) for a, b in lengths], lengths=lengths))
    assert found["rule"] == "longer" and found["baseline"]["value"] == 0.75
    assert found["pearson"] == pytest.approx(1) and found["spearman"] == pytest.approx(1)
    assert found["within"] == pytest.approx(1)
    assert found["against"]["value"] == 0 and found["against"]["n"] == 1
    constant = health.length(held([(1.0, 0.0)] * 2, lengths=[(3, 3), (3, 3)]))
    assert constant["pearson"] is None and constant["baseline"]["value"] == 0.5


def test_correlations_against_numpy() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 6, 50).astype(float), rng.normal(size=50)
    assert health.correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert health.ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
    brute = [1 + sum(b < a for b in x) + (sum(b == a for b in x) - 1) / 2 for a in x]
    assert health.ranks(x).tolist() == brute


def test_accuracy_by_tag_and_by_margin() -> None:
    tags = [{"reason": "sum"}, {"reason": "sum", "kind": "x"}, {"reason": "fact"}, {}]
    one = held([(1, 0), (0, 1), (1, 0), (1, 0)], tags=tags, margins=[1.0, 1.0, 2.5, None])
    found = health.by_tag(one)
    assert {name: part["value"] for name, part in found.items()} == {
        "reason: sum": 0.5, "reason: fact": 1.0, "reason: none": 1.0, "kind: x": 0.0, "kind: none": 1.0,
    }  # fmt: skip
    margins = health.by_margin(one)
    assert {name: (part["value"], part["n"]) for name, part in margins.items()} == {
        "1": (0.5, 2), "2.5": (1.0, 1), "none": (1.0, 1),
    }  # fmt: skip
    many = held([(1, 0)] * 40, margins=[float(number) for number in range(40)])
    quarters = health.by_margin(many)
    assert [part["n"] for part in quarters.values()] == [10] * 4
    assert health.by_margin(held([(1, 0)] * 3, margins=[1.0] * 3)) == {}
    sorts = held([(1, 0)] * 40, tags=[{"source": f"s{number % 20}"} for number in range(40)])
    assert sum(part["n"] for part in health.by_tag(sorts).values()) == 40 and len(health.by_tag(sorts)) == 13


def test_the_ceiling_is_what_is_known() -> None:
    assert health.bayes_ceiling([None], 0.1, True) == {"value": 0.9, "from": "label_noise"}
    assert health.bayes_ceiling([0.8, 0.6], None, False)["value"] == pytest.approx(0.7)
    assert health.bayes_ceiling([0.8, None], None, False)["value"] is None
    assert health.bayes_ceiling([None, None], None, True)["value"] == 1
    report = health.examine(held([(1, 0)] * 8 + [(0, 1)] * 2), {"value": 0.9, "from": "x"})
    assert report["accuracy"]["within_interval"] and report["accuracy"]["short_by"] == pytest.approx(0.1)
    report = health.examine(held([(0, 1)] * 10), {"value": 0.95, "from": "x"})
    assert not report["accuracy"]["within_interval"]


def test_the_ensemble_tells_where_it_disagrees() -> None:
    one = held([(1, 0), (2, 0), (0, 1)], [(1, 0), (0, 1), (0, 3)])
    found = health.ensemble(one)
    assert found["each"] == pytest.approx([2 / 3, 1 / 3]) and found["agree"] == pytest.approx(2 / 3)
    assert found["accuracy"]["value"] == pytest.approx(2 / 3)  # gaps together: 1, 0.5, -2
    assert found["accuracy_agreed"] == 0.5 and found["accuracy_disputed"] == 1.0
    deviations = [0.0, 3 / math.sqrt(2), 2 / math.sqrt(2)]
    assert found["spread"] == pytest.approx(sum(deviations) / 3)
    assert found["spread_share"] == pytest.approx(sum(deviations) / 3 / (3.5 / 3))


def test_shrinkage_against_the_formula_written_out() -> None:
    torch.manual_seed(0)
    size, n = 6, 25
    x = torch.randn(n, size, dtype=torch.float64) * torch.linspace(0.5, 2, size) + 3
    mean = x.mean(0)
    found, weight = shrunk_covariance(x, mean)
    outer = [torch.outer(row - mean, row - mean) for row in x]
    sample = torch.stack(outer).mean(0)
    level, identity = sample.trace() / size, torch.eye(size, dtype=torch.float64)
    away = ((sample - level * identity) ** 2).sum()
    noise = sum(((one - sample) ** 2).sum() for one in outer) / n**2
    assert weight == pytest.approx(float(min(noise, away) / away), rel=1e-9)
    expected = (1 - weight) * sample + weight * level * identity
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_distance_is_about_one_where_it_was_fitted_and_grows_with_drift(tmp_path: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(24, 24, generator=generator)
    draw = torch.randn(3000, 24, generator=generator) @ mix + 5
    distance = Distance.fit(draw[:2000])
    away = distance.of(draw[2000:])
    assert float(away.square().mean()) == pytest.approx(1, abs=0.1)
    covariance, _ = shrunk_covariance(draw[:2000], distance.mean)
    row = draw[2000].double() - distance.mean
    brute = (row @ torch.linalg.inv(covariance) @ row / 24).sqrt()
    assert float(away[0]) == pytest.approx(float(brute), rel=1e-9)

    usual = distance.usual(away)
    usual.save(tmp_path / "distance.safetensors")
    again = Distance.load(tmp_path / "distance.safetensors")
    assert torch.equal(again.of(draw[2000:]), away) and torch.equal(again.held_out, usual.held_out)
    same, far = again.drift(away), again.drift(again.of(draw[2000:] + 3 * mix[0]))
    assert same["beyond"] == pytest.approx(0.01, abs=0.002) and same["median_ratio"] == pytest.approx(1, abs=1e-3)
    assert far["beyond"] > 0.05 and far["mean"] > same["mean"]
    with pytest.raises(HanlinError, match="can't be read"):
        Distance.load(tmp_path / "other.safetensors")


def test_fewer_answers_than_dimensions_still_make_a_distance() -> None:
    distance = Distance.fit(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(distance.of(torch.randn(5, 16))).all()
    same = Distance.fit(torch.ones(4, 16))
    assert same.of(torch.ones(1, 16)).item() == 0 and same.of(torch.zeros(1, 16)).item() == 1
    with pytest.raises(HanlinError, match="two answers"):
        Distance.fit(torch.ones(1, 16))

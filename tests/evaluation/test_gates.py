"""Verdicts on a model before and after."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from hanlin.artifacts import HanlinError
from hanlin.evaluation.gates import Gate, decide


def answers(right: int, of: int, start: int = 0) -> dict[str, dict[str, float]]:
    return {f"q{n}": {"accuracy": float(start <= n < start + right), "accuracy_per_byte": 0.0} for n in range(of)}


def bits(per_byte: float, noise: float = 0.05, documents: int = 40, seed: int = 0) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    sizes = np.random.default_rng(99).integers(200, 2_000, documents)
    return {
        f"d{n}": {"bits": float(size * (per_byte + rng.normal(0, noise))), "bytes": float(size)}
        for n, size in enumerate(sizes)
    }


def test_better_passes_on_a_gain_and_stops_without_one() -> None:
    gate = Gate(task="quiz", require="better")
    verdict = decide(gate, answers(50, 200), answers(90, 200), "base")
    assert verdict["passed"] and verdict["metric"] == "accuracy" and verdict["n"] == 200
    assert (verdict["before"], verdict["after"], verdict["difference"]) == (0.25, 0.45, pytest.approx(0.2))
    assert verdict["low"] < 0.2 < verdict["high"] and verdict["p_value"] == pytest.approx(0.5**40)
    assert verdict["text"].startswith("quiz, accuracy: 0.25 (base) → 0.45, difference +0.2 (95 % interval +0.1")
    for after in (answers(50, 200), answers(52, 200), answers(40, 200)):
        verdict = decide(gate, answers(50, 200), after, "base")
        assert not verdict["passed"] and "it asks for a gain at p < 0.05" in verdict["text"]
    assert not decide(Gate(task="quiz", require="better", margin=0.19), answers(50, 200), answers(90, 200), "base")[
        "passed"
    ]
    assert decide(Gate(task="quiz", require="better", margin=0.1), answers(50, 200), answers(90, 200), "base")["passed"]


def test_not_worse_rules_out_a_loss() -> None:
    gate = Gate(task="quiz", require="not-worse", margin=0.05)
    assert decide(gate, answers(100, 300), answers(100, 300), "base")["passed"]
    assert not decide(gate, answers(100, 300), answers(70, 300), "base")["passed"]
    # The same share right, but on other items, and few: a loss of five points can't be ruled out.
    assert not decide(gate, answers(10, 30), answers(10, 30, start=10), "base")["passed"]


def test_bits_per_byte_is_better_when_lower() -> None:
    better, not_worse = Gate(task="t", require="better"), Gate(task="t", require="not-worse", margin=0.05)
    verdict = decide(better, bits(2.0), bits(1.8, seed=1), "base")
    assert (
        verdict["passed"]
        and verdict["metric"] == "bits_per_byte"
        and verdict["difference"] == pytest.approx(-0.2, abs=0.03)
    )
    assert verdict["low"] < verdict["difference"] < verdict["high"] < 0 and verdict["test"] == "sign-flip permutation"
    assert not decide(better, bits(1.8), bits(2.0, seed=1), "base")["passed"]
    assert not decide(Gate(task="t", require="better", margin=0.3), bits(2.0), bits(1.8, seed=1), "base")["passed"]
    assert decide(not_worse, bits(2.0), bits(2.0, seed=1), "base")["passed"]
    assert not decide(not_worse, bits(2.0), bits(2.1, seed=1), "base")["passed"]


def test_only_items_that_both_were_asked_are_compared() -> None:
    before = dict(list(answers(50, 200).items())[:60])
    assert decide(Gate(task="quiz", require="better"), before, answers(60, 200), "base")["n"] == 60
    cut = bits(2.0)
    cut["d0"] = {"bits": 10.0, "bytes": 5.0}  # the same document, cut elsewhere
    assert decide(Gate(task="t", require="better"), cut, bits(1.0), "base")["n"] == 39
    with pytest.raises(HanlinError, match="not asked a single item in common"):
        decide(Gate(task="quiz", require="better"), {}, answers(1, 5), "base")


def test_wrong_gates_are_explained() -> None:
    with pytest.raises(HanlinError, match=r"no metric 'acc'. Metrics: accuracy, accuracy_per_byte"):
        decide(Gate(task="quiz", metric="acc", require="better"), answers(5, 9), answers(6, 9), "base")
    with pytest.raises(HanlinError, match="Metrics: bits_per_byte"):
        decide(Gate(task="quiz", metric="accuracy", require="better"), bits(1), bits(1), "base")
    with pytest.raises(HanlinError, match="one document alone"):
        decide(Gate(task="quiz", require="better"), bits(1, documents=1), bits(1, documents=1), "base")
    with pytest.raises(ValidationError, match="needs a `margin` above 0"):
        Gate(task="quiz", require="not-worse")


def test_a_useless_stage_seldom_passes() -> None:
    """Under "no change", at most alpha of the gates pass."""
    rng = np.random.default_rng(7)
    passed = 0
    for _ in range(2_000):
        before, after = (
            {f"q{n}": {"accuracy": float(mark)} for n, mark in enumerate(rng.integers(0, 2, 60))} for _ in range(2)
        )
        passed += decide(Gate(task="quiz", require="better"), before, after, "base")["passed"]
    assert passed / 2_000 <= 0.055


def scores(low: int, of: int = 60, worth: float = 0.5) -> dict[str, dict[str, float]]:
    """Of `of` replies, `low` are worth little; every other item is one to decline."""
    return {
        f"q{n}": {
            "score": worth if n < low else 1.0,
            "accuracy": float(n >= low),
            **({"complied": float(n < low)} if n % 2 else {}),
        }
        for n in range(of)
    }


def test_scores_between_0_and_1_are_compared() -> None:
    verdict = decide(Gate(task="world/replies", require="better", alpha=0.01), scores(30), scores(10), "sft")
    assert verdict["passed"] and verdict["metric"] == "score" and verdict["test"] == "sign-flip permutation"
    assert (verdict["before"], verdict["after"]) == (pytest.approx(0.75), pytest.approx(55 / 60))
    assert verdict["difference"] == pytest.approx(20 * 0.5 / 60) and verdict["low"] > 0
    # Twenty items rose and none fell: all but 2^-20 of the sign patterns are below, and as many as are drawn.
    assert verdict["p_value"] == pytest.approx(1 / 10_001)
    assert not decide(Gate(task="t", require="better"), scores(10), scores(30), "sft")["passed"]
    assert not decide(Gate(task="t", require="better"), scores(10), scores(10), "sft")["passed"]
    few = decide(Gate(task="t", require="better"), scores(14), scores(10), "sft")
    assert few["p_value"] == pytest.approx(1 / 16) and not few["passed"]
    not_worse = Gate(task="t", metric="score", require="not-worse", margin=0.05)
    assert decide(not_worse, scores(20, 300), scores(20, 300), "sft")["passed"]
    assert decide(not_worse, scores(20, 300), scores(20, 300), "sft")["test"] == "score test"
    assert not decide(not_worse, scores(5, 300), scores(60, 300), "sft")["passed"]


def test_a_failing_is_better_when_rarer_and_counted_over_its_own_items() -> None:
    better = Gate(task="t", metric="complied", require="better")
    verdict = decide(better, scores(30), scores(10), "sft")
    assert verdict["passed"] and verdict["n"] == 30 and verdict["test"] == "exact McNemar"
    assert (verdict["before"], verdict["after"], verdict["difference"]) == (0.5, pytest.approx(1 / 6), -1 / 3)
    assert verdict["low"] < -1 / 3 < verdict["high"] < 0 and verdict["p_value"] == pytest.approx(0.5**10)
    assert not decide(better, scores(10), scores(30), "sft")["passed"]
    not_worse = Gate(task="t", metric="complied", require="not-worse", margin=0.1)
    assert decide(not_worse, scores(10, 400), scores(10, 400), "sft")["passed"]
    assert not decide(not_worse, scores(10), scores(40), "sft")["passed"]
    with pytest.raises(HanlinError, match=r"no metric 'invented'. Metrics: score, accuracy, complied"):
        decide(Gate(task="t", metric="invented", require="better"), scores(10), scores(10), "sft")

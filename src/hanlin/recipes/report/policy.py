"""The curves that people look for in alignment: reward against distance, length, entropy, accuracy and margin."""

from __future__ import annotations

import math
from typing import Any

from hanlin.recipes.report.svg import Chart, Line

SHOWN = {
    "accuracy": "Pairs in the right order (training)",
    "margin": "Margin of implicit rewards",
    "entropy": "Entropy (nats a token)",
    "clipped": "Share of tokens that were clipped",
    "kl_old": "KL from the policy that sampled (nats a token)",
    "value_loss": "The critic's loss",
}
"""What objectives measure, with a title: the charts that are drawn, in this order."""


def policy_charts(figures: dict[str, Any]) -> list[dict[str, str]]:
    """Charts of a stage that learned from preferences or from its own answers; none for others."""
    rollouts: list[dict[str, float]] = figures.get("rollouts") or []
    charts = _rollout_charts(rollouts, figures.get("overoptimisation")) if rollouts else []
    curves = figures.get("curves") or {}
    known: dict[str, list[float | None]] = curves.get("objective", {})
    charts += [
        Chart(title, "step", [Line(name, curves["step"], known[name], "c")])
        for name, title in SHOWN.items()
        if name in known
    ]
    return [{"title": chart.title, "svg": drawn} for chart in charts if (drawn := chart.svg())]


def _rollout_charts(rollouts: list[dict[str, float]], fit: dict[str, Any] | None) -> list[Chart]:
    steps = [row["step"] for row in rollouts]
    rewards = [name for name in ("reward", "reward_model", "reward_program", "gold") if name in rollouts[0]]
    lines = [Line(name, steps, [row[name] for row in rollouts], style) for name, style in zip(rewards, "abcd")]
    by_distance = sorted(rollouts, key=lambda row: row["kl_answer"])
    distance = [math.sqrt(max(0.0, row["kl_answer"])) for row in by_distance]
    against = [
        Line(name, distance, [row[name] for row in by_distance], style, dots=True)
        for name, style in zip(rewards, "abcd")
    ]
    if fit is not None:
        places = [distance[-1] * place / 60 for place in range(1, 61)]
        fitted = [fit["start"] + d * (fit["alpha"] - fit["beta"] * math.log(d)) for d in places if d > 0]
        against.append(Line(f"fit of {fit['measure']}", places, fitted, "d"))
    return [
        Chart("Reward of the answers", "step", lines),
        Chart("Reward against distance (square root of KL an answer, nats)", "distance", against),
        Chart(
            "KL from the reference (nats an answer)", "step", [Line("kl", steps, [r["kl_answer"] for r in rollouts])]
        ),
        Chart("Length of the answers (tokens)", "step", [Line("length", steps, [r["length"] for r in rollouts], "b")]),
    ]

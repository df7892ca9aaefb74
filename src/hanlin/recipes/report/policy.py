"""The curves that people look for in alignment: reward against distance, length, entropy, accuracy and margin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.alignment.overoptimisation import LEAST_POINTS, Form, fit_curve, fitted, measured
from hanlin.recipes.report.svg import Chart, Line, draw

SHOWN = {
    "accuracy": "Pairs in the right order (training)",
    "margin": "Margin of rewards between the two answers",
    "entropy": "Entropy (nats a token)",
    "clipped": "Share of tokens that were clipped",
    "kl_old": "KL from the policy that sampled (nats a token)",
    "value_loss": "The critic's loss",
    "text_loss": "Loss on pretraining text (nats a token)",
}
"""What objectives measure, with a title: the charts that are drawn, in this order."""

REWARDS = ("reward", "reward_model", "reward_program")
"""What is optimised, and its parts."""

FIT = {
    "start": "start",
    "alpha": "α",
    "alpha_error": "its error",
    "beta": "β",
    "beta_error": "its error",
    "rms": "residual",
}
"""Figures of a fit, with their columns."""

Rows = Sequence[Mapping[str, Any]]


def policy_charts(about: dict[str, Any]) -> list[dict[str, Any]]:
    """Charts of a stage that learned from preferences or from its own answers, from its figures; none for others."""
    rollouts: Rows = about.get("rollouts") or []
    charts = _over_steps(rollouts) + against_distance(rollouts, "rl")
    curves = about.get("curves") or {}
    known: dict[str, list[float | None]] = curves.get("objective", {})
    charts += [
        Chart(title, "step", [Line(name, curves["step"], known[name], "c")])
        for name, title in SHOWN.items()
        if name in known
    ]
    return draw(charts)


def policy_tables(about: dict[str, Any]) -> dict[str, Any]:
    """Gao's fit to a policy's rewards as a table; none for other stages."""
    rollouts: Rows = about.get("rollouts") or []
    return fit_table(rollouts, "rl") if rollouts else {}


def policy_notes(about: dict[str, Any]) -> list[str]:
    """In words, whether the gold reward fell while the reward rose."""
    rollouts: Rows = about.get("rollouts") or []
    proxy, gold = fit_curve(rollouts, "reward"), fit_curve(rollouts, "gold")
    if proxy is None or gold is None:
        return []
    courses = {"rises": "still rises", "falls": "falls", "level": "neither rises nor falls beyond its error"}
    both = (
        f"By Gao's curves, at the largest distance (KL {proxy['farthest'] ** 2:.3g} nats an answer) the reward "
        f"{courses[proxy['course']]}, and the gold reward {courses[gold['course']]}"
    )
    if gold["course"] != "falls" or proxy["course"] == "falls":
        return [f"{both}."]
    peak = gold["peak_kl"]
    best = f", beyond KL {peak:.3g}" if peak is not None and peak <= gold["farthest"] ** 2 else ""
    return [f"{both}: the reward is over-optimised{best}."]


def against_distance(rows: Rows, form: Form) -> list[Chart]:
    """A chart for each of the rewards that `rows` have, over sqrt(KL), with Gao's curve where it can be fitted."""
    charts: list[Chart] = []
    for name, title, style in (("reward", "Reward", "a"), ("gold", "Gold reward", "b")):
        points = measured(rows, name)
        lines = [Line(name, [d for d, _ in points], [y for _, y in points], style, joined=False)]
        fit = fit_curve(rows, name, form)
        if fit is not None:
            places = [fit["farthest"] * place / 80 for place in range(81)]
            lines.append(Line("Gao's curve, fitted", places, [fitted(fit, place) for place in places], "d"))
        charts.append(Chart(f"{title} against distance", "square root of KL (nats an answer)", lines))
    return charts


def fit_table(rows: Rows, form: Form) -> dict[str, Any]:
    """The coefficients of Gao's curve for the rewards that `rows` have, or why there are none, by the table's title."""
    curve = "d (α - β log d)" if form == "rl" else "d (α - β d)"
    lines: list[list[Any]] = []
    for name in ("reward", "gold"):
        points = measured(rows, name)
        if not points:
            continue
        fit = fit_curve(rows, name, form)
        if fit is None:
            distances = len({d for d, _ in points})
            why = f"{distances} distances, and a fit needs {LEAST_POINTS}"
            if distances >= LEAST_POINTS:
                why = "the distances lie too close to tell the coefficients apart"
            lines.append([name, len(points), *[None] * (len(FIT) + 1), f"no fit: {why}"])
            continue
        lines.append([name, fit["points"], *(fit[key] for key in FIT), fit["peak_kl"], fit["course"]])
    columns = ["", "points", *FIT.values(), "highest at KL", "at the largest distance"]
    return {f"Gao's curve: start + {curve}, d = √KL": {"columns": columns, "rows": lines}} if lines else {}


def _over_steps(rollouts: Rows) -> list[Chart]:
    """What each rollout measured, over steps; a chart for what at least one of them has."""
    steps = [float(row["step"]) for row in rollouts]

    def line(name: str, style: str = "a") -> Line:
        return Line(name, steps, [row.get(name) for row in rollouts], style)

    def changes(name: str) -> bool:
        return len({row.get(name) for row in rollouts}) > 1

    charts = [
        Chart("Reward of the answers", "step", [line(name, style) for name, style in zip(REWARDS, "acd")]),
        Chart("Gold reward of the answers (not learned from)", "step", [line("gold", "b")]),
        Chart("KL from the reference (nats an answer)", "step", [line("kl_answer")]),
        Chart("KL from the reference (nats a token)", "step", [line("kl_token")]),
        Chart("Length of the answers (tokens)", "step", [line("length")]),
        Chart("Drift from the reward model's training answers (1: as held-out ones)", "step", [line("drift", "d")]),
        Chart("Share of answers farther away than 99 of 100 held-out ones", "step", [line("drift_beyond", "d")]),
        Chart("Disagreement of the reward models (deviation)", "step", [line("reward_spread", "d")]),
    ]
    if changes("ended"):
        charts.append(Chart("Share of answers that ended by themselves", "step", [line("ended")]))
    if changes("coefficient"):
        charts.append(Chart("Price of KL (β)", "step", [line("coefficient")]))
    return charts

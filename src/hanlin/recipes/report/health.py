"""A reward model's health report on the page: its tables, and how far its confidence is to be believed."""

from __future__ import annotations

from typing import Any

from hanlin.recipes.report.svg import Chart, Line, draw


def health_tables(figures: dict[str, Any]) -> dict[str, Any]:
    """Tables by title from the figures of a stage with a health report; none for another."""
    health: dict[str, Any] | None = figures.get("health")
    if not health:
        return {}
    gates = [["passed" if gate["passed"] else "failed", gate["text"]] for gate in figures.get("gates", [])]
    calibration = dict(health["calibration"])
    reliability: list[dict[str, Any]] = calibration.pop("reliability")
    length: dict[str, Any] = health["length"]
    facts = [
        *((f"calibration: {name}", value) for name, value in calibration.items()),
        *((f"length: {name}", value) for name, value in length.items() if not isinstance(value, dict)),
        *((f"layouts: {name}", value) for name, value in health["layouts"].items()),
        *(
            (f"ensemble: {name}", value)
            for name, value in health.get("ensemble", {}).items()
            if not isinstance(value, dict | list)
        ),
    ]
    spreads = {**health["rewards"], "distance from training": health["distance"]["held_out"]}
    shares = list(health["rewards"]["chosen"])
    return {
        "gates": {"columns": ["", ""], "rows": gates},
        "held-out accuracy": {
            "columns": ["", "accuracy", "low", "high", "pairs"],
            "rows": [
                [name, part["value"], part["low"], part["high"], part["n"]]
                for name, part in _accuracies(health).items()
            ],
        },
        "health": {"columns": ["", ""], "rows": [[name.replace("_", " "), value] for name, value in facts]},
        "rewards": {
            "columns": ["", *shares],
            "rows": [[name, *(part[share] for share in shares)] for name, part in spreads.items()],
        },
        "reliability": {
            "columns": list(reliability[0]),
            "rows": [list(row.values()) for row in reliability],
        },
    }


def reliability_chart(health: dict[str, Any] | None) -> list[dict[str, Any]]:
    """How often the answer with the higher reward is the better one, by the confidence in it."""
    if not health:
        return []
    rows = health["calibration"]["reliability"]
    lines = [
        Line("accuracy", [row["confidence"] for row in rows], [row["accuracy"] for row in rows], "b", dots=True),
        Line("confidence", [0.5, 1.0], [0.5, 1.0], "a"),
    ]
    return draw([Chart("Held-out accuracy by confidence", "confidence", lines)])


def _accuracies(health: dict[str, Any]) -> dict[str, dict[str, Any]]:
    whole, length = health["accuracy"], health["length"]
    best: dict[str, Any] = {"value": whole["ceiling"], "low": None, "high": None, "n": None}
    found = {"all pairs": whole, f"ceiling ({whole['ceiling_from']})": best}
    found |= health["by_tag"]
    found |= {f"margin {name}": part for name, part in health["by_margin"].items()}
    found |= {
        f'"{length["rule"]} is better" alone': length["baseline"],
        f'pairs where "{length["rule"]} is better" is wrong': length["against"],
    }
    if "ensemble" in health:
        found["the ensemble's mean"] = health["ensemble"]["accuracy"]
    return found

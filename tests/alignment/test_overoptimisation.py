"""Gao's curve: its coefficients come back, with honest errors, and never from too few points."""

import math
import random

import pytest

from hanlin.alignment.overoptimisation import LEAST_POINTS, fit_curve, fitted, measured

KLS = (0.0, 0.05, 0.2, 0.7, 1.5, 4.0, 9.0, 20.0)


def curve(alpha, beta, start, kls=KLS, noise=0.0, seed=0, name="gold"):
    chance = random.Random(seed)
    rows = []
    for kl in kls:
        d = math.sqrt(kl)
        value = start + d * (alpha - beta * math.log(d)) if d else start
        rows.append({"kl_answer": kl, name: value + chance.gauss(0, noise)})
    return rows


def test_the_coefficients_are_found_again():
    found = fit_curve(curve(1.2, 0.5, 0.3), "gold")
    assert found is not None
    assert (found["alpha"], found["beta"], found["start"]) == pytest.approx((1.2, 0.5, 0.3))
    assert found["rms"] == pytest.approx(0, abs=1e-9) and found["peak_kl"] == pytest.approx(math.exp(2 * (2.4 - 1)))
    best = [{"kl_answer": d * d, "reward": d * (2 - 0.5 * d)} for d in (0.0, 0.2, 0.5, 1.0, 1.5, 3.0)]
    found = fit_curve(best, "reward", "best-of-n")
    assert found is not None and found["peak_kl"] == pytest.approx(4)
    assert (found["slope"], found["course"]) == (pytest.approx(2 - 2 * 0.5 * 3), "falls")


@pytest.mark.parametrize("form", ["rl", "best-of-n"])
def test_the_curve_goes_through_its_points_and_the_slope_is_its_derivative(form):
    rows = curve(1.2, 0.5, 0.3)
    found = fit_curve(rows, "gold", form)
    assert found is not None
    if form == "rl":
        assert [fitted(found, math.sqrt(row["kl_answer"])) for row in rows] == pytest.approx(
            [row["gold"] for row in rows]
        )
    d, step = found["farthest"], 1e-5
    by_difference = (fitted(found, d + step) - fitted(found, d - step)) / (2 * step)
    assert found["slope"] == pytest.approx(by_difference, rel=1e-5)


def test_the_errors_are_those_of_repeated_fits():
    fits = [fit_curve(curve(1.2, 0.5, 0.3, noise=0.05, seed=seed), "gold") for seed in range(400)]
    for name in ("alpha", "beta", "slope"):
        values = [fit[name] for fit in fits if fit]
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
        told = math.sqrt(sum(fit[f"{name}_error"] ** 2 for fit in fits if fit) / len(values))
        assert told == pytest.approx(spread, rel=0.15)


def test_a_course_is_told_only_beyond_its_error():
    for alpha, beta, noise, told in ((0.2, 0.5, 0.01, "falls"), (3.0, 0.1, 0.01, "rises"), (0.0, 0.0, 0.2, "level")):
        fit = fit_curve(curve(alpha, beta, 0.3, noise=noise), "gold")
        assert fit is not None and fit["course"] == told


def test_too_few_points_give_no_fit():
    rows = curve(1.2, 0.5, 0.3)
    assert fit_curve(rows[:LEAST_POINTS], "gold") is not None
    assert fit_curve(rows[: LEAST_POINTS - 1], "gold") is None
    assert fit_curve([], "gold") is None
    # The same distance again is no other point, and all that is below 0 is at 0.
    assert fit_curve([rows[3]] * 20, "gold") is None
    assert fit_curve([{"kl_answer": -0.1 * place, "gold": 1.0} for place in range(20)], "gold") is None
    assert fit_curve(rows, "reward") is None


def test_points_without_a_number_are_left_out():
    rows = [{"kl_answer": 4.0, "gold": 1.0}, {"kl_answer": 1.0, "gold": math.nan}, {"gold": 2.0}, {"kl_answer": 1.0}]
    assert measured([*rows, {"kl_answer": -1e-9, "gold": 3.0}], "gold") == [(0.0, 3.0), (2.0, 1.0)]

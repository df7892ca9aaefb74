"""The charts: values in, places on the drawing out; whatever is missing, nothing that is no number."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from hanlin.recipes.report.best_of_n import best_of_n_charts, best_of_n_tables
from hanlin.recipes.report.policy import policy_charts, policy_notes, policy_tables
from hanlin.recipes.report.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Line,
    draw,
    labels,
    log_ticks,
    ticks,
)

NAN, INF = math.nan, math.inf


def drawing(*lines, **more):
    """The chart as an element, after the look that every one is given."""
    return checked(Chart("a <title>", "x", list(lines), **more).svg())


def checked(svg):
    assert not re.search(r"\b(nan|inf|None)\b", svg, re.IGNORECASE)
    element = ElementTree.fromstring(svg)
    for place in [*corners(element), *dots(element)]:
        assert LEFT - 0.05 <= place[0] <= WIDTH - RIGHT + 0.05 and TOP - 0.05 <= place[1] <= HEIGHT - BOTTOM + 0.05
    return element


def corners(element):
    lines = [one for one in element if one.tag == "polyline"]
    return [tuple(map(float, pair.split(","))) for one in lines for pair in one.attrib["points"].split()]


def dots(element):
    return [(float(one.attrib["cx"]), float(one.attrib["cy"])) for one in element.iter("circle")]


def texts(element):
    return [one.text for one in element if one.tag == "text"]


def test_points_are_where_their_values_are():
    found = corners(drawing(Line("one", [0, 5, 10], [1.0, 2.0, 3.0])))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    # Above and below lies 6 % of the range.
    assert [x for x, _ in found] == pytest.approx([LEFT, LEFT + width / 2, LEFT + width], abs=0.05)
    shares = [(3.12 - value) / 2.24 for value in (1, 2, 3)]
    assert [y for _, y in found] == pytest.approx([TOP + share * height for share in shares], abs=0.06)


def test_logarithms_make_equal_steps_of_equal_ratios():
    element = drawing(Line("one", [1, 2, 4, 8], [0.01, 0.1, 1.0, 10.0], dots=True), log_x=True, log_y=True)
    for axis in (0, 1):
        values = [place[axis] for place in corners(element)]
        steps = [two - one for one, two in pairwise(values)]
        assert steps == pytest.approx([steps[0]] * 3, abs=0.11)
    assert {"1", "2", "4", "8", "0.01", "0.1", "10"} <= set(texts(element))
    left_out = drawing(Line("one", [0, 1, 2, 4], [1.0, 0.0, -1.0, 1.0]), log_x=True, log_y=True)
    assert len(dots(left_out)) == 1


@pytest.mark.parametrize("values", [[], [None, None], [NAN, INF, -INF]])
def test_nothing_to_draw_is_no_chart(values):
    chart = Chart("t", "x", [Line("one", range(len(values)), values), Line("two", [], [])])
    assert chart.svg() == "" and chart.figure() is None and draw([chart]) == []
    assert Chart("t", "x", []).svg() == ""


def test_one_point_is_a_dot_and_equal_values_a_level_line():
    element = drawing(Line("one", [3], [2.5]))
    assert corners(element) == [] and len(dots(element)) == 1
    assert drawing(Line("one", [3], [0.0]), log_x=True) is not None
    for value in (0.0, 2.0, -1e-9, 1e12):
        assert len({y for _, y in corners(drawing(Line("one", [0, 1], [value, value])))}) == 1


def test_gaps_are_left_out():
    element = drawing(Line("one", [0, 1, 2, NAN, 4], [1.0, None, NAN, 5.0, 2.0]), Line("two", [0, 1, 2], [1.0, 2.0]))
    assert len(corners(element)) == 2 + 2


def test_dots_alone_are_not_joined():
    element = drawing(Line("one", [0, 1, 2], [1, 3, 2], joined=False))
    assert corners(element) == [] and len(dots(element)) == 3
    assert "one: 3 at 1" in [one.text for one in element.iter("title")]


def test_marks_stand_at_their_step():
    element = drawing(Line("one", [0, 10], [1, 2]), marks=[(5, "a <spike>")])
    mark = next(one for one in element if one.attrib.get("class") == "mark")
    assert float(mark.attrib["x1"]) == pytest.approx((LEFT + WIDTH - RIGHT) / 2, abs=0.05)
    assert next(iter(mark)).text == "a <spike>"


def test_the_legend_names_the_curves_that_are_drawn():
    lines = [Line("a", [0, 1], [1, 2]), Line("b", [0, 1], [2, 1], "b"), Line("c", [0, 1], [None, None], "c")]
    assert draw([Chart("t", "x", lines)])[0]["legend"] == [{"name": "a", "style": "a"}, {"name": "b", "style": "b"}]
    assert draw([Chart("t", "x", lines[:1])])[0]["legend"] == []


def test_ticks_are_round_and_within_the_range():
    assert ticks(-0.3, 0.3, 6) == pytest.approx([-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3])
    assert 0 in ticks(-0.3, 0.3, 6) and ticks(1, 1, 5) == [1]
    assert [round(10**value, 6) for value in log_ticks(-1.2, 0.8)] == [0.1, 0.2, 0.5, 1, 2, 5]
    assert [round(10**value, 6) for value in log_ticks(-4, 2)] == [1e-4, 1e-3, 0.01, 0.1, 1, 10, 100]
    assert all(value == int(value) for value in log_ticks(-30, 30)) and 2 <= len(log_ticks(-30, 30)) <= 7
    near = [10**value for value in log_ticks(math.log10(3.1), math.log10(4.3))]
    assert len(near) >= 2 and all(3.1 <= value <= 4.3 for value in near)
    assert labels([5000.1, 5000.2]) == ["5000.1", "5000.2"] and labels([0.5, 1.0]) == ["0.5", "1"]


def rollouts(count=12, **columns):
    rows = [
        {"rollout": n, "step": 2 * n, "kl_answer": 0.3 * n, "kl_token": 0.02 * n, "length": 10 + n}
        for n in range(count)
    ]
    return [row | {name: column(row["kl_answer"] ** 0.5) for name, column in columns.items()} for row in rows]


def reward(d):
    return 0.2 + d * (1.5 - 0.2 * math.log(d)) if d else 0.2


def gold(d):
    return 0.5 + d * (0.2 - 0.6 * math.log(d)) if d else 0.5


def titles(charts):
    for chart in charts:
        checked(chart["svg"])
    return [chart["title"] for chart in charts]


def test_a_policy_has_the_curves_that_people_look_for():
    rows = rollouts(reward=reward, gold=gold, drift=lambda d: 1 + d, drift_beyond=lambda d: d / 10, ended=lambda d: 1.0)
    names = ("entropy", "clipped", "kl_old", "value_loss", "text_loss")
    curves = {"step": [0, 1, 2], "objective": {name: [0.1, 0.2, 0.1] for name in names}}
    found = titles(policy_charts({"rollouts": rows, "curves": curves}))
    for wanted in (
        "Reward of the answers",
        "Gold reward of the answers (not learned from)",
        "KL from the reference (nats an answer)",
        "KL from the reference (nats a token)",
        "Length of the answers (tokens)",
        "Drift from the reward model's training answers (1: as held-out ones)",
        "Share of answers farther away than 99 of 100 held-out ones",
        "Reward against distance",
        "Gold reward against distance",
        "Entropy (nats a token)",
        "Share of tokens that were clipped",
        "Loss on pretraining text (nats a token)",
    ):
        assert wanted in found
    # All ended, and the price of KL was not changed: there is nothing to see.
    assert "Share of answers that ended by themselves" not in found and "Price of KL (β)" not in found


def test_gao_s_curve_is_drawn_through_the_points_and_its_numbers_told():
    about = {"rollouts": rollouts(reward=reward, gold=gold)}
    for name in ("Reward against distance", "Gold reward against distance"):
        chart = next(one for one in policy_charts(about) if one["title"] == name)
        element = checked(chart["svg"])
        assert len(dots(element)) == 12 and [line["name"] for line in chart["legend"]][1] == "Gao's curve, fitted"
        for x, y in dots(element):
            nearest = min(corners(element), key=lambda corner: abs(corner[0] - x))
            assert abs(nearest[0] - x) < 3.1 and abs(nearest[1] - y) < 8
    (table,) = policy_tables(about).values()
    rows = {row[0]: dict(zip(table["columns"], row)) for row in table["rows"]}
    assert (rows["reward"]["α"], rows["reward"]["β"]) == pytest.approx((1.5, 0.2))
    assert (rows["gold"]["α"], rows["gold"]["β"], rows["gold"]["start"]) == pytest.approx((0.2, 0.6, 0.5))
    assert (rows["reward"]["at the largest distance"], rows["gold"]["at the largest distance"]) == ("rises", "falls")
    (note,) = policy_notes(about)
    assert "over-optimised" in note and f"beyond KL {math.exp(2 * (0.2 / 0.6 - 1)):.3g}" in note
    (calm,) = policy_notes({"rollouts": rollouts(reward=reward, gold=reward)})
    assert "over-optimised" not in calm


def test_too_few_rollouts_have_no_curve_which_is_said():
    about = {"rollouts": rollouts(5, reward=reward)}
    assert "Gao" not in json_of(policy_charts(about)) and policy_notes(about) == []
    (table,) = policy_tables(about).values()
    assert table["rows"][0][-1] == "no fit: 5 distances, and a fit needs 6"
    assert all(len(row) == len(table["columns"]) for row in table["rows"])


def json_of(charts):
    return " ".join(line["name"] for chart in charts for line in chart["legend"])


def test_missing_figures_leave_out_their_charts_only():
    assert policy_charts({}) == [] and policy_tables({}) == {} and policy_notes({}) == []
    assert titles(policy_charts({"rollouts": [{"rollout": 0, "step": 0, "reward": None}]})) == []
    rows = rollouts(3, reward=reward)
    rows[1] = {"rollout": 1, "step": 2, "gold": 0.5, "ended": 0.9}
    found = titles(policy_charts({"rollouts": rows, "curves": {}, "overoptimisation": None}))
    assert "Reward of the answers" in found and "Drift" not in " ".join(found)
    assert "Share of answers that ended by themselves" in found


def test_the_best_of_n_is_drawn_over_n_and_over_its_distance():
    counts = [1, 2, 4, 8, 16, 32]
    rows = [{"n": n, "kl_bound": math.log(n) - (n - 1) / n, "reward": math.log2(n), "gold": 1.0} for n in counts]
    charts = {chart["title"]: checked(chart["svg"]) for chart in best_of_n_charts({"best_of": rows})}
    assert list(charts) == [
        "Reward of the best of n",
        "Gold reward of the best of n by reward",
        "Reward against distance",
        "Gold reward against distance",
    ]
    over_n = [x for x, _ in dots(charts["Reward of the best of n"])]
    steps = [two - one for one, two in pairwise(over_n)]
    assert steps == pytest.approx([steps[0]] * 5, abs=0.11)
    width = WIDTH - LEFT - RIGHT
    over_d = [(x - LEFT) / width for x, _ in dots(charts["Reward against distance"])]
    farthest = math.sqrt(rows[-1]["kl_bound"])
    assert over_d == pytest.approx([math.sqrt(row["kl_bound"]) / farthest for row in rows], abs=1e-3)
    tables = best_of_n_tables({"best_of": rows})
    numbers, fit = tables.values()
    assert numbers["rows"][1] == [2, rows[1]["kl_bound"], 1.0, 1.0] and "d (α - β d)" in list(tables)[1]
    assert [row[1] for row in fit["rows"]] == [6, 6]
    few = best_of_n_tables({"best_of": [{"n": 1, "kl_bound": 0.0, "reward": 0.5}]})
    assert few["best of n"]["columns"] == ["n", "KL at most: log n - (n - 1)/n", "reward"]
    assert titles(best_of_n_charts({"best_of": rows[:1]})) == list(charts)[:2] and best_of_n_charts({}) == []

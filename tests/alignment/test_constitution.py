"""Labels by a scripted judge, against closed forms: what the order does, rankings, agreement, the card's figures."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanlin.alignment.constitution.card import agreement, cohen_kappa, kappa, length_bias, lines, reliability, share
from hanlin.alignment.constitution.label import Verdict, averaged, different, probability
from hanlin.alignment.constitution.speaker import Choice, Said
from hanlin.alignment.constitution.stage import ConstitutionSettings, make
from hanlin.alignment.health import calibration
from hanlin.artifacts import HanlinError, StageContext
from hanlin.artifacts.store import external
from hanlin.data.preferences import read_preferences, read_rankings
from hanlin.evaluation.statistics import wilson
from tests.conftest import Told


class Killed(BaseException):
    """As if the process were gone."""


@dataclass
class Script:
    """Speaks and chooses as it is told. The worth of an answer is the number in it; `liking` is what the log odds of
    the answer shown first have more."""

    liking: float = 0.0
    mass: float = 0.9
    scale: float = 1.0
    longer: float = 0.0
    calls: int = 0
    dies_at: int | None = None
    asked: list[str] = field(default_factory=list[str])

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self.dies_at:
            raise Killed

    def say(self, asks: Any) -> list[Said]:
        self._call()
        found = []
        for ask in asks:
            text = ask.messages[-1]["content"]
            self.asked.append(text)
            if text.endswith("Critique:"):
                said = "It is too small."
            elif text.endswith("New answer:"):
                number = float(re.search(r"answer:\nworth (-?[\d.]+)", text)[1])
                said = f"New answer: worth {number + 1:g}"
            else:
                said = f"worth {ask.seed % 1000 / 100:g}"
            found.append(Said(said, read=len(text), written=len(said)))
        return found

    def choose(self, questions: Any, words: Any) -> list[Choice]:
        self._call()
        found = []
        for text in questions:
            self.asked.append(text)
            if len(words) == 2:
                first, second = re.search(r"Answer A:\n(.*?)\n\nAnswer B:\n(.*?)\n\nThe principle", text, re.S).groups()
                odds = self.worth(first) - self.worth(second) + self.liking
                p = 1 / (1 + math.exp(-odds))
                likely = [p, 1 - p]
            else:
                worth = self.worth(re.search(r"answer:\n(.*?)\n\nThe principle", text, re.S)[1])
                low = min(int(worth), len(words) - 1)
                likely = [0.0] * len(words)
                likely[low - 1], likely[low] = low + 1 - worth, worth - low
            logs = [math.log(self.mass * one) if one > 0 else -1e4 for one in likely]
            found.append(Choice(logs, read=len(text)))
        return found

    def worth(self, answer: str) -> float:
        return self.scale * float(re.search(r"worth (-?[\d.]+)", answer)[1]) + self.longer * len(answer)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pair(number: int, better: float, worse: float, pad: str = "") -> dict[str, Any]:
    return {"prompt": f"question {number}", "chosen": f"worth {better:g}{pad}", "rejected": f"worth {worse:g}"}


def label(tmp_path: Path, judge: Script, pairs: list[dict[str, Any]] | None = None, **settings: Any) -> dict[str, Any]:
    given = {"pairs": write(tmp_path / "pairs.jsonl", pairs)} if pairs is not None else {}
    known = {"do": ["label"], "judge": "judge", "average": "log-odds", **given, **settings}
    (tmp_path / "out").mkdir(exist_ok=True)
    progress = Told()
    model = judge if "model" in settings else None
    figures = make(ConstitutionSettings(**known), StageContext(tmp_path / "out", {}, 3, progress), model, judge)
    return {**figures, "said": progress.lines}


# ---------------------------------------------------------------- the order in which answers are shown


@pytest.mark.parametrize("liking", [-3.0, 0.0, 0.7, 5.0])
@pytest.mark.parametrize("gap", [-2.0, -0.1, 0.0, 1.5])
def test_a_constant_liking_for_the_first_is_averaged_out(gap, liking):
    # Shown first: gap + liking. Shown second, the other has the liking.
    orders = gap + liking, gap - liking
    assert averaged(*orders, "log-odds") == pytest.approx(gap, abs=1e-12)
    p = (probability(orders[0]) + probability(orders[1])) / 2
    assert averaged(*orders, "probabilities") == pytest.approx(math.log(p / (1 - p)), abs=1e-9)
    if gap == 0:  # nothing but position: no preference is left
        assert averaged(*orders, "probabilities") == pytest.approx(0, abs=1e-12)
    else:
        assert averaged(*orders, "probabilities") * gap > 0


def test_averages_of_a_very_sure_judge_stay_numbers():
    assert averaged(900.0, 900.0, "probabilities") == pytest.approx(900)
    assert averaged(900.0, -900.0, "probabilities") == pytest.approx(0)
    assert probability(-900.0) == 0.0 and probability(900.0) == 1.0


@pytest.mark.parametrize("liking", [0.0, 1.0])
def test_labels_are_the_judges_own_opinion(tmp_path, liking):
    """Whatever it likes of positions: choice, margin and confidence; and the card tells the liking."""
    gaps = [0.4, -0.4, 1.6, 2.5]
    found = label(tmp_path, Script(liking=liking), [pair(number, 1 + gap, 1) for number, gap in enumerate(gaps)])
    for gap, row in zip(gaps, rows_of(tmp_path / "out/preferences.jsonl"), strict=True):
        better, worse = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert float(better.split()[1]) > float(worse.split()[1])
        assert row["margin"] == pytest.approx(abs(gap))
        assert row["metadata"]["confidence"] == pytest.approx(1 / (1 + math.exp(-abs(gap))))
    card = found["card"]["labels"]
    flipped = sum(abs(gap) < liking for gap in gaps)
    assert card["flips"]["value"] == pytest.approx(flipped / 4)
    first = [(probability(gap + liking) + probability(-gap + liking)) / 2 - 0.5 for gap in gaps]
    assert card["position"]["value"] == pytest.approx(np.mean(first))
    assert card["unparsable"]["value"] == 0 and card["ties"] == 0
    # The file says chosen of all four; the judge thinks otherwise of the second.
    assert found["card"]["agreement"]["the pairs"]["accuracy"]["value"] == pytest.approx(3 / 4)
    assert found["card"]["agreement"]["the pairs"]["kappa"]["value"] == pytest.approx(0.5)


def test_a_judge_of_positions_alone_has_no_preference(tmp_path):
    pairs = [pair(number, 2, 1) for number in range(6)]
    with pytest.raises(HanlinError, match=r"no preference that can be used .*6 tie"):
        label(tmp_path, Script(liking=2.0, scale=0.0), pairs)


def test_each_pair_is_asked_both_ways_round_under_one_principle(tmp_path):
    judge = Script()
    found = label(tmp_path, judge, [pair(0, 2, 1)])
    one, other = judge.asked
    assert one != other and one.replace("worth 2", "x").replace("worth 1", "worth 2").replace("x", "worth 1") == other
    cost = found["cost"]["labels"]
    assert cost == {"asks": 2, "read": len(one) + len(other), "written": 0}


def test_replies_that_are_no_letter_do_not_count(tmp_path):
    pairs = [pair(number, 2, 1) for number in range(3)]
    with pytest.raises(HanlinError, match="3 unparsable"):
        label(tmp_path, Script(mass=0.3), pairs)
    (tmp_path / "low").mkdir()
    found = label(tmp_path / "low", Script(mass=0.3), pairs, least_mass=0.2)
    assert found["label"]["account"]["kept"] == 3
    assert rows_of(tmp_path / "low/out/labels.jsonl")[0]["mass"] == pytest.approx(0.3)


def test_preferences_that_are_not_sure_enough_are_dropped(tmp_path):
    found = label(tmp_path, Script(), [pair(0, 1.1, 1), pair(1, 3, 1)], least_confidence=0.8)
    assert found["label"]["account"]["reasons"] == {"unsure": 1}
    dropped = rows_of(tmp_path / "out/label/dropped.jsonl")[0]
    assert dropped["measured"] == pytest.approx(probability(0.1)) and dropped["row"]["row"] == 1


# ---------------------------------------------------------------- rankings


def test_a_ranking_has_the_least_squares_scores(tmp_path):
    """A teacher whose log odds are differences of worth: the scores are those worths, less their mean."""
    worths = [0.5, 2.0, -1.0, 3.5]
    row = {"query": "q", "responses": [f"worth {one}" for one in worths], "scores": [1, 2, 3, 4]}
    found = label(tmp_path, Script(liking=1.0), [row])
    written = rows_of(tmp_path / "out/preferences.jsonl")
    assert written[0]["scores"] == pytest.approx(np.array(worths) - np.mean(worths))
    pairs, _ = read_preferences(tmp_path / "out/preferences.jsonl")
    assert len(pairs) == 6 and pairs[0].margin is not None
    assert sorted(one.margin for one in pairs) == pytest.approx(sorted(a - b for a in worths for b in worths if a > b))
    assert found["card"]["labels"]["intransitive"] == {"value": 0.0, "n": 4}
    assert found["cost"]["labels"]["asks"] == 12


def test_ratings_are_means_by_probability(tmp_path):
    row = {"query": "q", "responses": ["worth 1.5", "worth 4.25", "worth 3"], "scores": [1, 2, 3]}
    found = label(tmp_path, Script(), [row, pair(1, 2, 2.5)], by="ratings")
    written = rows_of(tmp_path / "out/preferences.jsonl")
    scores = np.array([1.5, 4.25, 3])
    assert written[0]["scores"] == pytest.approx(scores - scores.mean())
    assert written[1]["scores"] == pytest.approx([-0.25, 0.25]) and "margin" not in written[1]
    assert found["cost"]["labels"]["asks"] == 5
    assert "flips" not in found["card"]["labels"] and "calibration" not in found["card"]["agreement"]["the pairs"]
    assert len(read_rankings(tmp_path / "out/preferences.jsonl")[0]) == 2


def test_the_models_own_answers_are_ranked(tmp_path):
    data = write(tmp_path / "prompts.jsonl", [{"prompt": f"question {number}"} for number in range(5)])
    found = label(tmp_path, Script(), model="m", data=data, samples=3)
    account = found["label"]["account"]
    assert account["in"] == 5 == account["kept"] + account["dropped"]
    for row in rows_of(tmp_path / "out/preferences.jsonl"):
        worths = [float(one[0]["content"].split()[1]) for one in row["responses"]]
        assert row["scores"] == pytest.approx(np.array(worths) - np.mean(worths))


def test_answers_that_differ_in_white_space_are_one():
    assert different(["a b", " a  b\n", "c", "a b"]) == [0, 2]


# ---------------------------------------------------------------- the card, by hand


def verdict(prompt: str, gap: float | None, lengths: tuple[int, int] = (1, 1), **more: Any) -> Verdict:
    odds = more.pop("odds", None if gap is None else (gap, gap))
    return Verdict(prompt, "p", more.pop("first", 0), more.pop("second", 1), lengths, gap, odds, **more)


def test_flips_and_position_by_hand():
    verdicts = [
        verdict("a", 1.0, odds=(3.0, -1.0)),
        verdict("b", 1.0, odds=(1.0, 1.0)),
        verdict("c", -1.0, odds=(1.0, -3.0)),
        verdict("d", 0.0, odds=(0.0, 0.0)),
        verdict("e", None),
    ]
    found = reliability([[one] for one in verdicts])
    assert found["comparisons"] == 5 and found["ties"] == 1
    flips = wilson(2, 4)
    assert (found["flips"]["value"], found["flips"]["low"], found["flips"]["high"]) == (0.5, flips.low, flips.high)
    assert found["unparsable"]["value"] == pytest.approx(0.2)

    def s(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    first = [(s(3) + s(1)) / 2, 0.5, (s(1) + s(3)) / 2, 0.5]
    assert found["position"]["value"] == pytest.approx(sum(first) / 4 - 0.5)
    assert found["position"]["size"] == pytest.approx(sum(abs(one - 0.5) for one in first) / 4)
    assert found["position"]["low"] < found["position"]["value"] < found["position"]["high"]
    assert found["confidence"] == pytest.approx((3 * s(1) + 0.5) / 4)


def test_length_bias_by_hand():
    verdicts = [
        verdict("a", 2.0, (10, 4)),
        verdict("b", -2.0, (3, 5)),
        verdict("c", 1.0, (2, 6)),
        verdict("d", 1.0, (7, 7)),
        verdict("e", 0.0, (9, 1)),
    ]
    found = length_bias(verdicts)
    assert found["longer_chosen"]["value"] == pytest.approx(2 / 3) and found["longer_chosen"]["n"] == 3
    preferred = [math.tanh(1), -math.tanh(1), math.tanh(0.5), math.tanh(0.5), 0]
    longer = [6, -2, -4, 0, 8]
    expected = sum(x * y for x, y in zip(preferred, longer)) / math.sqrt(
        sum(x * x for x in preferred) * sum(y * y for y in longer)
    )
    assert found["correlation"] == pytest.approx(expected)
    # Which answer is called the first is of no account.
    turned = [verdict(one.prompt, -(one.gap or 0), one.lengths[::-1]) for one in verdicts]
    assert length_bias(turned)["correlation"] == pytest.approx(expected)


def test_a_judge_that_likes_length_is_found_out(tmp_path):
    pairs = [pair(number, 1, 1, " and more words" * (number + 1)) for number in range(8)]
    card = label(tmp_path, Script(longer=0.05), pairs)["card"]["labels"]
    assert card["length"]["longer_chosen"]["value"] == 1 and card["length"]["correlation"] > 0.9
    (tmp_path / "fair").mkdir()
    fair = [pair(number, 1 + (-1) ** number, 1, " and more words") for number in range(8)]
    card = label(tmp_path / "fair", Script(), fair)["card"]["labels"]
    assert card["length"]["longer_chosen"]["value"] == pytest.approx(0.5)
    assert card["length"]["correlation"] == pytest.approx(0, abs=1e-9)


def test_kappa_of_known_tables():
    # Two readers of 50 applications: 20 both yes, 15 both no.
    value, chance = cohen_kappa(np.array([[20.0, 5.0], [10.0, 15.0]]))
    assert (value, chance) == (pytest.approx(0.4), pytest.approx(0.5))
    assert cohen_kappa(np.array([[7.0, 0.0], [0.0, 0.0]]))[0] == 0


def test_kappa_by_hand():
    right, wrong = verdict("", 1.0, reference=1.0), verdict("", 1.0, reference=-1.0)
    four = [
        Verdict(**{**vars_of(one), "prompt": str(number)}) for number, one in enumerate([right, right, right, wrong])
    ]
    assert kappa(four)["value"] == pytest.approx(2 * 0.75 - 1)
    bounds = wilson(3, 4)
    assert kappa(four)["low"] == pytest.approx(2 * bounds.low - 1)
    assert kappa(four)["high"] == pytest.approx(2 * bounds.high - 1)
    # A fifth without reply: agreement 3/5, by chance 2 · 1/2 · (4/5) / 2 = 2/5.
    five = [*four, verdict("4", None, reference=1.0)]
    assert kappa(five)["value"] == pytest.approx((0.6 - 0.4) / 0.6)
    # Which answer is called the first is of no account.
    turned = [
        verdict(one.prompt, None if one.gap is None else -one.gap, reference=-(one.reference or 0)) for one in five
    ]
    assert kappa(turned) == pytest.approx(kappa(five))


def vars_of(one: Verdict) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


def test_agreement_by_hand():
    verdicts = [
        verdict("a", 2.0, (5, 1), reference=1.0),
        verdict("b", -1.0, (5, 1), reference=2.0),
        verdict("c", 0.0, (1, 5), reference=1.0),
        verdict("d", None, (2, 2), reference=-1.0),
        verdict("e", 3.0, (2, 1)),
    ]
    found = agreement(verdicts)
    assert found["comparisons"] == 4 and found["decided"] == 2
    assert found["accuracy"]["value"] == pytest.approx((1 + 0 + 0.5) / 3) and found["accuracy"]["n"] == 3
    assert found["longer_chosen"]["value"] == pytest.approx(2 / 3)
    expected = calibration(np.array([2.0, -1.0, 0.0]))
    assert found["calibration"]["error"] == pytest.approx(expected["error"])
    log_loss = (math.log1p(math.exp(-2)) + math.log1p(math.exp(1)) + math.log(2)) / 3
    assert found["calibration"]["log_loss"] == pytest.approx(log_loss)


def test_circles_by_hand():
    circle = [verdict("a", 1.0), verdict("a", 1.0, first=1, second=2), verdict("a", -1.0, first=0, second=2)]
    order = [verdict("b", 1.0), verdict("b", 1.0, first=1, second=2), verdict("b", 1.0, first=0, second=2)]
    assert reliability([circle, order])["intransitive"] == {"value": 0.5, "n": 2}
    # A tie, or no reply, leaves nothing to go in a circle.
    assert "intransitive" not in reliability([[circle[0], verdict("a", 0.0, first=1, second=2), circle[2]]])


def test_figures_of_pairs_that_share_their_question_are_resampled_by_question():
    marks = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    apart, together = share(marks, list("abcdefgh")), share(marks, list("aaabbbcd"))
    assert apart["value"] == together["value"] == 0.5
    assert together["prompts"] == 4 and together["high"] - together["low"] > 0
    assert share([1.0, 1.0, 1.0, 1.0], list("aabb"))["low"] == pytest.approx(wilson(2, 2).low)
    assert share([], [])["value"] is None


def test_check_pairs_are_judged_and_not_written(tmp_path):
    people = [pair(number, *(2, 1) if number < 9 else (1, 2)) for number in range(12)]
    check = write(tmp_path / "check.jsonl", people)
    found = label(tmp_path, Script(liking=0.5), [pair(50, 3, 1)], check=check)
    assert len(rows_of(tmp_path / "out/preferences.jsonl")) == 1
    part = found["card"]["agreement"]["people"]
    bounds = wilson(9, 12)
    assert part["accuracy"] == pytest.approx(
        {"value": 0.75, "low": bounds.low, "high": bounds.high, "n": 12, "standard_error": bounds.standard_error}
    )
    assert part["kappa"]["value"] == pytest.approx(0.5)
    assert found["card"]["people"]["comparisons"] == 12
    text = "\n".join(found["said"])
    assert "with people" in text and "κ 0.500" in text and "flips" in text and "tokens read" in text
    assert json.loads((tmp_path / "out/card.json").read_text()) == json.loads(json.dumps(found["card"]))
    assert lines(found["card"]) == found["said"][-len(lines(found["card"])) :]


def test_check_draws_no_more_than_asked_for(tmp_path):
    check = write(tmp_path / "check.jsonl", [pair(number, 2, 1) for number in range(12)])
    found = label(tmp_path, Script(), [pair(50, 3, 1)], check=check, most_checks=5)
    assert found["card"]["people"]["comparisons"] == 5
    assert found["label"]["check"]["reasons"] == {"surplus": 7}


def test_the_worlds_judge_stands_for_people(tmp_path):
    """Answers of a scripted model to a world's prompts; the exact judge marks the very same answers."""
    from hanlin.world.judge import judge as exact

    folder = tmp_path / "world"
    folder.mkdir()
    rows = [
        {"prompt": f"How much is {number} + 1?", "answers": [f"{number + 1}"], "kind": "sum"} for number in range(30)
    ]
    write(folder / "prompts.jsonl", rows)

    class Sums(Script):
        def say(self, asks: Any) -> list[Said]:
            # Of two samples one is right; what the judge goes by has nothing to do with it.
            found = []
            for place, ask in enumerate(asks):
                number = int(re.search(r"\d+", ask.messages[-1]["content"])[0])
                worth = ask.seed % 97 / 10
                found.append(Said(f"worth {worth} apples: {number + 1 + place % 2}"))
            return found

    settings = ConstitutionSettings(do=["label"], model="m", world="w", least_mass=0.0)
    (tmp_path / "out").mkdir()
    figures = make(settings, StageContext(tmp_path / "out", {"world": external(folder)}, 1), Sums(), Sums())
    kept = rows_of(tmp_path / "out/preferences.jsonl")
    by_prompt = {row["prompt"]: row for row in rows}
    agree = [
        float(
            exact(by_prompt[one["prompt"][0]["content"]], one["chosen"][0]["content"]).score
            > exact(by_prompt[one["prompt"][0]["content"]], one["rejected"][0]["content"]).score
        )
        for one in kept
    ]
    part = figures["card"]["agreement"]["the world"]
    assert 0 < np.mean(agree) < 1 and part["comparisons"] == len(kept)
    assert part["accuracy"]["value"] == pytest.approx(np.mean(agree))


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"do": ["revise"], "pairs": "x", "model": "m", "data": "d"}, "for labels"),
        ({"do": ["label"], "model": "m"}, "nothing to label"),
        ({"do": ["revise"], "model": "m"}, "nothing to answer"),
        ({"do": ["label"], "data": "d", "judge": "j"}, "need a `model`"),
        ({"do": ["label"], "pairs": "p"}, "nobody to choose"),
        ({"do": ["label"], "data": "d", "model": "m", "temperature": 0.0}, "temperature 0"),
        ({"do": ["label", "label"], "data": "d", "model": "m"}, "each once"),
        ({"do": ["label"], "data": "d", "model": "m", "by": "ratings", "least_confidence": 0.6}, "no confidence"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given, reason):
    with pytest.raises(ValueError, match=reason):
        ConstitutionSettings(**given)

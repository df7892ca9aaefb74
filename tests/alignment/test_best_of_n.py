"""Best-of-n: what is kept of a prompt's answers, and that an interrupted run ends with the same files."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from hanlin.alignment import best_of_n, rewards
from hanlin.alignment.best_of_n import BEST_OF_N_STAGE, BestOfNSettings, write_choices
from hanlin.artifacts import StageContext, read_jsonl
from hanlin.data.formats import read_instructions
from hanlin.data.preferences import read_preferences, read_rankings
from hanlin.data.prompts import Prompt
from hanlin.tokenization import Message
from tests.alignment.best_of_n_ranks import choose
from tests.alignment.test_policy_gradient import make_prompts, plain
from tests.alignment.toy import make_model
from tests.ranks import run_ranks

PROMPT = [Prompt([Message("user", "q")], ["a"])]
ROW: dict[str, Any] = {
    "prompt": 0,
    "answers": ["one", "two", "two", "", "five", "cut"],
    "ended": [True, True, True, True, True, False],
    "reward": [0.5, 2.0, 2.0, 3.0, -1.0, -9.0],
}


def settings(**changes: Any) -> BestOfNSettings:
    return BestOfNSettings(**{"model": "m", "data": "p.jsonl", "program": "exact", "samples": 6, **changes})


def written(folder: Any, row: dict[str, Any] = ROW, **changes: Any) -> tuple[dict[str, Any], list[Any], list[Any]]:
    figures = write_choices(settings(**changes), [row], PROMPT, folder)
    return figures, read_jsonl(folder / "instructions.jsonl"), read_jsonl(folder / "preferences.jsonl")


def test_pairs_are_between_different_texts_by_their_rewards(tmp_path):
    figures, instructions, pairs = written(tmp_path)
    # The best answer is empty: it is not learned, and stands in no pair. Nor does the one that was cut off.
    assert not instructions and figures["rejected"]["cut off or empty"] == 1
    assert [(pair["chosen"][0]["content"], pair["rejected"][0]["content"], pair["margin"]) for pair in pairs] == [
        ("two", "five", 3.0)
    ]
    _, _, pairs = written(tmp_path, pairs="all")
    assert len(pairs) == 3
    assert len(read_preferences(tmp_path / "preferences.jsonl")[0]) == 3
    _, _, ranked = written(tmp_path, pairs="ranking")
    assert ranked[0]["responses"] == ["two", "one", "five"]
    assert read_rankings(tmp_path / "preferences.jsonl")[0][0].scores == [2.0, 0.5, -1.0]
    figures, _, pairs = written(tmp_path, least_gap=5.0)
    assert not pairs and figures["prompts_without_a_preference"] == 1


def test_rejection_sampling_keeps_what_is_worth_enough(tmp_path):
    row = {**ROW, "answers": ["one", "two"], "ended": [True, True], "reward": [0.5, 0.2]}
    _, instructions, _ = written(tmp_path, row, least_reward=0.5)
    assert instructions[0]["messages"][-1] == {"role": "assistant", "content": "one"}
    assert len(read_instructions(tmp_path / "instructions.jsonl")[0]) == 1
    figures, instructions, _ = written(tmp_path, row, least_reward=0.6)
    assert not instructions and figures["rejected"]["reward below least_reward"] == 1


def test_the_gain_of_n_is_the_mean_over_all_subsets():
    rewards_, gold = [0.3, 0.9, 0.1, 0.5], [1.0, 0.0, 2.0, 4.0]
    for count in (1, 2, 4):
        subsets = list(itertools.combinations(range(4), count))
        expected = sum(gold[max(one, key=lambda place: rewards_[place])] for one in subsets) / len(subsets)
        assert best_of_n._best_mean(rewards_, gold, count) == pytest.approx(expected)


def test_an_interrupted_run_ends_with_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setitem(rewards.PROGRAMS, "exact", plain)
    monkeypatch.setattr(best_of_n, "PROMPTS_AT_ONCE", 4)
    base = make_model(tmp_path / "base")
    given = settings(data=str(make_prompts(tmp_path / "p.jsonl")), max_new_tokens=6, sequence_length=128)
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    figures = BEST_OF_N_STAGE.run(given, StageContext(tmp_path / "whole", {"model": base}, 1))
    assert figures["answers"] == 72 and figures["best_of"][2]["reward"] > figures["best_of"][0]["reward"]
    calls = 0

    class Killed(BaseException):
        pass

    def dies(*given: Any) -> float:
        nonlocal calls
        calls += 1
        # 12 to see that each prompt can be marked, 24 of the first shard.
        if calls == 42:
            raise Killed
        return plain(*given)

    monkeypatch.setitem(rewards.PROGRAMS, "exact", dies)
    context = StageContext(tmp_path / "stopped", {"model": base}, 1)
    with pytest.raises(Killed):
        BEST_OF_N_STAGE.run(given, context)
    assert len(list((tmp_path / "stopped" / "samples").glob("*.jsonl"))) == 1
    assert BEST_OF_N_STAGE.run(given, context) == figures
    for name in ("instructions.jsonl", "preferences.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    assert json.loads((tmp_path / "whole" / "prompts.json").read_text())["prompts"]["used"] == 12


def test_of_several_ranks_the_first_answers_and_all_are_told(tmp_path):
    base = make_model(tmp_path / "base")
    make_prompts(tmp_path / "prompts.jsonl")
    figures = choose(tmp_path / "alone", base)
    assert figures["asked"] == 12
    for rank in run_ranks("tests.alignment.best_of_n_ranks", tmp_path):
        assert json.loads(bytes(rank["said"].tolist())) == {"figures": figures, "whole": True}
    for name in ("instructions.jsonl", "preferences.jsonl"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "together" / name).read_bytes()

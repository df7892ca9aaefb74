"""What answers are worth: programs by hand, prompts that no program could mark, ensembles, and drift, in a stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hanlin.alignment import rewards
from hanlin.alignment.asked import AskedSettings, render
from hanlin.alignment.distance import DISTANCE, Distance
from hanlin.alignment.policy_gradient import GRPO_STAGE
from hanlin.alignment.rewards import ModelReward, check_prompts, combined, exact_answer, last_number, world_judge
from hanlin.alignment.rollouts import Samples
from hanlin.artifacts import HanlinError, StageContext, read_jsonl
from hanlin.artifacts.store import external
from hanlin.data.prompts import Prompt
from hanlin.data.sequences import join
from hanlin.models import Transformer
from hanlin.models.reward import RewardModel, save_reward_model
from hanlin.tokenization import Message, Tokenizer
from tests.alignment.test_policy_gradient import make_prompts, plain, settings_of
from tests.alignment.toy import make_model, tiny_config

TOKENIZER = Tokenizer.bytes()


def prompt(*answers: str, **row: Any) -> Prompt:
    return Prompt([Message("user", "q")], list(answers), row, metadata={"file": "p.jsonl", "row": 3})


@pytest.mark.parametrize(
    "accepted,text,right",
    [
        ("12", "The answer is 12.", 1),
        ("The answer is 12.", "12", 1),
        ("12", "12.0", 1),
        ("12.50", "It costs 12.5", 1),
        ("1,200", "1200", 1),
        ("1200", "first 7, then 1,200.00.", 1),
        ("1234567", "1,234,567", 1),
        ("-3", "x = -3", 1),
        ("-3", "\u22123", 1),
        ("3", "7-3", 1),
        ("3", "-3", 0),
        ("0.5", ".5", 1),
        ("12", "\uff11\uff12", 1),
        ("12", "12 or 13", 0),
        ("4", "3,4", 1),
        ("34", "3,4", 0),
        ("12", "twelve", 0),
        ("12", "1" * 5000, 0),
    ],
)
def test_the_last_number_is_compared_as_a_number(accepted: str, text: str, right: int) -> None:
    assert last_number(prompt(accepted), text) == right
    assert last_number(prompt("no number", accepted), text) == right


def test_exact_answers_are_never_empty() -> None:
    assert exact_answer(prompt("", "Danu"), " danu. ") == 1 and exact_answer(prompt("", "Danu"), "") == 0
    for name, bad in (("exact", prompt("", " ")), ("exact", prompt()), ("last-number", prompt("twelve"))):
        with pytest.raises(HanlinError, match="it has no accepted answers"):
            rewards.find_program(name)(bad, "")


def test_the_worlds_judge_marks_the_worlds_prompts() -> None:
    asked = prompt("12", kind="sum", answers=["12"])
    assert world_judge(asked, "12.") == 1 and world_judge(asked, "13.") == 0
    with pytest.raises(HanlinError, match="the world's judge can't mark it: `kind` is None"):
        world_judge(prompt("12"), "12")


def test_prompts_that_cannot_be_marked_stop_the_run_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(HanlinError, match=r"`gold: last-number` .* 1 of 2 prompts; the first: p\.jsonl, row 3: it has"):
        check_prompts("last-number", "gold", [prompt("12"), prompt("twelve")])
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "answers": ["b"]}\n{"prompt": "c"}\n')
    given: dict[str, Any]
    for given, place in (({"program": "world"}, "row 1"), ({"program": "exact", "gold": "exact"}, "row 2")):
        settings = AskedSettings(model="m", data=str(path), **given)
        with pytest.raises(HanlinError, match=rf"can't mark .*p\.jsonl, {place} \(line"):
            render(settings, StageContext(tmp_path, {}, 1), TOKENIZER, 128)
    with pytest.raises(ValueError, match="there is nothing to ask"):
        AskedSettings(model="m", program="exact")


def samples(texts: list[str], each: int) -> Samples:
    """Answers to prompts 0, 1, …"""
    groups = [each] * (len(texts) // each)
    batch = join([TOKENIZER.encode("q")] * len(texts), [TOKENIZER.encode(text) for text in texts], groups)
    drawn = torch.zeros(int(batch.answer_lengths.sum()))
    return Samples(batch, drawn, torch.ones(len(texts), dtype=torch.bool), texts, list(range(len(groups))))


def test_parts_are_weighed_and_gold_is_only_looked_at() -> None:
    def model(given: Samples) -> Any:
        return {"reward_model": torch.tensor([0.5, -1.0, 2.0, 0.0]), "drift": torch.ones(4)}

    asked, given = [prompt("1"), prompt("2")], samples(["1", "2", "1", "it is 2"], 2)
    made = combined(model, 3.0, exact_answer, 2.0, last_number, asked)  # pyright: ignore[reportArgumentType]
    found = {name: values.tolist() for name, values in made(given).items()}
    assert found["reward"] == [1.5 + 2, -3.0, 6.0, 0.0]
    assert found["reward_program"] == [1, 0, 0, 0] and found["gold"] == [1, 0, 0, 1] and found["drift"] == [1] * 4
    alone = combined(None, 3.0, exact_answer, 2.0, None, asked)(given)
    assert list(alone) == ["reward"] and alone["reward"].tolist() == [2, 0, 0, 0]


def make_reward_models(folder: Path, members: int) -> list[RewardModel]:
    """An ensemble of random reward models, with what answers usually look like to its first member."""
    made: list[RewardModel] = []
    for number in range(1, members + 1):
        trunk = Transformer(tiny_config(TOKENIZER))
        trunk.init_weights(number)
        model = RewardModel.init_from(trunk, number)
        with torch.no_grad():
            model.score_head.weight.mul_(20)
        save_reward_model(folder if number == 1 else folder / f"member-{number}", model, TOKENIZER)
        made.append(model)
    return made


@torch.no_grad()
def test_all_members_of_an_ensemble_are_asked(tmp_path: Path) -> None:
    base, folder = make_model(tmp_path / "base"), tmp_path / "reward"
    members = make_reward_models(folder, 3)
    given = samples([f"{number} answers" * (1 + number % 3) for number in range(8)], 2)
    each = torch.stack([model.rewards(given.sequences) for model in members])
    found = ModelReward(folder, base.path, "cpu", 3)(given)
    torch.testing.assert_close(found["reward_model"], each.mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(found["reward_spread"], each.std(0), rtol=0, atol=1e-5)
    # Nothing says what is usual: there is no drift.
    assert set(found) == {"reward_model", "reward_spread"}
    least = ModelReward(folder, base.path, "cpu", 2, "min")(given)["reward_model"]
    torch.testing.assert_close(least, each.amin(0), rtol=0, atol=1e-5)
    assert float((found["reward_model"] - least).min()) > 0
    with pytest.raises(HanlinError, match=r"reward_ensemble is min, but .* holds a single reward model"):
        ModelReward(folder / "member-2", base.path, "cpu", 2, "min")


def test_a_stage_tells_of_gold_parts_spread_and_drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rewards.PROGRAMS, "exact", plain)
    base, folder = make_model(tmp_path / "base"), tmp_path / "reward"
    first = make_reward_models(folder, 2)[0]
    usual = samples(["abc", "b c", "cab", "acb", "ba"] * 4, 1).sequences
    with torch.no_grad():
        hidden = first.last_hidden(usual)
    distance = Distance.fit(hidden)
    distance.usual(distance.of(hidden)).save(folder / DISTANCE)
    data = tmp_path / "p.jsonl"
    make_prompts(data)
    data.write_text(data.read_text().replace('["a"]', '["a", "7"]'))
    settings = settings_of("grpo", data, steps=2).model_copy(update={"gold": "last-number", "reward": "r"})
    (tmp_path / "out").mkdir()
    figures = GRPO_STAGE.run(settings, StageContext(tmp_path / "out", {"model": base, "reward": external(folder)}, 1))
    row = figures["rollouts"][0]
    assert row["reward"] == pytest.approx(row["reward_model"] + row["reward_program"], abs=1e-5)
    assert 0 <= row["gold"] <= 1 and row["reward_spread"] > 0
    # Random bytes are not what the reward model knows.
    assert row["drift"] > 2 and row["drift_beyond"] > 0.5
    journal = read_jsonl(tmp_path / "out" / "rollouts.jsonl")
    assert {"gold", "drift", "drift_beyond", "reward_spread"} <= set(journal[0]["examples"][0])
    assert json.loads((tmp_path / "out" / "prompts.json").read_text())["prompts"]["used"] == 12

"""The task `persistence`: over how many turns an instruction is obeyed, and that Ghost Attention makes them more."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hanlin.alignment.instructions.stage import INSTRUCTIONS_STAGE, InstructionSettings
from hanlin.artifacts import HanlinError, StageContext
from hanlin.evaluation.constraints import constraint
from hanlin.evaluation.gates import Gate
from hanlin.evaluation.items import make_items, read_rows
from hanlin.evaluation.persistence import play_scripts
from hanlin.evaluation.runner import run_exam
from hanlin.evaluation.tasks import Task, parse_task, plan_task
from hanlin.inference import load
from hanlin.training.sft import SFT_STAGE, SftLoop, SftOptimizer, SftSettings
from tests.alignment.toy import make_model
from tests.training.toy_stages import loop, run_stage

torch.set_num_threads(1)


# ---------------------------------------------------------------------- Ghost Attention

RULE = constraint("upper-case", "en")


def make_dialogues(path: Path) -> Path:
    """Instructions as they are found: one that stands beside a question holds for its answer, and for no other."""
    chance = random.Random(3)
    rows: list[dict[str, Any]] = []
    for number in range(160):
        turns = 1 + number % 4
        # In a dialogue it comes later, beside any question but the first.
        told = chance.randrange(turns > 1, turns) if number % 8 < 4 else -1
        messages: list[dict[str, str]] = []
        for turn in range(turns):
            answer, letter = chance.choice(["yes", "no"]), chance.choice("abcdefgh")
            question = f"{letter}{'?' if answer == 'yes' else '!'}"
            if turn == told:
                question, answer = f"{RULE.text}\n{question}", answer.upper()
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        rows.append({"messages": messages})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def learned(folder: Path, data: Path, ghost: bool) -> Path:
    """A small model that was fine-tuned on the instructions, with rows of Ghost Attention or without."""
    given: dict[str, Any] = {
        "share": 1.0,
        "constraints": ["upper-case"],
        "place": "user",
        "earlier": "obeying",
        "turn": "any",
    }
    settings = InstructionSettings(
        data=str(data), exact_duplicates=False, ghost={**given, "share": 1.0} if ghost else None
    )
    (folder / "rows").mkdir(parents=True)
    INSTRUCTIONS_STAGE.run(settings, StageContext(folder / "rows", {}, 0))
    base = make_model(folder / "base")
    optimizer = SftOptimizer(name="muon", learning_rate=0.02, embedding_learning_rate=0.02)
    changes = {"steps": 70, "rows": 8, "sequence_length": 256, "optimizer": optimizer, "evaluate_every": 1000}
    written = str(folder / "rows" / "instructions.jsonl")
    chat = SftSettings(model="base", data=written, loop=loop(SftLoop, **changes, checkpoint_every=1000))
    return run_stage(SFT_STAGE, chat, folder / "chat", {"model": base}).path


def test_ghost_attention_makes_an_instruction_last(tmp_path: Path) -> None:
    data = make_dialogues(tmp_path / "data.jsonl")
    marks = [f"{number:04b}".replace("0", "?").replace("1", "!") for number in range(16)]
    scripts = [{"id": mark, "turns": [f"{one}{two}" for one, two in zip("hbdf", mark)]} for mark in marks]
    (tmp_path / "scripts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scripts))
    text = "name: quiz\nkind: persistence\ndata: scripts.jsonl\nrules: [upper-case]\nplace: user\n"
    (tmp_path / "quiz.yaml").write_text(text)
    plain, taught = (load(learned(tmp_path / name, data, name == "ghost")) for name in ("plain", "ghost"))
    gates = [Gate(task="quiz", metric="held", require="better", margin=0.3)]
    found = run_exam(taught, [str(tmp_path / "quiz.yaml")], before=plain, gates=gates, random_row=False)
    after, before = ({key: one["value"] for key, one in found[who]["quiz"].items()} for who in ("tasks", "before"))
    # Both know what is asked for; without such rows it is forgotten within a turn or two.
    assert before["first"] == after["first"] == 1 and before["chance"] == after["chance"] == 0
    assert before["held"] < 0.5 and after["held"] > 0.9
    assert found["gates"][0]["passed"] and found["gates"][0]["p_value"] < 0.01, found["gates"]


# ---------------------------------------------------------------------- the task


class Actor:
    """A model by rule: a chat template that is no template, and answers from what it is shown."""

    def __init__(self, say: Callable[[list[dict[str, Any]]], str], positions: int = 1_000) -> None:
        self.say, self.shown = say, list[Any]()
        self.config = SimpleNamespace(max_positions=positions)
        self.engine = SimpleNamespace(generate=self.generate)

    def chat_request(self, messages: list[dict[str, Any]], max_new_tokens: int) -> Any:
        shown = [dict(one) for one in messages]
        length = sum(len(one["content"]) for one in shown)
        return SimpleNamespace(messages=shown, prompt_ids=[0] * length, max_new_tokens=max_new_tokens)

    def request(self, text: str, **settings: Any) -> Any:
        return SimpleNamespace(messages=text, prompt_ids=[0], **settings)

    def generate(self, requests: list[Any]) -> list[Any]:
        self.shown += requests
        return [SimpleNamespace(text=f" {self.say(one.messages)} ", finish_reason="stop") for one in requests]


def quiz(**changes: Any) -> Task:
    return Task(**{"name": "quiz", "kind": "persistence", "data": "x", "rules": ("upper-case",), **changes})


def items_of(task: Task, *scripts: list[str]) -> list[Any]:
    return make_items(task, [(f"f:{n}", {"id": str(n), "turns": turns}) for n, turns in enumerate(scripts)])


def obeys(turns: Callable[[str], int]) -> Callable[[list[dict[str, Any]]], str]:
    """Obeys for so many turns, by the first question; of no-commas always."""

    def say(messages: list[dict[str, Any]]) -> str:
        told = any("capital letters" in one["content"] for one in messages)
        users = [one["content"] for one in messages if one["role"] == "user"]
        return "YES; I DO." if told and len(users) <= turns(users[0]) else "Yes; I do."

    return say


def test_turns_until_the_first_slip() -> None:
    task = quiz(rules=("upper-case", "no-commas"))
    items = items_of(task, ["a", "b", "c", "d"], ["e", "f", "g"])
    assert [one.id for one in items] == ["0/upper-case", "0/no-commas", "1/upper-case", "1/no-commas"]
    ticks: list[int] = []
    model: Any = Actor(obeys(lambda first: 2 if first == "a" else 3))
    marks = play_scripts(model, task, items, ticks.append, chat=True)
    assert [one.values for one in marks] == [
        {"held": 0.5, "first": 1, "last": 0, "chance": 0},
        {"held": 1, "first": 1, "last": 1, "chance": 1},
        {"held": 1, "first": 1, "last": 1, "chance": 0},
        {"held": 1, "first": 1, "last": 1, "chance": 1},
    ]
    assert sum(ticks) == 4 and marks[0].record["obeyed"] == [True, True, False, False]
    assert marks[0].tags == {"rule": "upper-case", "language": "en"} and not marks[0].record["correct"]
    # Each script is played once with nothing asked for, and once under each rule.
    assert len(model.shown) == 3 * (4 + 3)


@pytest.mark.parametrize("place", ["system", "user"])
def test_the_instruction_is_given_once_and_the_model_hears_its_own_answers(place: Any) -> None:
    task = quiz(place=place, rules=("lower-case",))
    model: Any = Actor(lambda messages: "yes")
    play_scripts(model, task, items_of(task, ["one", "two"]), lambda done: None, chat=True)
    told = constraint("lower-case", "en").text
    last = [request.messages for request in model.shown][-1]
    head = [{"role": "system", "content": told}] if place == "system" else []
    assert last == [
        *head,
        {"role": "user", "content": "one" if head else f"{told}\none"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "two"},
    ]


def test_without_a_chat_template_the_dialogue_is_plain_text() -> None:
    task = quiz()
    model: Any = Actor(lambda text: "YES")
    items = make_items(task, [("f:1", {"turns": ["一？", "二？"]}), ("f:2", {"turns": ["one?", "two?"]})])
    play_scripts(model, task, items, lambda done: None, chat=False)
    texts = [one.messages for one in model.shown]
    assert texts[-2] == "回答里的英文字母都要大写。\n问：一？\n答：YES\n问：二？\n答："
    assert texts[-1] == "Write all your answers in capital letters.\nQ: one?\nA: YES\nQ: two?\nA:"
    assert model.shown[0].stop == ("\n",) and model.shown[0].raw


def test_a_dialogue_that_outgrows_the_model_ends_there() -> None:
    task = quiz(max_new_tokens=10)
    model: Any = Actor(obeys(lambda first: 9), positions=80)
    fits, too_long = items_of(task, ["a", "b" * 40], ["c" * 90])
    first, second = play_scripts(model, task, [fits, too_long], lambda done: None, chat=True)
    assert first.record["obeyed"] == [True] and first.values["held"] == 1 and first.record["truncated"]
    assert second.values == {} and second.record["truncated"] and second.record["messages"][0]["role"] == "system"


def test_rows_and_settings_that_are_wrong_are_named() -> None:
    for row in ({"turns": []}, {"turns": ["a", 3]}, {"prompt": "x"}, {"messages": [{"role": "assistant"}]}):
        with pytest.raises(HanlinError, match="f:3: task quiz, item 0: it needs `turns`"):
            make_items(quiz(), [("f:3", row)])
    with pytest.raises(HanlinError, match="no rule 'uper-case'; did you mean 'upper-case'"):
        parse_task("name: quiz\nkind: persistence\ndata: x\nrules: [uper-case]\n", "quiz.yaml")
    with pytest.raises(HanlinError, match=r"quiz\.yaml:1: `kind: persistence` has no solved examples"):
        parse_task("name: quiz\nkind: persistence\ndata: x\nfew_shot: {count: 1}\n", "quiz.yaml")


def test_the_library_has_scripts_of_its_own_and_the_worlds() -> None:
    planned = plan_task("persistence")
    assert planned.data is not None
    items = make_items(planned.task, read_rows(planned.data))
    assert len(items) == 24 * 5 and {len(one.turns) for one in items} == {5}
    assert {one.tags["language"] for one in items} == {"en", "zh"}
    assert plan_task("world/persistence").source == "world"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert make_items(plan_task("world/persistence").task, [("f:1", {"messages": talk})])[0].turns == ("a", "c")


def test_a_real_model_sits_it_beside_random_weights(tmp_path: Path) -> None:
    """As an exam does: a base that was not taught its chat template is shown plain text."""
    found = run_exam(load(make_model(tmp_path / "base").path), ["persistence"], taught=False, limit=2)
    assert set(found["tasks"]["persistence"]) == {"held", "first", "last", "chance"}
    assert found["tasks"]["persistence"]["held"]["n"] == 2 and not found["how"]["persistence"]["chat"]

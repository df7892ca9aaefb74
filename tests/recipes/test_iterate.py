"""A model that learns from its own answers, round after round, and from a teacher's choices, in recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hanlin.artifacts import HanlinError, read_jsonl
from hanlin.models import Transformer
from hanlin.models.hub import save_model
from hanlin.recipes.recipe import load_recipe, steps
from hanlin.recipes.runner import Run, run_recipe
from hanlin.tokenization import Tokenizer
from tests.alignment.toy import tiny_config
from tests.recipes.test_align import make_texts, small, write

TRAINED = ("base", "chat", "reward", "round-1", "round-2", "taught")


def assignments(here: Path, *more: str) -> list[str]:
    prompts = write(here / "prompts.jsonl", [{"prompt": f"Say {n}."} for n in range(24)])
    asked = ("answers-1", "answers-2")
    return [
        f"corpus.inputs={make_texts(here / 'texts')}",
        f"chat.data={write(here / 'chats.jsonl', [chat(n) for n in range(40)])}",
        f"reward.data={write(here / 'pairs.jsonl', [pair(n) for n in range(30)])}",
        *(f"{stage}.{key}" for stage in asked for key in (f"data={prompts}", "samples=4", "max_new_tokens=8")),
        *more,
    ]


def chat(number: int) -> dict[str, Any]:
    return {"instruction": f"Say {number}.", "output": f"{number}."}


def pair(number: int) -> dict[str, Any]:
    return {"prompt": f"Say {number}.", "chosen": f"{number}.", "rejected": "No."}


def make_teacher(folder: Path) -> None:
    """A larger model with a tokenizer of its own, and room for a judge's questions."""
    tokenizer = Tokenizer.bytes()
    model = Transformer(tiny_config(tokenizer, hidden_size=48, max_positions=2048))
    model.init_weights(7)
    save_model(folder, model, tokenizer)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    here = tmp_path_factory.mktemp("iterate")
    make_teacher(here / "teacher")
    rates = ["chat.loop.steps=50", "chat.loop.rows=4", "chat.loop.optimizer.learning_rate=0.01"]
    rates += ["chat.loop.sequence_length=128", "base.loop.rows=4", "round-1.loop.optimizer.learning_rate=0.002"]
    labels = (f"data={here / 'prompts.jsonl'}", f"judge={here / 'teacher'}", "max_new_tokens=8", "least_mass=0")
    taught = [f"labels.{one}" for one in labels]
    given = assignments(here, *taught, *small(*TRAINED), *rates, "reward.loop.steps=10")
    return here, run_recipe(load_recipe("iterate", given), here / "run")


@pytest.mark.slow
def test_the_second_round_begins_with_the_first_rounds_model(ended: tuple[Path, Run]) -> None:
    _, run = ended
    made = run.artifacts
    assert list(made)[-3:] == ["answers-2", "round-2", "round-2-exam"]

    def taken(stage: str, key: str) -> str:
        return made[stage].manifest.inputs[key].content

    for stage, key, other in (
        ("answers-1", "model", "chat"),
        ("round-1", "model", "chat"),
        ("round-1", "preferences", "answers-1"),
        ("answers-2", "model", "round-1"),
        ("answers-2", "reward", "reward"),
        ("round-2", "model", "round-1"),
        ("round-2", "preferences", "answers-2"),
        ("round-2-exam", "before", "round-1"),
    ):
        assert taken(stage, key) == made[other].manifest.content, stage
    for number in (1, 2):
        answers, trained = made[f"answers-{number}"], made[f"round-{number}"]
        assert answers.figures["answers"] == 96 and answers.figures["preferences"] > 5
        assert trained.figures["data"]["groups"]["read"] == answers.figures["preferences"]
        # At its beginning the model is its own reference: that of the second round is the first round's model.
        assert trained.figures["validation"]["first"]["chosen"] == pytest.approx(0, abs=1e-6)
    first, second = (read_jsonl(made[f"answers-{n}"].path / "preferences.jsonl") for n in (1, 2))
    assert first != second


@pytest.mark.slow
def test_a_teacher_ranks_what_the_model_says(ended: tuple[Path, Run]) -> None:
    here, run = ended
    labels, taught = run.artifacts["labels"], run.artifacts["taught"]
    teacher = labels.manifest.inputs["judge"]
    assert (labels.path / teacher.path).resolve() == (here / "teacher").resolve()
    rows = read_jsonl(labels.path / "preferences.jsonl")
    assert len(rows) == labels.figures["preferences"] == taught.figures["data"]["groups"]["read"] > 5
    assert taught.manifest.inputs["model"].content == run.artifacts["chat"].manifest.content
    assert taught.manifest.inputs["preferences"].content == labels.manifest.content


@pytest.mark.slow
def test_constitution_goes_on_to_sft_and_to_preferences(ended: tuple[Path, Run], tmp_path: Path) -> None:
    """Revised answers are learned as instructions, and the labels by DPO, by the model that they began with."""
    here, _ = ended
    loop = "loop: {steps: 2, rows: 4, sequence_length: 256, device: cpu}"
    (tmp_path / "r.yaml").write_text(
        f"""\
name: principled
stages:
  written: {{kind: constitution, model: {here}/run/chat, data: {here}/prompts.jsonl, max_new_tokens: 8, least_mass: 0}}
  revised: {{kind: sft, model: {here}/run/chat, instructions: written, {loop}}}
  chosen: {{kind: preference, model: revised, preferences: written, {loop}}}
exam:
  revised: {{tasks: [persistence], max_items: 1, random_row: false}}
  chosen: {{tasks: [persistence], max_items: 1, random_row: false}}
"""
    )
    made = run_recipe(load_recipe(str(tmp_path / "r.yaml")), tmp_path / "run").artifacts
    written, revised, chosen = (made[name].figures for name in ("written", "revised", "chosen"))
    assert revised["data"]["read"] == written["instructions"] > 0
    assert chosen["data"]["groups"]["read"] == written["preferences"] > 0
    assert (tmp_path / "run" / "chosen" / "model.safetensors").is_file()
    assert made["chosen"].manifest.inputs["model"].content == made["revised"].manifest.content


def test_without_a_teacher_its_stages_are_left_out(tmp_path: Path) -> None:
    names = [step.name for step in steps(load_recipe("iterate", assignments(tmp_path)))]
    assert "labels" not in names and "taught" not in names and "taught-exam" not in names
    teacher = ["labels.judge=chat", f"labels.data={tmp_path / 'prompts.jsonl'}"]
    (tmp_path / "two").mkdir()
    names = [step.name for step in steps(load_recipe("iterate", assignments(tmp_path / "two", *teacher)))]
    assert names.index("labels") < names.index("taught") < names.index("taught-exam")
    own = [f"corpus.inputs={tmp_path}", f"chat.data={tmp_path}"]
    assert [step.name for step in steps(load_recipe("iterate", own))][-1] == "chat-exam"
    prompts = tmp_path / "prompts.jsonl"
    with pytest.raises(HanlinError, match=r"'reward' is left out, because reward\.data is not given"):
        steps(load_recipe("iterate", [*own, f"answers-1.data={prompts}"]))
    one = [f"reward.data={tmp_path}", f"answers-1.data={prompts}"]
    assert [step.name for step in steps(load_recipe("iterate", [*own, *one]))][-1] == "round-1-exam"

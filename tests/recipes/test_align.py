"""The recipe for data of one's own, on small files of every form that it names."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hanlin.artifacts import HanlinError, UsageError
from hanlin.recipes.recipe import load_recipe, steps
from hanlin.recipes.runner import run_recipe
from tests.processes import hanlin

SHARED = Path(__file__).parents[2].parent / "shared/data"
TRAINED = ("base", "chat", "reward", "ppo", "dpo", "kto")


def small(*stages: str) -> list[str]:
    """What makes a recipe take seconds; the models learn next to nothing."""
    return [
        "minutes=null",
        "tokenizer.vocabulary_size=500",
        "base.model={hidden_size: 32, layers: 1, heads: 1, max_positions: 512}",
        *(f"{stage}.loop.steps=2" for stage in stages),
        *(f"{stage}.loop.sequence_length=256" for stage in stages),
        *(f"{stage}.loop.device=cpu" for stage in stages),
        "exam.chat.max_items=4",
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_texts(folder: Path) -> Path:
    words = "people bake bread beside the river and sing of the town where they were born".split()  # noqa: SIM905 (a text, not a list)
    folder.mkdir()
    for number in range(30):
        text = " ".join(words[(number * 7 + step * (number % 5 + 1)) % len(words)] for step in range(120))
        (folder / f"{number}.txt").write_text(f"The story of {number}. {text}.\n")
    return folder


def tool_talk(number: int) -> dict[str, Any]:
    """A conversation of several turns in which a tool is called."""
    call = {"name": "look_up", "arguments": {"number": number}}
    turns = [
        ("human", f"Look {number} up."),
        ("function_call", json.dumps(call)),
        ("observation", "{}"),
        ("gpt", f"{number}."),
    ]
    tools = [{"name": "look_up", "description": "Look up", "parameters": {"type": "object", "properties": {}}}]
    return {"conversations": [{"from": who, "value": what} for who, what in turns], "tools": json.dumps(tools)}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    here = tmp_path_factory.mktemp("align")
    make_texts(here / "texts")
    write(here / "chats" / "alpaca.jsonl", [{"instruction": f"Say {n}.", "output": f"{n}."} for n in range(40)])
    write(here / "chats" / "tools.jsonl", [tool_talk(n) for n in range(10)])
    pairs = [{"prompt": f"Say {n}.", "chosen": f"{n}.", "rejected": "No."} for n in range(30)]
    write(here / "preference" / "pairs.jsonl", pairs)
    write(
        here / "preference" / "hh.jsonl",
        [
            {
                "chosen": f"\n\nHuman: Say {n}.\n\nAssistant: {n}, gladly.",
                "rejected": f"\n\nHuman: Say {n}.\n\nAssistant: Why?",
            }
            for n in range(30, 50)
        ],
    )
    judged = [
        {"prompt": f"Say {n}.", "completion": f"{n}." if n % 2 else "No.", "label": bool(n % 2)} for n in range(20)
    ]
    write(here / "preference" / "kto.jsonl", judged)
    data, policy = here / "preference", ("ppo.loop.rows=8", "ppo.rollout.prompts=8", "ppo.max_new_tokens=8")
    found = hanlin(
        "run", "align", "corpus.inputs=texts", "chat.data=chats", f"reward.data={data}", f"dpo.data={data}",
        f"kto.data={data}", "ppo.data=chats", *small(*TRAINED), *policy, cwd=here, timeout=600,
    )  # fmt: skip
    return here, found


@pytest.mark.slow
def test_it_goes_the_whole_way(ended):
    here, found = ended
    assert found.returncode == 0, found.stderr
    run = here / "runs" / "align"
    for stage in ("chat", "ppo", "dpo", "kto"):
        assert (run / stage / "model.safetensors").is_file()
    assert json.loads((run / "reward" / "config.json").read_text())["architectures"] == [
        "Qwen3ForSequenceClassification"
    ]
    said = "20 of 70 preferences are single answers, judged good or bad: this stage learns from pairs"
    assert said in " ".join((found.stdout + found.stderr).split())


@pytest.mark.slow
def test_the_account_of_what_was_read(ended):
    here, _ = ended
    results = json.loads(hanlin("results", here / "runs" / "align", "--json").stdout)
    groups = results["stages"]["dpo"]["figures"]["data"]["groups"]
    assert groups["read"] == groups["kept"] == 50 and groups["of_another_form"] == 20
    assert results["stages"]["kto"]["figures"]["data"]["groups"]["read"] == 120
    assert results["stages"]["ppo"]["figures"]["rollouts"]
    chats = results["stages"]["chat"]["figures"]["data"]
    assert (chats["rows"], chats["read"], chats["forms"]) == (50, 50, {"alpaca": 40, "sharegpt": 10})
    assert results["stages"]["chat"]["exams"]["persistence"]["held"]["n"] == 4
    traced = json.loads(hanlin("trace", here / "runs" / "align", "--stage", "dpo", "--step", 1, "--json").stdout)
    assert {entry["file"] for entry in traced["documents"]} <= {"pairs.jsonl", "hh.jsonl"}


# ---------------------------------------------------------------------- what is wrong is said


def test_a_stage_that_needs_another_says_what_to_give(tmp_path):
    make_texts(tmp_path / "texts")
    chats = write(tmp_path / "chats.jsonl", [{"instruction": "Say 1.", "output": "1."}])
    given = [f"corpus.inputs={tmp_path / 'texts'}", f"chat.data={chats}"]
    assert [step.name for step in steps(load_recipe("align", given))][-1] == "chat-exam"
    said = r"ppo\.reward: the stage 'reward' is left out, because reward\.data is not given\. Give reward\.data"
    with pytest.raises(HanlinError, match=said):
        steps(load_recipe("align", [*given, f"ppo.data={chats}"]))
    with pytest.raises(UsageError, match=r"dpo\.data: there is no file or folder /nowhere"):
        run_recipe(load_recipe("align", [*given, "dpo.data=/nowhere"]), tmp_path / "run")


KINDS = {
    "preference": {"prompt": "Say 1.", "chosen": "1.", "rejected": "No."},
    "kto": {"prompt": "Say 1.", "completion": "1.", "label": True},
    "alpaca": {"instruction": "Say 1.", "output": "1."},
    "prompt": {"prompt": "Say 1.", "answers": ["1."]},
    "text": {"text": "One."},
    "unknown": {"number": 1},
}


@pytest.mark.parametrize(
    ("setting", "given", "said"),
    [
        ("reward.data", "kto", r"\(kto\.jsonl\) all 3 preferences are single answers.*pairs.*loss: kto"),
        ("dpo.data", "kto", r"\(kto\.jsonl\) all 3 preferences are single answers.*pairs.*loss: kto"),
        ("dpo.data", "alpaca", r"alpaca\.jsonl: .*'alpaca' .*of kind sft and instructions\. Known forms:.*hh-rlhf"),
        ("kto.data", "alpaca", r"alpaca\.jsonl: .*'alpaca' .*of kind sft and instructions\. Known forms:.*kto"),
        ("reward.data", "prompt", r"prompt\.jsonl: .*a prompt alone is for stages that answer: ppo"),
        ("chat.data", "preference", r"preference\.jsonl: .*for stages of kind reward, preference and rrhf"),
        ("ppo.data", "text", r"there is no prompt in text\.jsonl; the first row: .*row 1 .*a text is no prompt"),
        ("best.data", "unknown", r"unknown\.jsonl: .*the keys number are of no known form"),
        ("made.data", "preference", r"preference\.jsonl: .*for stages of kind reward, preference and rrhf"),
        ("made.data", "text", r"no conversation in text\.jsonl: all rows are plain text"),
        ("seeded.seeds", "text", r"text\.jsonl, row 1: a seed task is one question with one answer, not plain text"),
        ("judged.data", "unknown", r"unknown\.jsonl: .*the keys number"),
        ("judged.pairs", "alpaca", r"alpaca\.jsonl: .*'alpaca'"),
        ("judged.check", "kto", r"\(kto\.jsonl\) all 3 preferences are single answers.*rankings"),
    ],
)
def test_a_file_of_the_wrong_kind_is_named_before_anything_is_made(setting, given, said, tmp_path):
    (tmp_path / "base").mkdir()
    data = write(tmp_path / f"{given}.jsonl", [KINDS[given]] * 3)
    good = write(tmp_path / "good.jsonl", [KINDS["preference"]])
    stage, key = setting.split(".")
    kinds = {
        "dpo": "preference",
        "kto": "preference, loss: kto",
        "chat": "sft",
        "reward": "reward",
        "ppo": "ppo, program: exact",
        "best": "best-of-n, program: exact",
        "made": "instructions",
        "seeded": "self-instruct",
        "judged": "constitution" if key == "data" else f"constitution, data: {good}",
    }
    # The world has its turn first: it would be there if the look came with the stage's own turn.
    body = f"{{kind: {kinds[stage]}, {key}: {data}" + ("" if stage == "made" else f", model: {tmp_path / 'base'}") + "}"
    stages = f"  world: {{kind: world, entities: 60}}\n  {stage}: {body}\n"
    exam = "" if stage == "reward" else f"exam:\n  {stage}: {{tasks: [persistence]}}\n"
    (tmp_path / "one.yaml").write_text(f"name: one\nstages:\n{stages}{exam}")
    recipe = load_recipe(str(tmp_path / "one.yaml"))
    with pytest.raises(UsageError, match=rf"(?s)^{stage}\.{key}: .*{said}"):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_look_refuses_nothing_that_its_stage_could_use(tmp_path):
    """Rows that can be used behind many that can't, in a folder beside other files, or in one of several paths."""
    from hanlin.alignment.asked import look_for_prompts
    from hanlin.alignment.prepared import look_for_preferences

    odd = write(tmp_path / "late" / "a.jsonl", [KINDS["unknown"]] * 90 + [KINDS["kto"]] * 200 + [KINDS["preference"]])
    write(tmp_path / "late" / "b.jsonl", [KINDS["alpaca"]] * 3)
    single = write(tmp_path / "kto.jsonl", [KINDS["kto"]] * 3)
    look_for_preferences([odd], "pairs", alone=True)
    look_for_preferences([tmp_path / "late"], "rankings", alone=True)
    look_for_preferences([single, odd], "pairs", alone=True)
    look_for_preferences([odd, single], "pairs", alone=True)
    look_for_preferences([single], "judged", alone=True)
    look_for_preferences([single], "pairs", alone=False)  # a world's pairs are learned beside it
    with pytest.raises(HanlinError, match="alpaca"):
        look_for_preferences([odd, tmp_path / "late" / "b.jsonl"], "pairs", alone=False)
    text = write(tmp_path / "text.jsonl", [KINDS["text"]])
    look_for_prompts([text], alone=False)
    look_for_prompts([text, single], alone=True)


def test_a_look_reads_no_further_than_to_the_first_row_of_use(tmp_path, monkeypatch):
    from hanlin.alignment.prepared import look_for_preferences
    from hanlin.data import formats

    read: list[int] = []

    def counted(path):
        container, rows = real(path)
        return container, (read.append(row.number) or row for row in rows)

    real = formats.read_rows
    monkeypatch.setattr(formats, "read_rows", counted)
    data = write(tmp_path / "data.jsonl", [KINDS["kto"]] * 2 + [KINDS["preference"]] * 500)
    look_for_preferences([data], "pairs", alone=True)
    assert read == [1, 2, 3]


# ---------------------------------------------------------------------- the real data


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not here")
def test_every_row_of_the_real_data_is_read():
    from hanlin.data.formats import read_instructions
    from hanlin.data.preferences import read_rankings
    from hanlin.data.prompts import read_prompts

    talks, report = read_instructions(SHARED / "instruct")
    assert report.rows == report.read == 3_099 and not report.quarantined
    assert report.forms == {"alpaca": 1_999, "sharegpt": 600, "messages": 500}
    calls = [one for one in talks if any(message.tool_calls for message in one.messages)]
    assert len(calls) > 300 and all(one.tools for one in calls)
    rankings, report = read_rankings(SHARED / "preference")
    assert report.rows == report.read == 3_212 and not report.quarantined
    assert report.forms == {"sharegpt-preference": 600, "hh-rlhf": 2_312, "kto": 300}
    assert Counter(len(one.answers) for one in rankings) == {2: 2_912, 1: 300}
    assert len(read_prompts([SHARED / "instruct", SHARED / "preference"])[0]) == 6_311

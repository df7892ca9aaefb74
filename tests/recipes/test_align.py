"""The recipe for data of one's own, on small files of every form that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import hanlin

SMALL = [
    "tokenizer.vocabulary_size=500",
    "base.model={hidden_size: 32, layers: 1, heads: 1}",
    *(f"{stage}.loop.steps=2" for stage in ("base", "chat", "reward", "ppo", "dpo", "kto")),
    *(f"{stage}.loop.sequence_length=256" for stage in ("base", "chat", "reward", "ppo", "dpo", "kto")),
    "ppo.loop.rows=8",
    "ppo.rollout.prompts=8",
    "ppo.max_new_tokens=8",
    "minutes=null",
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    here = tmp_path_factory.mktemp("align")
    words = [
        "people",
        "bake",
        "bread",
        "beside",
        "the",
        "river",
        "and",
        "sing",
        "of",
        "the",
        "town",
        "where",
        "they",
        "were",
        "born",
    ]
    for number in range(30):
        text = " ".join(words[(number * 7 + step * (number % 5 + 1)) % len(words)] for step in range(120))
        (here / "texts").mkdir(exist_ok=True)
        (here / "texts" / f"{number}.txt").write_text(f"The story of {number}. {text}.\n")
    write(here / "chats.jsonl", [{"instruction": f"Say {n}.", "output": f"{n}."} for n in range(40)])
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
    data = here / "preference"
    found = hanlin(
        "run", "align", "corpus.inputs=texts", "chat.data=chats.jsonl", f"reward.data={data}", f"dpo.data={data}",
        f"kto.data={data}", "ppo.data=chats.jsonl", *SMALL, cwd=here, timeout=600,
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
    assert "20 preferences are not of the form 'pairs' that this loss needs, and are left out" in " ".join(
        (found.stdout + found.stderr).split()
    )


@pytest.mark.slow
def test_the_account_of_what_was_read(ended):
    here, _ = ended
    results = json.loads(hanlin("results", here / "runs" / "align", "--json").stdout)
    groups = results["stages"]["dpo"]["figures"]["data"]["groups"]
    assert groups["read"] == groups["kept"] == 50 and groups["of_another_form"] == 20
    assert results["stages"]["kto"]["figures"]["data"]["groups"]["read"] == 120
    assert results["stages"]["ppo"]["figures"]["rollouts"]
    traced = json.loads(hanlin("trace", here / "runs" / "align", "--stage", "dpo", "--step", 1, "--json").stdout)
    assert {entry["file"] for entry in traced["documents"]} <= {"pairs.jsonl", "hh.jsonl"}

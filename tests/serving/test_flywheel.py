"""From what is said to a running service to the version that it serves next, by the command."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch

from hanlin.artifacts import Artifact, HanlinError, UsageError, read_jsonl
from hanlin.recipes.recipe import load_recipe, steps
from hanlin.serving.feedback_stage import FeedbackSettings, look_for_database
from hanlin.serving.keys import Keys
from hanlin.serving.serve_stage import ServeStageSettings, look_for_service
from hanlin.serving.settings import ModelSettings
from hanlin.serving.store import Database
from tests.alignment.toy import make_model
from tests.processes import hanlin
from tests.serving.live import Live, serving

WORD = "gladly"
TRAINING = [
    "feedback.min_pairs=40",
    "feedback.held_out=0.4",
    "dpo.loop.sequence_length=128",
    "dpo.loop.rows=8",
    "dpo.loop.epochs=5",
    "dpo.loop.optimizer.learning_rate=0.004",
    "dpo.loop.device=cpu",
    "exam.dpo.device=cpu",
]


def preference(number: int, chosen_has_word: bool = True) -> dict[str, Any]:
    """A choice between answers of the same length, of which one has WORD in it."""
    draw = random.Random(number)
    filler = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=12))
    texts = [f"{filler[:6]} {WORD}", f"{filler[6:]} {''.join(draw.choices('mnopqrstuvw', k=len(WORD)))}"]
    order = draw.random() < 0.5
    return {
        "kind": "preference",
        "messages": [{"role": "user", "content": f"Do you like number {number}?"}],
        "responses": [{"model": "mine@1", "content": text} for text in (texts if order else texts[::-1])],
        "chosen": int(order != chosen_has_word),
        "consent": True,
    }


def edit(number: int) -> dict[str, Any]:
    one = preference(number)
    chosen, rejected = one["responses"][one["chosen"]], one["responses"][1 - one["chosen"]]
    texts = {"response": rejected["content"], "edited": chosen["content"]}
    return {"kind": "edit", "model": "mine@1", "messages": one["messages"], **texts, "consent": True}


def rating(number: int) -> dict[str, Any]:
    said = {"response": f"{WORD} {number}", "rating": "up"}
    messages = [{"role": "user", "content": f"Rate {number}"}]
    return {"kind": "rating", "model": "mine@1", "messages": messages, **said, "consent": True}


class Turning:
    """A live service over a model, and the recipe run on what is said to it."""

    def __init__(self, live: Live, here: Path, key: str | None) -> None:
        self.live, self.here, self.key = live, here, key

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    def say(self, *said: dict[str, Any], status: int = 201) -> None:
        for one in said:
            response = self.live.post("/v1/feedback", one, headers=self.headers)
            assert response.status_code == status, response.text

    def run(self, *more: str, service: bool = True) -> CompletedProcess[str]:
        given = [f"feedback.database={self.here / 'service.db'}", f"dpo.model={self.here / 'model'}", *TRAINING, *more]
        given += [f"serve.service={self.live.url}"] if service else []
        return hanlin("run", "flywheel", *given, cwd=self.here)

    def answers(self) -> str:
        body = {"model": "mine", "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 2}
        response = self.live.post("/v1/chat/completions", body, headers=self.headers)
        assert response.status_code == 200, response.text
        return response.json()["model"]

    def artifact(self, stage: str) -> Artifact:
        return Artifact.load(self.here / "runs/flywheel" / stage)


@contextmanager
def turning(here: Path, monkeypatch: pytest.MonkeyPatch, keyed: bool) -> Iterator[Turning]:
    torch.set_num_threads(1)
    make_model(here / "model")
    store = Database(str(here / "service.db"))
    keys = Keys(store) if keyed else None
    secret = keys.create("operator", "admin")[1] if keys else None
    if secret:
        monkeypatch.setenv("HANLIN_API_KEY", secret)
    models = [ModelSettings(path=str(here / "model"), name="mine")]
    with serving(here / "model", keys=keys, store=store, models=models) as live:
        yield Turning(live, here, secret)


def test_feedback_becomes_the_next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with turning(tmp_path, monkeypatch, keyed=True) as one:
        assert one.key is not None
        one.say(*(preference(number) for number in range(50)), *(edit(number) for number in range(50, 60)))
        one.say(rating(1), rating(2), {**preference(99), "chosen": None})
        one.say({**preference(1000), "consent": False}, status=400)
        first = one.run()
        assert first.returncode == 0, first.stdout + first.stderr
        said = " ".join((first.stdout + first.stderr).split())
        assert "63 read = 62 used + 1 left out" in said
        assert one.answers() == "mine@2"

        feedback = one.artifact("feedback")
        account = json.loads((feedback.path / "export/account.json").read_text())
        assert account["reasons"] == {"neither answer is better": 1}
        pairs, learned = feedback.figures["pairs"], read_jsonl(feedback.path / "preferences.jsonl")
        items = read_jsonl(feedback.path / "exams/pairs.jsonl")
        assert pairs["learned"] + pairs["held_out"] == 60 and pairs["held_out"] == len(items) > 10
        begun = {row["prompt"][0]["content"] for row in learned}
        assert not begun & {item["messages"][0]["content"] for item in items}
        assert all(WORD in item["chosen"] and WORD not in item["rejected"] for item in items)
        (gate,) = one.artifact("dpo-exam").figures["gates"]
        assert gate["passed"] and gate["n"] == len(items) and gate["before"] < gate["after"]
        assert one.artifact("dpo").figures["data"]["groups"]["read"] == pairs["learned"]

        # Nothing new: nothing is done. What was said and is of no use makes no new model either.
        done = {name: one.artifact(name).id for name in ("feedback", "dpo", "dpo-exam", "serve")}
        assert one.run().returncode == 0
        assert {name: one.artifact(name).id for name in done} == done
        one.say({**preference(98), "chosen": None})
        assert one.run().returncode == 0
        assert one.artifact("feedback").id != done["feedback"] and one.artifact("dpo").id == done["dpo"]
        assert one.answers() == "mine@2"

        # More is said: the next version, beside the one that is served and that stays where it was.
        one.say(*(preference(number) for number in range(100, 110)))
        again = one.run()
        assert again.returncode == 0 and one.answers() == "mine@3"
        served = one.artifact("serve").figures
        assert (served["version"], served["before"]["version"], served["switched"]) == ("3", "2", True)
        assert "which is another model" in " ".join((again.stdout + again.stderr).split())
        command = served["back"]
        assert "/admin/models/rollback" in command and "$HANLIN_API_KEY" in command
        assert os.waitstatus_to_exitcode(os.system(f"{command} -sf -o {tmp_path / 'said'}")) == 0
        assert one.answers() == "mine@2"
        held = read_jsonl(one.artifact("feedback").path / "exams/pairs.jsonl")
        assert {item["id"] for item in items} <= {item["id"] for item in held}

        texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "service.db" not in path.name]
        assert texts and not any(one.key.encode() in text for text in texts)


def test_what_contradicts_itself_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with turning(tmp_path, monkeypatch, keyed=False) as one:
        few = [preference(number, number % 2 == 0) for number in range(30)]
        one.say(*few)
        refused = one.run()
        assert refused.returncode == 1
        told = " ".join(refused.stderr.split())
        assert "there are 30 pairs" in told and "min_pairs asks for 40: 10 are missing" in told
        one.say(*(preference(number, number % 2 == 0) for number in range(30, 60)))
        failed = one.run()
        assert failed.returncode == 1 and "the gate on feedback/pairs failed" in " ".join(failed.stderr.split())
        assert not (tmp_path / "runs/flywheel/serve").exists()
        assert not list((tmp_path / "runs/flywheel").glob("version-*"))
        assert one.answers() == "mine@1"
        with one.live.client() as client:
            (entry,) = client.get("/admin/models").json()["models"]
        assert [version["version"] for version in entry["versions"]] == ["1"]

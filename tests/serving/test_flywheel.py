"""From what is said to a running service to the version that it serves next, by the command."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch

from hanlin.artifacts import Artifact, HanlinError, StageContext, UsageError, read_jsonl
from hanlin.artifacts.store import InputEntry
from hanlin.data.preferences import read_preferences
from hanlin.recipes.recipe import load_recipe, steps
from hanlin.serving.annotation import Annotation
from hanlin.serving.annotation_tasks import Submission
from hanlin.serving.feedback import FEEDBACK, FeedbackStore
from hanlin.serving.feedback_stage import FEEDBACK_STAGE, FeedbackSettings
from hanlin.serving.keys import Keys
from hanlin.serving.serve_stage import SERVE_STAGE, ServeStageSettings
from hanlin.serving.settings import ModelSettings
from hanlin.serving.store import Database
from tests.alignment.toy import make_model
from tests.conftest import Told
from tests.processes import hanlin
from tests.serving.live import Live, serving

WORD = "gladly"
TRAINING = [
    "feedback.min_pairs=40",
    "feedback.held_out=0.4",
    "dpo.loop.sequence_length=128",
    "dpo.loop.rows=8",
    "dpo.loop.epochs=5",
    "dpo.loop.precision=fp32",
    "dpo.validation_fraction=0",
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
        task = {"name": "letters", "kind": "choice", "data": "letters.jsonl"}
        (tmp_path / "letters.yaml").write_text(json.dumps(task))
        (tmp_path / "letters.jsonl").write_text('{"prompt": "a", "choices": ["b", "c"], "answer": 0}\n')
        again = one.run("exam.dpo.tasks=[feedback/pairs, letters.yaml]")
        assert again.returncode == 0 and one.answers() == "mine@3"
        served = one.artifact("serve").figures
        assert (served["version"], served["before"]["version"], served["switched"]) == ("3", "2", True)
        assert "which is another model" in " ".join((again.stdout + again.stderr).split())
        command = served["back"]
        assert "/admin/models/rollback" in command and "$HANLIN_API_KEY" in command
        assert os.waitstatus_to_exitcode(os.system(f"{command} -sf -o {tmp_path / 'said'}")) == 0
        assert one.answers() == "mine@2"
        assert one.artifact("dpo-exam").figures["tasks"]["letters"]["accuracy"]["n"] == 1
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


# ---------------------------------------------------------------------- the stages by themselves


def stored(directory: Path, *said: dict[str, Any]) -> str:
    path = directory / "said.db"
    store = FeedbackStore(Database(str(path)))
    for one in said:
        store.add(FEEDBACK.validate_python(one))
    return str(path)


def exported(directory: Path, **settings: Any) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """Figures, what is to be learned, and the exam's items."""
    settings = {"min_pairs": 2, "database": str(directory / "said.db"), **settings}
    work = directory / "work"
    work.mkdir(exist_ok=True)
    figures = FEEDBACK_STAGE.run(FeedbackSettings(**settings), StageContext(work, {}))
    return figures, read_jsonl(work / "preferences.jsonl"), read_jsonl(work / "exams/pairs.jsonl")


def test_conversations_that_begin_alike_stay_together(tmp_path: Path) -> None:
    """Whatever was said before or later in them, and however much else there is."""
    said: list[dict[str, Any]] = []
    for number in range(40):
        first = preference(number)
        later = preference(number + 1000)
        question = first["messages"][0]["content"]
        system = {"role": "system", "content": f"You are {number}."}
        later["messages"] = [
            system,
            {"role": "user", "content": f" {question.upper()} "},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": f"Why? {number}"},
        ]
        said += [first, later]
    database = stored(tmp_path, *said[:60])
    figures, learned, items = exported(tmp_path)
    assert figures["pairs"] == {"learned": len(learned), "held_out": len(items)} and len(learned) + len(items) == 60

    def begin(rows: list[Any], key: str) -> set[str]:
        users = [next(one["content"] for one in row[key] if one["role"] == "user") for row in rows]
        return {text.strip().casefold() for text in users}

    assert not begin(learned, "prompt") & begin(items, "messages")
    assert len(begin(learned, "prompt") | begin(items, "messages")) == 30
    stored(tmp_path, *said[60:])
    _, _, more = exported(tmp_path, database=database)
    assert {item["id"] for item in items} < {item["id"] for item in more}
    assert 0.1 < len(more) / 80 < 0.45  # a quarter, ± 3 standard errors of 40 conversations


def test_what_a_ranking_and_a_judgement_become(tmp_path: Path) -> None:
    annotation = Annotation(Database(str(tmp_path / "said.db")))
    annotation.create("order", "ranking", overlap=1)
    rows = [
        {"messages": [{"role": "user", "content": f"Name {number}"}], "responses": ["a", "b", "c"]}
        for number in range(24)
    ]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    annotation.add_file("order", tmp_path / "tasks.jsonl")
    while (task := annotation.next("order", "ann")) is not None:
        said = {"answer": {"kind": "ranking", "ranks": [2, 1, 2]}}
        annotation.answer(task["id"], "ann", Submission.model_validate(said))
    stored(tmp_path, *(rating(number) for number in range(24)))
    figures, learned, items = exported(tmp_path)
    ranked = [row for row in learned if "responses" in row]
    assert (
        figures["pairs"] == {"learned": 2 * len(ranked), "held_out": len(items)}
        and sum(figures["pairs"].values()) == 48
    )
    assert {(item["chosen"], item["rejected"]) for item in items} == {("b", "a"), ("b", "c")}
    judged = [row for row in learned if "label" in row]
    assert figures["judged"] == {"learned": len(judged), "held_out": 24 - len(judged)}
    assert {len(judged), len(ranked)} & {0, 24} == set()
    assert read_preferences(tmp_path / "work/preferences.jsonl")[1].read == len(learned)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"database": "postgresql+psycopg://me:secret@host/name"}, "database holds a password"),
        ({"database": "postgresql+psycopg://host/name?user=me&password=secret"}, "database holds a password"),
        ({"held_out": 1.0}, "held_out"),
        ({"min_pairs": 1}, "min_pairs"),
    ],
)
def test_settings_of_feedback_that_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(HanlinError, match=said) as refused:
        given = [f"feedback.{name}={value}" for name, value in settings.items()]
        steps(load_recipe("flywheel", ["dpo.model=/tmp", *given]))
    assert "secret" not in str(refused.value)


def test_too_little_is_refused_with_the_account(tmp_path: Path) -> None:
    stored(tmp_path, *(preference(number) for number in range(5)), {**preference(9), "chosen": None})
    told = r"(?s)there are 5 pairs .* asks for 8: 3 are missing.*6 read = 5 used \+ 1 left out.*1, neither answer"
    with pytest.raises(HanlinError, match=told):
        exported(tmp_path, min_pairs=8)
    with pytest.raises(HanlinError, match=r"none of 5 pairs is held out: .* held_out, which is 0\.001, is too low"):
        exported(tmp_path, held_out=0.001)
    with pytest.raises(UsageError, match="there is no database"):
        exported(tmp_path, database=str(tmp_path / "none.db"))
    assert not (tmp_path / "none.db").exists()


def examined(directory: Path, gates: list[dict[str, Any]], content: str | None = None) -> dict[str, Artifact]:
    """A model and its exam, as the runner hands them over."""
    model = make_model(directory / "model")
    content = model.manifest.content if content is None else content
    entry = InputEntry(id="x", content=content, path="../model")
    manifest = model.manifest.model_copy(
        update={"stage": "dpo-exam", "kind": "exam", "inputs": {"model": entry}, "figures": {"gates": gates}}
    )
    return {"model": model, "exam": Artifact(directory / "exam", manifest)}


PASSED = {"passed": True, "text": "well"}


@pytest.mark.parametrize(
    ("gates", "content", "said"),
    [
        ([], None, "has no gate"),
        ([PASSED, {"passed": False, "text": "it is worse"}], None, "failed its exam and is not served: it is worse"),
        ([PASSED], "another", "is not the exam of"),
    ],
)
def test_nothing_is_served_that_did_not_pass(gates: Any, content: str | None, said: str, tmp_path: Path) -> None:
    context = StageContext(tmp_path / "work", examined(tmp_path, gates, content))
    with pytest.raises(HanlinError, match=said):
        SERVE_STAGE.run(ServeStageSettings(model="dpo", exam="dpo-exam"), context)
    assert not list(tmp_path.glob("version-*"))


def test_without_a_service_the_command_is_told(tmp_path: Path) -> None:
    said = Told()
    context = StageContext(tmp_path / "work", examined(tmp_path, [PASSED]), progress=said)
    for _ in range(2):  # done twice, it is the same version
        figures = SERVE_STAGE.run(ServeStageSettings(model="dpo", exam="dpo-exam", name="mine"), context)
        version = tmp_path / "version-2"
        assert figures["command"] == f"hanlin serve mine@2={version}" and figures["command"] in said.lines[-1]
        assert (version / "model.safetensors").stat().st_ino == (tmp_path / "model/model.safetensors").stat().st_ino
        assert [path.name for path in tmp_path.glob("*version*")] == ["version-2"]
    shutil.rmtree(tmp_path / "model")
    context = StageContext(tmp_path / "work", examined(tmp_path, [PASSED]), progress=said)
    (tmp_path / "model/model.safetensors").write_bytes(b"others")
    assert SERVE_STAGE.run(ServeStageSettings(model="dpo", exam="dpo-exam"), context)["version"] == "3"


@pytest.fixture
def own(directory: Path) -> Iterator[Live]:
    """A service that a test may change."""
    with serving(directory) as live:
        yield live


def test_a_trial_before_all_of_them(own: Live, tmp_path: Path) -> None:
    inputs, said = examined(tmp_path, [PASSED]), Told()

    def serve(**settings: Any) -> dict[str, Any]:
        context = StageContext(tmp_path, inputs, progress=said)
        chosen = {"model": "dpo", "exam": "dpo-exam", "service": own.url, **settings}
        return SERVE_STAGE.run(ServeStageSettings(**chosen), context)

    def state() -> dict[str, Any]:
        with own.client() as client:
            (one,) = client.get("/admin/models").json()["models"]
            return one

    trial = serve(canary=0.25)
    assert (trial["switched"], state()["current"]) == (False, "1")
    assert state()["canary"] == {"version": "2", "share": 0.25} and "/canary" in trial["back"]
    assert "random weights" in said.lines[0], "the exam had no model before to compare with"
    whole = serve(keep=True)
    assert (whole["switched"], whole["version"], state()["current"], state()["canary"]) == (True, "2", "2", None)
    assert serve()["version"] == "2" and len(state()["versions"]) == 2, "done again, nothing is loaded again"
    response = own.post("/admin/models/rollback", {"name": "tiny"})
    assert response.status_code == 200 and state()["current"] == "1"
    # Weights that can't be loaded leave the service as it was.
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/model.safetensors").unlink()
    (tmp_path / "model/model.safetensors").write_bytes(b"no weights")
    with pytest.raises(HanlinError, match=r"/admin/models refused \(\d+\)"):
        serve()
    assert state()["current"] == "1"


@pytest.mark.parametrize(
    ("service", "name", "said"),
    [
        ("http://127.0.0.1:9", None, "no service answers at .*is it running"),
        ("LIVE", "other", "serves tiny, long, and 'other' is none of them: serve.name=NAME"),
        ("LIVE", None, "which of them the new version is of must be said"),
    ],
)
def test_a_service_is_looked_for_before_anything_is_made(live: Live, service: str, name: str | None, said: str) -> None:
    url = live.url if service == "LIVE" else service
    with pytest.raises(HanlinError, match=said):
        SERVE_STAGE.looks["service"](ServeStageSettings(model="m", exam="e", service=url, name=name))


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8000", "ftp://host", "http://host/path", "http://", "http://k:key@host"]
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(HanlinError, match="service") as refused:
        steps(load_recipe("flywheel", ["dpo.model=/tmp", f"serve.service={address}"]))
    assert "k:key" not in str(refused.value)


def test_the_guides_commands_are_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).parents[2] / "docs/guides.md").read_text(encoding="utf-8")
    commands = [shlex.split(line) for line in guide.splitlines() if line.startswith("hanlin run flywheel ")]
    assert len(commands) == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/world/chat").mkdir(parents=True)
    (tmp_path / "numbers.yaml").write_text("{name: numbers, kind: choice, data: numbers.jsonl}")
    (tmp_path / "numbers.jsonl").write_text("{}")
    for _, _, *words in commands:
        found = steps(load_recipe(words[0], words[1:]))
        assert [step.name for step in found] == ["feedback", "dpo", "dpo-exam", "serve"]
        exam = found[2]
        assert exam.inputs == {"model": "dpo", "feedback": "feedback"} and set(exam.outside) == {"before"}

"""Annotation over HTTP: who may, under which name, and what becomes of the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from hanlin.serving.annotation import Annotation
from hanlin.serving.annotation_tasks import Kind
from hanlin.serving.feedback_export import read_export
from hanlin.serving.keys import Keys
from hanlin.serving.store import Database
from tests.processes import hanlin
from tests.serving.live import Live, serving
from tests.serving.test_refusals import refusal

NEXT, SUMMARY = "/v1/annotation/next", "/v1/annotation/summary"


def pair(number: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"What is {number}?"}]
    return {"messages": messages, "responses": [{"content": f"It is {number}.", "model": "big"}, "No."], **more}


def answer(chosen: int | None) -> dict[str, Any]:
    return {"answer": {"kind": "pair", "chosen": chosen}}


@dataclass
class Annotators:
    """A service with keys, and a project of the test's own."""

    live: Live
    keys: Keys
    database: Database
    here: Path

    def make(self, name: str, rows: list[dict[str, Any]], kind: Kind = "pair", overlap: int = 2) -> str:
        annotation = Annotation(self.database)
        annotation.create(name, kind, overlap=overlap, instructions="Choose the true one.")
        path = self.here / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert annotation.add_file(name, path).added == len(rows)
        return name

    def key(self, role: Any = "annotator") -> tuple[str, str]:
        """(prefix, secret)"""
        key, secret = self.keys.create("someone", role)
        return key.prefix, secret

    def call(self, verb: str, path: str, secret: str | None, body: Any = None, **params: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        with self.live.client() as client:
            return client.request(verb, path, params=params, headers=headers, json=body)

    def next(self, project: str, secret: str | None, annotator: str = "ann") -> dict[str, Any] | None:
        response = self.call("GET", NEXT, secret, project=project, annotator=annotator)
        assert response.status_code in (200, 204), response.text
        return response.json() if response.status_code == 200 else None

    def say(self, task: str, secret: str | None, body: Any, annotator: str = "ann") -> httpx.Response:
        return self.call("POST", f"/v1/annotation/{task}", secret, body, annotator=annotator)


@pytest.fixture(scope="module")
def service(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Annotators]:
    here = tmp_path_factory.mktemp("annotated")
    database = Database(str(here / "service.db"))
    keys = Keys(database)
    with serving(directory, keys=keys, store=database) as live:
        yield Annotators(live, keys, database, here)


def test_annotating_needs_an_annotators_key(service: Annotators) -> None:
    project = service.make("roles", [pair(0)])
    _, user = service.key("user")
    for verb, path, params in (
        ("GET", NEXT, {"project": project, "annotator": "ann"}),
        ("GET", SUMMARY, {"project": project}),
        ("POST", "/v1/annotation/at-1", {"annotator": "ann"}),
    ):
        body = answer(0) if verb == "POST" else None
        assert refusal(service.call(verb, path, None, body, **params), 401)["code"] == "missing_api_key"
        assert refusal(service.call(verb, path, user, body, **params), 403)["code"] == "wrong_role"
    for role in ("annotator", "admin"):
        assert service.call("GET", SUMMARY, service.key(role)[1], project=project).status_code == 200


def test_a_name_is_its_keys_own(service: Annotators) -> None:
    """Two keys may both have an Ann: neither answers for the other, and both count."""
    project = service.make("names", [pair(0)])
    (first, one), (second, other) = service.key(), service.key()
    task = service.next(project, one)
    assert task is not None and refusal(service.say(task["id"], other, answer(0)), 404)["code"] == "not_assigned"
    assert service.next(project, other) == task
    assert service.say(task["id"], one, answer(0)).status_code == 204
    assert service.say(task["id"], other, answer(1)).status_code == 204
    found = service.call("GET", SUMMARY, one, project=project).json()
    assert set(found["annotators"]) == {f"{first}/ann", f"{second}/ann"} and found["complete"] == 1
    assert service.next(project, service.key()[1]) is None, "two have answered it"


def test_names_are_refused_rather_than_cut(service: Annotators) -> None:
    project = service.make("long", [pair(0)])
    prefix, secret = service.key()
    longest = 100 - len(prefix) - 1
    assert service.next(project, secret, "a" * longest) is not None
    for name in ("a" * (longest + 1), "a" * 101, "", "two\nlines"):
        response = service.call("GET", NEXT, secret, project=project, annotator=name)
        assert refusal(response)["param"] == "annotator", name


def test_what_an_annotator_is_shown(service: Annotators) -> None:
    prelabel = {"model": "judge", "answer": {"kind": "pair", "chosen": 0}}
    project = service.make("shown", [pair(7, prelabel=prelabel)])
    task = service.next(project, service.key()[1])
    assert task is not None and task["id"].startswith("at-")
    assert {name: task[name] for name in task if name not in ("id", "prelabel")} == {
        "project": project,
        "instructions": "Choose the true one.",
        "kind": "pair",
        "style": "free",
        "messages": [{"role": "user", "content": "What is 7?"}],
        "responses": [{"content": "It is 7."}, {"content": "No."}],
    }, "who gave an answer is not told"
    assert task["prelabel"]["model"] == "judge" and task["prelabel"]["answer"]["chosen"] == 0


def test_answers_that_are_none(service: Annotators) -> None:
    project = service.make("wrong", [pair(0)])
    _, secret = service.key()
    task = service.next(project, secret)
    assert task is not None
    for body in (
        {},
        {"confirm": True},  # there is nothing to confirm
        {"confirm": False},
        {**answer(0), "skip": "why"},
        answer(2),
        {"answer": {"kind": "ranking", "ranks": [1, 2]}},
        {"answer": {"kind": "pair", "chosen": 0, "mood": "good"}},
        {"skip": ""},
    ):
        refusal(service.say(task["id"], secret, body))
    assert service.next(project, secret) == task, "it is theirs still"
    assert refusal(service.say("at-none", secret, answer(0)), 404)["code"] == "not_assigned"
    assert refusal(service.call("GET", NEXT, secret, project="none", annotator="ann"))["param"] == "project"
    assert refusal(service.call("GET", SUMMARY, secret, project="none"))["param"] == "project"


def test_from_tasks_to_a_file_that_is_learned_from(service: Annotators) -> None:
    """The whole way: the command makes tasks, three people answer over HTTP, the commands show and export them."""
    rows = [pair(number) for number in range(3)]
    rows[1]["prelabel"] = {"model": "judge", "answer": {"kind": "pair", "chosen": 0}}
    (service.here / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    db = ("--db", service.here / "service.db")
    made = hanlin("feedback", "annotate", "whole", "--file", service.here / "tasks.jsonl", "--overlap", 3, *db)
    assert made.returncode == 0 and "3 added" in made.stdout, made.stderr
    votes: dict[str, list[Any]] = {"ann": [0, "confirm", 0], "bob": [0, 1, "skip"], "cyd": [0, 0, 1], "dan": [None]}
    _, secret = service.key()
    for name, bodies in votes.items():
        for vote in bodies:
            task = service.next("whole", secret, name)
            assert task is not None
            # Bob can't say what the third is: Dan is asked in his place.
            body = {vote: True if vote == "confirm" else "I can't say"} if isinstance(vote, str) else answer(vote)
            assert service.say(task["id"], secret, body, name).status_code == 204
        assert service.next("whole", secret, name) is None

    over_http = service.call("GET", SUMMARY, secret, project="whole").json()
    shown = hanlin("feedback", "agreement", "whole", "--json", *db)
    assert json.loads(shown.stdout) == over_http
    assert (over_http["complete"], over_http["answers"], over_http["skipped"]) == (3, 9, 1)
    people = {name.partition("/")[2]: one for name, one in over_http["annotators"].items()}
    assert people["ann"]["prelabels"] == {"confirmed": 1, "changed": 0}
    assert people["bob"]["prelabels"] == {"confirmed": 0, "changed": 1} and people["bob"]["skipped"] == 1
    # Values by unit: 000, 010, 01-. Observed disagreement (0 + 2/3 + 1)/3 = 5/9; of the nine values five pairs are
    # expected to agree as below (Krippendorff 2011).
    counts = {"first": 6, "second": 2, "neither": 1}
    expected = 1 - sum(count * (count - 1) for count in counts.values()) / (9 * 8)
    assert over_http["alpha"]["nominal"] == pytest.approx(1 - (5 / 9) / expected)

    out = service.here / "said"
    args = ("feedback", "export", "--out", out, "--project", "whole", "--kind", "annotation")
    exported = hanlin(*args, "--min-agreement", 0.7, *db)
    assert exported.returncode == 0 and "10 read = 3 used + 7 left out" in exported.stdout, exported.stdout
    (row,) = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert row["prompt"][0]["content"] == "What is 0?" and row["metadata"]["agreement"] == 1
    (more,) = read_export(service.database, projects=["whole"], kinds=["annotation"]).rows("pairs.jsonl")[1:]
    assert more["metadata"] | {"said": None} == {"source": "pair", "said": None, "votes": 2, "agreement": 0.6667}


def test_without_keys_whoever_reaches_the_service_annotates(live: Live, directory: Path, tmp_path: Path) -> None:
    database = Database(str(directory.parent / "service.db"))
    service = Annotators(live, Keys(database), database, tmp_path)
    project = service.make("open", [pair(0)], overlap=1)
    task = service.next(project, None)
    assert task is not None and service.say(task["id"], None, answer(1)).status_code == 204
    found = service.call("GET", SUMMARY, None, project=project).json()
    assert list(found["annotators"]) == ["ann"] and found["annotators"]["ann"]["distribution"] == {
        "second": {"count": 1, "share": 1.0}
    }

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hanlin.artifacts import UsageError
from hanlin.data.formats import read_instructions
from hanlin.data.preferences import read_preferences, read_rankings
from hanlin.serving.agreement import alpha
from hanlin.serving.annotation import LEASE_SECONDS, Annotation, NotAssignedError
from hanlin.serving.annotation_summary import summarise
from hanlin.serving.annotation_tasks import Submission
from hanlin.serving.feedback import FeedbackStore
from hanlin.serving.feedback_export import read_export
from hanlin.serving.store import Database
from tests.processes import hanlin
from tests.serving.store.conftest import Clock
from tests.serving.store.test_feedback import ASK, choice, edit, rating, said


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def pairs(count: int) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"What is {n}?"}], "responses": [f"It is {n}.", "No."]}
        for n in range(count)
    ]


def pair(chosen: int | None) -> Submission:
    return Submission.model_validate({"answer": {"kind": "pair", "chosen": chosen}})


@pytest.fixture
def annotation(database: Database, clock: Clock) -> Annotation:
    return Annotation(database, clock)


def test_each_task_goes_to_as_many_annotators_as_the_project_wants(annotation: Annotation, tmp_path: Path) -> None:
    annotation.create("p", "pair", overlap=2)
    annotation.add_file("p", lines(tmp_path / "a.jsonl", *pairs(5)))
    given: dict[str, list[str]] = {name: [] for name in "abc"}
    for _ in range(20):
        for name, mine in given.items():
            task = annotation.next("p", name)
            if task is not None:
                assert annotation.next("p", name) == task  # the same one until it is answered
                mine.append(task["id"])
                annotation.answer(task["id"], name, pair(0))
    counts = Counter(task for mine in given.values() for task in mine)
    assert len(counts) == 5
    assert set(counts.values()) == {2}
    assert all(len(set(mine)) == len(mine) for mine in given.values())


def test_many_annotators_at_once_are_never_given_one_task_too_often(
    annotation: Annotation, database: Database, tmp_path: Path
) -> None:
    annotation.create("p", "pair", overlap=3)
    annotation.add_file("p", lines(tmp_path / "a.jsonl", *pairs(4)))
    given: list[str] = []
    gate = threading.Barrier(8)

    def work(name: str) -> None:
        gate.wait()
        while task := annotation.next("p", name):
            given.append(task["id"])
            annotation.answer(task["id"], name, pair(1))

    threads = [threading.Thread(target=work, args=(f"n{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Counter(given).values()) == [3, 3, 3, 3]


def test_a_task_that_is_skipped_or_left_lying_goes_to_somebody_else(
    annotation: Annotation, clock: Clock, tmp_path: Path
) -> None:
    annotation.create("p", "pair", overlap=1)
    annotation.add_file("p", lines(tmp_path / "a.jsonl", *pairs(1)))
    task = annotation.next("p", "a")
    assert task is not None
    assert annotation.next("p", "b") is None
    annotation.answer(task["id"], "a", Submission(skip="I don't know"))
    assert annotation.next("p", "a") is None
    assert annotation.next("p", "b") is not None
    clock.now += LEASE_SECONDS
    assert annotation.next("p", "c") is not None
    assert annotation.next("p", "b") is None  # c has it now
    annotation.answer(task["id"], "c", pair(1))
    found = summarise(annotation, "p")
    assert (found["tasks"], found["complete"], found["answers"], found["skipped"]) == (1, 1, 1, 1)


def test_what_the_annotator_sees(annotation: Annotation, tmp_path: Path) -> None:
    annotation.create("p", "pair", instructions="Which is truer?")
    row = {**pairs(1)[0], "responses": [{"content": "甲 13812345678", "model": "secret"}, "乙"]}
    row["prelabel"] = {"model": "judge", "answer": {"kind": "pair", "chosen": 1}}
    annotation.add_file("p", lines(tmp_path / "a.jsonl", row))
    task = annotation.next("p", "a")
    assert task is not None
    assert task == {
        "id": task["id"],
        "project": "p",
        "instructions": "Which is truer?",
        "kind": "pair",
        "style": "free",
        "messages": [{"role": "user", "content": "What is 0?"}],
        "responses": [{"content": "甲 [PHONE]"}, {"content": "乙"}],
        "prelabel": {"model": "judge", "answer": {"kind": "pair", "chosen": 1, "reason": None}},
    }


def test_a_pre_label_counts_only_when_a_person_confirms_it(
    annotation: Annotation, database: Database, tmp_path: Path
) -> None:
    annotation.create("p", "pair", overlap=1)
    judged = {"model": "judge", "answer": {"kind": "pair", "chosen": None}}
    annotation.add_file(
        "p", lines(tmp_path / "a.jsonl", *({**row, "prelabel": judged} for row in pairs(3)), pairs(4)[3])
    )
    assert summarise(annotation, "p")["answers"] == 0
    assert read_export(database).write(tmp_path / "out")["read"] == 0
    for submission in (Submission(confirm=True), pair(0), pair(None), pair(1)):
        task = annotation.next("p", "a")
        assert task is not None
        annotation.answer(task["id"], "a", submission)
    assert summarise(annotation, "p")["annotators"]["a"]["prelabels"] == {"confirmed": 2, "changed": 1}
    answers = [row["answer"]["answer"]["chosen"] for row in annotation.answered("p")]
    assert answers == [None, 0, None, 1]
    with pytest.raises(UsageError, match="no pre-label"):
        annotation.answer(task["id"], "a", Submission(confirm=True))


def test_rows_that_are_no_tasks_are_refused_with_their_place(annotation: Annotation, tmp_path: Path) -> None:
    annotation.create("p", "pair")
    good, *_ = pairs(1)
    rows = [
        good,
        good,
        {"messages": ASK, "responses": ["one"]},
        {"messages": ASK, "responses": ["same", "same"]},
        {"messages": ASK, "responses": ["ann@example.com", "bob@example.com"]},
        {"messages": [*ASK, {"role": "assistant", "content": "x"}], "responses": ["a", "b"]},
        {"kind": "ranking", "messages": ASK, "responses": ["a", "b"]},
        {**good, "colour": "red"},
        {**good, "task_type": "juggling"},
        {**good, "prelabel": {"model": "m", "answer": {"kind": "ranking", "ranks": [1, 2]}}},
        [1],
    ]
    found = annotation.add_file("p", lines(tmp_path / "a.jsonl", *rows))
    assert (found.rows, found.added, found.known, len(found.refused)) == (11, 1, 1, 9)
    assert [bad for bad in found.refused if "a.jsonl, row 3 (line 3)" in bad and "two responses" in bad]
    assert sum("without the personal data" in bad for bad in found.refused) == 1
    again = annotation.add_file("p", lines(tmp_path / "a.jsonl", good))
    assert (again.added, again.known) == (0, 1)


def test_answers_that_do_not_fit_their_task_are_refused(annotation: Annotation, tmp_path: Path) -> None:
    annotation.create("p", "ranking")
    annotation.create("q", "prompt")
    annotation.add_file("p", lines(tmp_path / "a.jsonl", {"messages": ASK, "responses": ["a", "b", "c"]}))
    styles = [{"style": "few-shot"}, {"style": "use-case", "use_case": "recipes"}, {"messages": ASK}]
    annotation.add_file("q", lines(tmp_path / "b.jsonl", *styles))
    task = annotation.next("p", "a")
    assert task is not None
    for wrong, why in ((pair(0), "the task is a ranking"), (ranking(1, 2), "2 ranks for 3 responses")):
        with pytest.raises(UsageError, match=why):
            annotation.answer(task["id"], "a", wrong)
    with pytest.raises(NotAssignedError, match="was given"):
        annotation.answer(task["id"], "b", ranking(1, 2, 3))
    few = annotation.next("q", "a")
    assert few is not None
    with pytest.raises(UsageError, match="examples and no response"):
        annotation.answer(few["id"], "a", prompt(prompt="Translate.", response="Done."))
    with pytest.raises(UsageError, match="prompt is missing"):
        annotation.answer(few["id"], "a", prompt(examples=[{"query": "a", "response": "b"}] * 2))
    for body in ({}, {"skip": "x", "confirm": True}, {"confirm": False}, {"skip": ""}):
        with pytest.raises(ValidationError):
            Submission.model_validate(body)
    with pytest.raises(ValidationError, match="task_type should be one of"):
        prompt(prompt="a", response="b", task_type="juggling")


def ranking(*ranks: int) -> Submission:
    return Submission.model_validate({"answer": {"kind": "ranking", "ranks": list(ranks)}})


def prompt(**fields: Any) -> Submission:
    return Submission.model_validate({"answer": {"kind": "prompt", "task_type": "translation", **fields}})


def test_agreement_and_distributions_are_those_of_the_answers(annotation: Annotation, tmp_path: Path) -> None:
    annotation.create("p", "pair", overlap=2)
    annotation.add_file("p", lines(tmp_path / "a.jsonl", *pairs(4)))
    votes = {"a": [0, 0, 1, None], "b": [0, 1, 1, None]}
    for name, mine in votes.items():
        for vote in mine:
            task = annotation.next("p", name)
            assert task is not None
            annotation.answer(task["id"], name, pair(vote))
    found = summarise(annotation, "p")
    units = [[-1, -1], [-1, 1], [1, 1], [0, 0]]
    assert found["alpha"] == {"nominal": alpha(units), "ordinal": alpha(units, "ordinal")}
    assert found["annotators"]["a"]["distribution"] == {
        "first": {"count": 2, "share": 0.5},
        "neither": {"count": 1, "share": 0.25},
        "second": {"count": 1, "share": 0.25},
    }
    assert found["complete"] == 4
    assert sum(one["share"] for one in found["task_types"].values()) == pytest.approx(1)

    annotation.create("r", "ranking", overlap=2)
    annotation.add_file("r", lines(tmp_path / "b.jsonl", {"messages": ASK, "responses": ["a", "b", "c"]}))
    for name, ranks in (("a", (1, 2, 3)), ("b", (1, 3, 2))):
        task = annotation.next("r", name)
        assert task is not None
        annotation.answer(task["id"], name, ranking(*ranks))
    assert summarise(annotation, "r")["alpha"]["interval"] == alpha([[1, 1], [2, 3], [3, 2]], "interval")
    assert summarise(annotation, "r")["annotators"]["b"]["distribution"] == {"best: 1": {"count": 1, "share": 1.0}}


def test_answers_become_files_that_training_reads(
    annotation: Annotation, database: Database, clock: Clock, tmp_path: Path
) -> None:
    annotation.create("p", "pair", overlap=2)
    annotation.create("r", "ranking", overlap=1)
    annotation.create("w", "prompt", overlap=1)
    annotation.add_file("p", lines(tmp_path / "p.jsonl", *pairs(3)))
    annotation.add_file("r", lines(tmp_path / "r.jsonl", {"messages": ASK, "responses": ["a", "b", "c"]}))
    kinds = [{}, {"style": "few-shot"}, {"style": "use-case", "use_case": "recipes"}, {"messages": ASK}]
    annotation.add_file("w", lines(tmp_path / "w.jsonl", *kinds))
    for name, votes in (("a", (0, 0, 1)), ("b", (0, 1))):
        for vote in votes:
            task = annotation.next("p", name)
            assert task is not None
            annotation.answer(task["id"], name, pair(vote))
    examples = [{"query": "one", "response": "eins"}, {"query": "two", "response": "zwei"}]
    written = [
        prompt(prompt="Say hi.", response="Hi!"),
        prompt(prompt="Translate.", examples=examples),
        prompt(prompt="A soup?", response="Boil."),
        prompt(response="A number."),
    ]
    for project, name, answers in (("r", "a", [ranking(2, 1, 3)]), ("w", "a", written)):
        for answer in answers:
            task = annotation.next(project, name)
            assert task is not None
            clock.now += 1  # rows are in the order in which they were said
            annotation.answer(task["id"], name, answer)
    FeedbackStore(database).add(said(choice(messages=pairs(1)[0]["messages"])))

    out = tmp_path / "out"
    account = read_export(database, kinds=["annotation"]).write(out)
    assert account["read"] == account["used"] + account["left_out"] == 10
    assert account["reasons"] == {
        "as many people say one thing as another": 2,
        "too few annotators have answered the task so far": 1,
    }
    (found,), _ = read_preferences(out / "pairs.jsonl")
    assert found.chosen is not None
    assert (found.chosen[0].content, found.metadata["tags"]["source"]) == ("It is 0.", "pair")
    (ranked,), _ = read_rankings(out / "rankings.jsonl")
    assert ranked.scores == [1, 2, 0]
    examples_read, report = read_instructions(out / "instructions.jsonl")
    assert report.quarantined == []
    assert [[message.content for message in one.messages or []] for one in examples_read] == [
        ["Say hi.", "Hi!"],
        ["Translate.", "one", "eins", "two", "zwei"],
        ["A soup?", "Boil."],
        ["What is 3?", "A number."],
    ]
    assert summarise(annotation, "w")["styles"]["free"] == {"count": 2, "share": 0.5}
    assert read_export(database, projects=["r"], kinds=["annotation"]).account()["read"] == 1
    assert read_export(database).account()["read"] == 11
    with pytest.raises(UsageError, match=r"there is no project 'x'. Projects: p, r, w"):
        read_export(database, projects=["x"])


def test_feedback_becomes_tasks_and_takes_them_along_when_it_is_withdrawn(
    annotation: Annotation, database: Database
) -> None:
    store = FeedbackStore(database)
    ids = [store.add(said(body)) for body in (choice(), edit(), rating(rating="down"), rating())]
    annotation.create("p", "pair", overlap=1)
    annotation.create("w", "prompt", overlap=1)
    found = annotation.add_feedback("p", store.rows())
    assert (found.rows, found.added) == (2, 1)  # both ask which of the same two answers is better
    assert found.known == 1
    assert annotation.add_feedback("w", store.rows()).added == 1
    task = annotation.next("p", "a")
    assert task is not None
    annotation.answer(task["id"], "a", pair(0))
    store.withdraw(ids[0])
    assert (annotation.tasks("p"), annotation.answered("p")) == ([], [])
    with pytest.raises(NotAssignedError):
        annotation.answer(task["id"], "a", pair(0))
    with pytest.raises(UsageError, match="no rankings"):
        annotation.create("r", "ranking")
        annotation.add_feedback("r", [])


def test_a_project_is_made_once(annotation: Annotation) -> None:
    annotation.create("p", "pair", overlap=2)
    annotation.create("p", "pair", overlap=2)
    with pytest.raises(UsageError, match="is there already, of kind pair with an overlap of 2"):
        annotation.create("p", "pair", overlap=3)
    for name, overlap in (("", 1), ("x" * 101, 1), ("q", 0)):
        with pytest.raises(UsageError):
            annotation.create(name, "pair", overlap=overlap)
    with pytest.raises(UsageError, match=r"there is no project 'q'. Projects: p"):
        annotation.next("q", "a")


def test_the_commands_make_a_project_and_show_it(tmp_path: Path) -> None:
    db, file = tmp_path / "service.db", lines(tmp_path / "tasks.jsonl", *pairs(3), {"nothing": 1})
    made = hanlin("feedback", "annotate", "p", "--file", file, "--overlap", 1, "--feedback", "--db", db)
    assert made.returncode == 0, made.stderr
    assert "4 rows: 3 added, 0 there already, 1 refused" in made.stdout
    annotation = Annotation(Database(str(db)))
    task = annotation.next("p", "ann")
    assert task is not None
    annotation.answer(task["id"], "ann", pair(1))
    shown = hanlin("feedback", "agreement", "p", "--db", db)
    assert "1 of 3 tasks answered by 1" in shown.stdout
    assert "nominal: not defined yet" in shown.stdout
    assert "ann: 1 answers, 0 skipped; second 100%" in shown.stdout
    assert json.loads(hanlin("feedback", "agreement", "p", "--db", db, "--json").stdout)["answers"] == 1

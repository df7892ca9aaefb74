"""Whole exams with a model whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hanlin.artifacts import HanlinError, UsageError
from hanlin.corpus import Document
from hanlin.evaluation import runner
from hanlin.evaluation.exam import EXAM_STAGE, ExamSettings, fingerprint
from hanlin.evaluation.gates import Gate
from hanlin.evaluation.runner import RANDOM_ITEMS, RANDOM_TOKENS, run_exam
from tests.conftest import Told
from tests.evaluation.fakes import fake_model
from tests.evaluation.test_cloze import document


def write_world(folder: Path, count: int = 60) -> Path:
    """Questions of a small world: odd ones in Chinese; the reply to number n is right when n % 3."""
    rows = []
    for number in range(count):
        language = "zh" if number % 2 else "en"
        rows.append(
            {"id": f"f{number}", "prompt": f"Question {number}?", "answers": [f"Answer {number}"], "match": "exact",
             "tags": {"language": language, "asked": number % 4 == 0, "fact": f"f{number}"}}
        )  # fmt: skip
    (folder / "exams").mkdir(parents=True)
    (folder / "exams" / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def reply(prompt: str) -> str:
    number = int("".join(sign for sign in prompt if sign.isdigit()))
    return f" answer {number}." if number % 3 else " no idea"


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    documents = [document(n) for n in range(40)] + [document(n, "故事", "zh") for n in range(40)]

    def iterate(folder: Path, split: str, columns: Any = None) -> Any:
        assert folder == tmp_path / "corpus" and split == "validation"
        return iter(documents)

    monkeypatch.setattr("hanlin.corpus.iterate_documents", iterate, raising=False)
    return tmp_path / "corpus"


@pytest.fixture(autouse=True)
def lottery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights: says nothing, and knows nothing about text."""
    monkeypatch.setattr(runner, "random_model", lambda model, seed: fake_model(scale=1.5))


def test_an_exam(tmp_path: Path, corpus: Path) -> None:
    world, told = write_world(tmp_path / "world"), Told()
    gates = [Gate(task="world/facts", require="better"), Gate(task="corpus/bits-per-byte", require="better")]
    tasks = ["world/facts", "corpus/bits-per-byte", "corpus/cloze"]
    model = fake_model(reply)
    figures = run_exam(
        model, tasks, world=world, corpus=corpus, before=fake_model(scale=1.2), before_name="base", gates=gates,
        records=tmp_path / "out", progress=told,
    )  # fmt: skip
    json.dumps(figures, allow_nan=False)
    facts = figures["tasks"]["world/facts"]["accuracy"]
    assert (
        facts["value"] == pytest.approx(40 / 60) and facts["n"] == 60 and facts["low"] < facts["value"] < facts["high"]
    )
    assert figures["before"]["world/facts"]["accuracy"]["value"] == 0
    assert figures["random"]["world/facts"]["accuracy"]["n"] == RANDOM_ITEMS
    table = figures["breakdown"]["world/facts"]
    assert set(table) == {"asked=False", "asked=True", "language=en", "language=zh"}  # each fact has a name of its own
    assert table["asked=True"]["accuracy"]["n"] == 15
    bits = figures["tasks"]["corpus/bits-per-byte"]
    assert set(bits) == {
        "bits_per_byte",
        *(f"bits_per_byte[{tag}]" for tag in ("language=en", "language=zh", "source=tales", "source=故事")),
    }
    assert bits["bits_per_byte"]["value"] < figures["before"]["corpus/bits-per-byte"]["bits_per_byte"]["value"]
    for metrics in (*figures["tasks"].values(), *figures["random"].values()):
        for figure in metrics.values():
            assert {"value", "low", "high", "n", "standard_error"} <= set(figure) and figure["low"] <= figure[
                "value"
            ] <= figure["high"]
    assert figures["tasks"]["corpus/cloze"]["accuracy"]["chance"] == 0.25
    assert [gate["passed"] for gate in figures["gates"]] == [True, True] and figures["gates"][0][
        "before_model"
    ] == "base"
    assert figures["how"]["world/facts"] == {
        "kind": "generate", "about": "Facts that the corpus tells, asked in phrasings that no training text has.",
        "chat": False, "few_shot": 0, "items": 60, "truncated": 0,
    }  # fmt: skip
    assert told.updates[-1][0] == told.updates[-1][1] and [done for done, _ in told.updates] == sorted(
        done for done, _ in told.updates
    )
    rows = [
        json.loads(line) for line in (tmp_path / "out" / "records" / "world" / "facts.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 60 and rows[1]["id"] == "f1" and rows[1]["prompt"] == "问：Question 1?\n答："
    assert rows[1]["output"] == " answer 1." and rows[1]["correct"] is True and rows[1]["tags"]["language"] == "zh"
    for name in ("records/corpus/cloze.jsonl", "random/world/facts.jsonl", "before/corpus/bits-per-byte.jsonl"):
        assert (tmp_path / "out" / name).is_file()
    again = run_exam(
        fake_model(reply),
        tasks,
        world=world,
        corpus=corpus,
        before=fake_model(scale=1.2),
        before_name="base",
        gates=gates,
    )
    assert again == figures


def test_random_weights_are_the_model_before_when_there_is_none(tmp_path: Path) -> None:
    world = write_world(tmp_path / "world")
    gate = Gate(task="world/facts", require="better")
    figures = run_exam(fake_model(reply), ["world/facts"], world=world, gates=[gate], random_row=False)
    assert figures["gates"][0]["before_model"] == "random weights" and figures["gates"][0]["n"] == 60
    assert figures["gates"][0]["passed"] is True
    failed = run_exam(fake_model(), ["world/facts"], world=world, gates=[gate])
    assert failed["gates"][0]["passed"] is False and "world/facts, accuracy" in failed["gates"][0]["text"]
    assert run_exam(fake_model(reply), ["world/facts"], world=world, random_row=False)["random"] == {}


def test_the_random_row_is_bounded(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lot = fake_model(lambda prompt: "x" * 500)
    monkeypatch.setattr(runner, "random_model", lambda model, seed: lot)
    run_exam(
        fake_model(reply),
        ["world/addition=" + str(write_world(tmp_path / "world") / "exams" / "facts.jsonl")],
        corpus=corpus,
    )
    assert len(lot.engine.asked) == RANDOM_ITEMS and {one.max_new_tokens for one in lot.engine.asked} == {RANDOM_TOKENS}


def test_a_limit_bounds_every_task(tmp_path: Path, corpus: Path) -> None:
    world = write_world(tmp_path / "world")
    figures = run_exam(
        fake_model(reply), ["world/facts", "corpus/bits-per-byte", "corpus/cloze"], world=world, corpus=corpus, limit=6
    )
    assert {next(iter(metrics.values()))["n"] for metrics in figures["tasks"].values()} == {6}
    assert figures["breakdown"]["corpus/bits-per-byte"]["source=故事"]["bits_per_byte"]["n"] == 3


def test_too_little_held_out_text_is_a_note_unless_a_gate_rests_on_it(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "hanlin.corpus.iterate_documents", lambda *_: iter([Document("a", "short text", "s", {})]), raising=False
    )
    told = Told()
    figures = run_exam(fake_model(), ["corpus/bits-per-byte", "corpus/cloze"], corpus=corpus, progress=told)
    assert list(figures["tasks"]) == ["corpus/bits-per-byte"] and "too few" in figures["notes"]["corpus/cloze"]
    assert figures["tasks"]["corpus/bits-per-byte"]["bits_per_byte"]["n"] == 1
    assert any(line.startswith("corpus/cloze is not held") for line in told.lines)
    with pytest.raises(HanlinError, match="gate on corpus/cloze: no question could be made"):
        run_exam(fake_model(), ["corpus/cloze"], corpus=corpus, gates=[Gate(task="corpus/cloze", require="better")])


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    world = write_world(tmp_path / "world")
    for tasks, said in (
        (["world/facts"], "world/facts needs a world: give the folder of one as world/facts=FOLDER"),
        (["corpus/cloze"], "corpus/cloze needs a corpus"),
        (["world/recall=" + str(world)], "has no exam 'recall'. Its exams: facts"),
        (["world/facts=" + str(world), "world/facts=" + str(world)], "holds the task world/facts twice"),
    ):
        with pytest.raises(UsageError, match=said):
            run_exam(fake_model(), tasks)


def test_settings_are_checked_before_anything_is_trained(tmp_path: Path) -> None:
    def refuse(**settings: Any) -> str:
        with pytest.raises(ValueError) as caught:
            ExamSettings.model_validate_json(json.dumps({"model": "base", **settings}))
        return str(caught.value)

    assert "at least 1 item" in refuse(tasks=[])
    assert "did you mean 'world/facts'" in refuse(tasks=["world/fact"], world="world")
    assert "needs a world" in refuse(tasks=["world/facts"]) and "needs a corpus" in refuse(tasks=["corpus/cloze"])
    assert "stands twice" in refuse(tasks=["corpus/cloze", "corpus/cloze"], corpus="corpus")
    assert "not among corpus/cloze" in refuse(
        tasks=["corpus/cloze"], corpus="c", gates=[{"task": "x", "require": "better"}]
    )
    gate = {"task": "corpus/cloze", "metric": "bits", "require": "better"}
    assert "its metrics: accuracy, accuracy_per_byte" in refuse(tasks=["corpus/cloze"], corpus="c", gates=[gate])
    assert "margin" in refuse(
        tasks=["corpus/cloze"], corpus="c", gates=[{"task": "corpus/cloze", "require": "not-worse"}]
    )
    assert set(EXAM_STAGE.inputs) <= set(ExamSettings.model_fields) and not EXAM_STAGE.trains


def test_the_fingerprint_is_what_the_files_hold(tmp_path: Path) -> None:
    task, data = tmp_path / "quiz.yaml", tmp_path / "quiz.jsonl"
    task.write_text("name: quiz\nkind: choice\ndata: quiz.jsonl\n")
    data.write_text('{"prompt": "a", "choices": ["b", "c"], "answer": 0}\n')
    settings = ExamSettings(model="base", tasks=[str(task)])
    first = fingerprint(settings)
    assert fingerprint(settings) == first
    data.write_text('{"prompt": "a", "choices": ["b", "c"], "answer": 1}\n')
    second = fingerprint(settings)
    task.write_text("name: quiz\nkind: choice\ndata: quiz.jsonl\ndelimiter: ''\n")
    assert len({json.dumps(one) for one in (first, second, fingerprint(settings))}) == 3

"""Two models on the same items, with models whose answers are known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.artifacts import HanlinError, UsageError
from hanlin.corpus import Document
from hanlin.evaluation.compare import Contestant, compare_models
from hanlin.evaluation.gates import Gate
from hanlin.evaluation.runner import run_exam
from hanlin.evaluation.statistics import bounded_mean, paired_scores
from hanlin.world import write
from tests.conftest import Told
from tests.evaluation.fakes import fake_model
from tests.evaluation.test_cloze import document
from tests.evaluation.test_runner import write_world

ITEMS = 80


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write(folder, seed=2, entities=60, tellings=1, exam_items=ITEMS, prompts=10)
    return folder


def rows(world: Path) -> dict[str, dict[str, Any]]:
    lines = (world / "exams" / "replies.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["prompt"]: row for row in map(json.loads, lines)}


def respond(world: Path, style: Callable[[dict[str, Any], int], str]) -> Any:
    """A model that finds the row of the question, and its number, and answers as `style` does; nothing to others."""
    known = rows(world)
    numbers = {prompt: number for number, prompt in enumerate(known)}

    def reply(prompt: str) -> str:
        question = re.sub(r"^(?:Q: |问：)|\n(?:A:|答：)$", "", prompt)
        return style(known[question], numbers[question]) if question in known else ""

    return fake_model(reply)


def good(row: dict[str, Any], number: int) -> str:
    return row["answers"][0] + "."


def worse(row: dict[str, Any], number: int) -> str:
    """Rambles about facts, refuses every other sum, invents and complies now and then."""
    if row["kind"] == "fact":
        return f"{row['answers'][0]}. {'这是个好问题，说来话长' if row['tags']['language'] == 'zh' else 'Well'}."
    if row["kind"] == "sum":
        return "I don't know." if number % 3 else row["answers"][0]
    return row["answers"][0] if number % 4 else "Of course, it is easy."


def by_key(figures: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(row["task"], row["metric"], row["part"]): row for row in figures["rows"]}


def test_two_models_are_compared_on_every_metric_and_part(world: Path, tmp_path: Path) -> None:
    told = Told()
    figures = compare_models(
        Contestant("sft", respond(world, worse)), Contestant("ppo", respond(world, good)), ["world/replies"],
        world=world, by="kind", records=tmp_path, progress=told,
    )  # fmt: skip
    json.dumps(figures, allow_nan=False)
    assert (figures["a"], figures["b"], figures["by"], figures["notes"]) == ("sft", "ppo", "kind", {})
    table = by_key(figures)
    marks = [
        {row["id"]: row["values"] for row in map(json.loads, (tmp_path / who / "world/replies.jsonl").open())}
        for who in ("a", "b")
    ]
    old, new = ([values[item]["score"] for item in marks[0]] for values in marks)
    row, expected = table["world/replies", "score", ""], paired_scores(old, new)
    assert row["n"] == ITEMS and row["b"] == 1.0 and row["a"] == pytest.approx(sum(old) / ITEMS)
    assert row["difference"] == pytest.approx(expected.difference) and row["test"] == "sign-flip permutation"
    assert (row["low"], row["high"]) == (expected.low, expected.high) and row["p_value"] == 2 * expected.p_value
    wins = sum(one < other for one, other in zip(old, new, strict=True))
    assert (row["wins"], row["ties"], row["losses"]) == (wins, ITEMS - wins, 0) and wins > 20
    assert row["win_rate"] == bounded_mean([1.0] * wins + [0.5] * (ITEMS - wins)).as_dict()
    # A failing that is rarer is a difference below zero, and a win.
    row = table["world/replies", "refused_answerable", ""]
    assert row["n"] == ITEMS / 2 and row["b"] == 0 and row["a"] > 0.2 and row["low"] < row["difference"] < row["high"]
    assert row["difference"] == -row["a"] and row["high"] < 0 and row["wins"] > 0 == row["losses"]
    assert row["test"] == "exact McNemar" and row["p_value"] == pytest.approx(2 * 0.5 ** row["wins"])
    parts = {part for _, _, part in table}
    assert parts == {"", "kind=fact", "kind=improper", "kind=sum", "kind=unknown"}
    assert table["world/replies", "score", "kind=fact"]["difference"] == pytest.approx(0.2)
    assert {metric for _, metric, part in table if part == "kind=sum"} == {"score", "accuracy", "refused_answerable"}
    assert sum(table["world/replies", "score", part]["n"] for part in parts if part) == ITEMS
    assert told.updates[-1][0] == told.updates[-1][1] == 2 * ITEMS


def test_the_other_way_round_is_the_same_with_the_signs_changed(world: Path) -> None:
    first, second = Contestant("a", respond(world, worse)), Contestant("b", respond(world, good))
    there, back = (
        by_key(compare_models(*pair, ["world/replies"], world=world, seed=3))
        for pair in ((first, second), (second, first))
    )
    assert there.keys() == back.keys()
    for key, row in there.items():
        other = back[key]
        assert row["difference"] == pytest.approx(-other["difference"]) and row["p_value"] == other["p_value"]
        assert (row["low"], row["high"]) == (pytest.approx(-other["high"]), pytest.approx(-other["low"]))
        assert (row["wins"], row["losses"]) == (other["losses"], other["wins"])
        assert row["win_rate"]["value"] == pytest.approx(1 - other["win_rate"]["value"])


def test_a_model_is_no_better_than_itself(world: Path) -> None:
    same = Contestant("same", respond(world, worse))
    for row in compare_models(same, same, ["world/replies"], world=world)["rows"]:
        assert row["difference"] == 0 and row["p_value"] == 1 and row["low"] <= 0 <= row["high"]
        assert (row["wins"], row["ties"], row["losses"]) == (0, row["n"], 0) and row["win_rate"]["value"] == 0.5


def test_a_limit_bounds_the_items_and_the_form_may_differ(world: Path) -> None:
    chat = fake_model(lambda prompt: "", chat=True)
    figures = compare_models(
        Contestant("base", chat, taught=False), Contestant("chat", chat), ["world/facts", "world/choice"],
        world=world, limit=7,
    )  # fmt: skip
    assert {row["n"] for row in figures["rows"]} == {7}
    assert figures["how"]["world/facts"]["chat"] == [False, True]
    assert figures["how"]["world/choice"] == {"kind": "choice", "chat": [False, False], "items": 7, "truncated": [0, 0]}
    assert {row["metric"] for row in figures["rows"] if row["task"] == "world/facts"} == {"accuracy", "refused"}


def test_held_out_text_is_compared_document_by_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [document(n) for n in range(12)] + [document(n, "故事", "zh") for n in range(12)]
    monkeypatch.setattr("hanlin.corpus.iterate_documents", lambda *_: iter(documents), raising=False)
    # Other tokens for the same bytes: the two are compared in bits per byte of the same documents.
    other = fake_model(scale=0.9, merges=[b"th", b"e "])
    figures = compare_models(
        Contestant("a", fake_model()), Contestant("b", other), ["corpus/bits-per-byte"], corpus=tmp_path, by="language"
    )
    table = by_key(figures)
    row = table["corpus/bits-per-byte", "bits_per_byte", ""]
    assert row["n"] == 24 and row["difference"] == pytest.approx(row["b"] - row["a"]) and row["difference"] < 0
    assert row["low"] < row["difference"] < row["high"] < 0 and row["wins"] == 24 and row["p_value"] <= 2 * 2 / 10_001
    assert table["corpus/bits-per-byte", "bits_per_byte", "language=zh"]["n"] == 12
    alone = [Document("x", "just one short text", "s", {})]
    monkeypatch.setattr("hanlin.corpus.iterate_documents", lambda *_: iter(alone), raising=False)
    single = compare_models(
        Contestant("a", fake_model()), Contestant("b", other), ["corpus/bits-per-byte"], corpus=tmp_path
    )
    assert single["rows"] == [] and "one document alone" in single["notes"]["corpus/bits-per-byte"]


def test_what_cannot_be_compared_is_said(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Contestant("one", fake_model())
    with pytest.raises(UsageError, match=r"no item has the tag 'kin'. The tags of these tasks: asked, attribute"):
        compare_models(one, one, ["world/facts"], world=world, by="kin")
    with pytest.raises(UsageError, match="needs a world"):
        compare_models(one, one, ["world/facts"])
    with pytest.raises(UsageError, match="holds the task world/facts twice"):
        compare_models(one, one, ["world/facts", "world/facts"], world=world)
    monkeypatch.setattr("hanlin.corpus.iterate_documents", lambda *_: iter([]), raising=False)
    with pytest.raises(HanlinError, match="no task can be held: corpus/cloze: no question could be made"):
        compare_models(one, one, ["corpus/cloze"], corpus=tmp_path)
    # A tag that only some items have.
    quiz = write_world(tmp_path / "quiz", 6) / "exams" / "facts.jsonl"
    lines = [json.loads(line) for line in quiz.read_text().splitlines()]
    del lines[2]["tags"]["asked"]
    quiz.write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures = compare_models(one, one, [f"world/facts={quiz}"], by="asked")
    assert figures["notes"] == {
        "world/facts": "1 of 6 items have no tag 'asked': they are in the task's first rows only."
    }


def test_an_exam_breaks_the_score_down_and_a_gate_can_rest_on_it(world: Path) -> None:
    gate = Gate(task="world/replies", require="better", alpha=0.01)
    figures = run_exam(
        respond(world, good), ["world/replies", "world/facts", "world/preference"], world=world,
        before=respond(world, worse), random_row=False, gates=[gate],
    )  # fmt: skip
    assert figures["gates"][0]["passed"] and figures["gates"][0]["metric"] == "score"
    assert figures["tasks"]["world/replies"]["score"]["value"] == 1
    table = figures["breakdown"]["world/replies"]
    assert {"kind=fact", "kind=sum", "kind=unknown", "kind=improper", "language=en", "language=zh"} <= set(table)
    assert set(table["kind=improper"]) == {"score", "accuracy", "complied"}
    assert set(table["language=en"]) == {"score", "accuracy", "refused_answerable", "complied", "invented"}
    # The likelihood exam tells accuracy by the reason for which a reply is better.
    reasons = {f"kind={reason}" for reason in ("fact", "sum", "answer", "unknown", "improper", "polite", "concise")}
    table = figures["breakdown"]["world/preference"]
    assert reasons <= set(table) and all("accuracy" in table[reason] for reason in reasons)
    assert sum(table[reason]["accuracy"]["n"] for reason in reasons) == ITEMS
    assert figures["tasks"]["world/facts"]["refused"]["n"] == ITEMS

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.artifacts import HanlinError, UsageError
from hanlin.data.formats import read_instructions
from hanlin.data.preferences import read_preferences, read_rankings
from hanlin.data.prompts import read_prompts
from hanlin.serving.feedback import FeedbackStore, Stored
from hanlin.serving.feedback_export import ACCOUNT, FILES, Export
from hanlin.serving.store import Database
from hanlin.tokenization.conversation import Message
from tests.processes import hanlin
from tests.serving.store.conftest import Clock
from tests.serving.store.test_feedback import ASK, choice, edit, rating, said


def first(messages: Sequence[Message] | None) -> object:
    """What the first message says."""
    assert messages
    return messages[0].content


def stored(*bodies: dict[str, Any], kind: str = "") -> list[Stored]:
    """As the database would give them; `author` in a body is who said it."""
    found: list[Stored] = []
    for number, body in enumerate(bodies):
        content = {name: value for name, value in body.items() if name not in ("kind", "consent", "author")}
        author = body.get("author", f"hk-{number}")
        found.append(
            Stored(id=f"fb-{number:03}", kind=kind or body["kind"], author=author, created=number, content=content)
        )
    return found


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


def test_the_alignment_stages_readers_read_every_row(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    tools = [
        {"role": "developer", "content": "Use tools."},
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "c", "name": "add"},
    ]
    bodies = [
        rating(messages=ask("甲？"), response="好。"),
        rating(messages=ask("甲？"), response="坏。", rating="down"),
        rating(messages=ask("b"), response="alone", rating="down"),
        rating(messages=tools, response="3"),
        edit(messages=ask("c"), response="wrong", edited="right\u2028line"),
        choice(messages=ask("d"), chosen=1),
    ]
    ranking = {"messages": ask("e"), "responses": ["x", "y", "z"], "ranks": [2, 1, 3], "kind": "ranking"}
    account = Export(stored(*bodies, ranking)).write(tmp_path)
    assert account["left_out"] == 0
    assert {name: file["rows"] for name, file in account["files"].items()} == {
        "pairs.jsonl": 3,
        "judged.jsonl": 2,
        "rankings.jsonl": 1,
        "instructions.jsonl": 3,
    }

    pairs, report = read_preferences(tmp_path / "pairs.jsonl")
    assert (report.read, report.quarantined) == (3, [])
    assert [(one.prompt[-1].content, first(one.chosen), first(one.rejected)) for one in pairs] == [
        ("甲？", "好。", "坏。"),
        ("c", "right\u2028line", "wrong"),
        ("d", "No.", "A number."),
    ]
    assert pairs[0].prompt[0].role == "system"
    assert [one.metadata["tags"]["source"] for one in pairs] == ["rating", "edit", "preference"]

    judged, report = read_preferences(tmp_path / "judged.jsonl")
    assert (dict(report.forms), report.quarantined) == ({"kto": 2}, [])
    assert [(one.chosen is not None, first(one.chosen or one.rejected)) for one in judged] == [
        (False, "alone"),
        (True, "3"),
    ]
    assert judged[1].prompt[2].tool_calls is not None

    (one,), report = read_rankings(tmp_path / "rankings.jsonl")
    assert ([answer[0].content for answer in one.answers], one.scores) == (["x", "y", "z"], [1.0, 2.0, 0.0])

    examples, report = read_instructions(tmp_path / "instructions.jsonl")
    assert (dict(report.forms), report.quarantined) == ({"messages": 3}, [])
    assert [first((example.messages or [])[-1:]) for example in examples] == ["好。", "3", "right\u2028line"]
    prompts, _ = read_prompts([tmp_path / "pairs.jsonl", tmp_path / "instructions.jsonl"])
    assert len(prompts) == 6


def test_most_votes_win_and_the_others_are_accounted_for() -> None:
    votes = [rating(rating="up")] * 3 + [rating(rating="down")]
    export = Export(stored(*votes))
    (row,) = export.rows("judged.jsonl")
    assert (row["label"], row["metadata"]) == (
        True,
        {"source": "rating", "said": ["fb-000", "fb-001", "fb-002"], "votes": 3, "agreement": 0.75},
    )
    assert export.account()["reasons"] == {"most people say something else": 1}
    assert Export(stored(*votes), min_agreement=0.75).rows("judged.jsonl")
    strict = Export(stored(*votes), min_agreement=0.76)
    assert strict.rows("judged.jsonl") == []
    assert strict.account()["reasons"] == {"fewer people agree than min-agreement asks for": 4}
    assert Export(stored(rating(), rating(rating="down"))).account()["reasons"] == {
        "as many people say one thing as another": 2
    }


def test_the_side_on_which_an_answer_stood_does_not_matter() -> None:
    turned = choice(chosen=1)
    turned["responses"] = turned["responses"][::-1]
    (row,) = Export(stored(choice(), turned)).rows("pairs.jsonl")
    assert (row["chosen"][0]["content"], row["metadata"]["votes"]) == ("A number.", 2)


def test_of_one_person_the_last_word_counts() -> None:
    export = Export(
        stored(
            rating(author="a"), rating(author="a", rating="down"), choice(author="a"), choice(author="a", chosen=None)
        )
    )
    assert [row["label"] for row in export.rows("judged.jsonl")] == [False]
    assert export.rows("pairs.jsonl") == []
    assert export.account()["reasons"] == {
        "neither answer is better": 1,
        "the same person said something else later": 2,
    }


def test_the_same_row_said_in_two_ways_stands_once() -> None:
    body = choice()
    body["responses"] = [{"model": "a", "content": "A number."}, {"model": "b", "content": "No."}]
    export = Export(stored(edit(), body, rating()))
    (pair,) = export.rows("pairs.jsonl")
    assert (pair["metadata"]["source"], pair["metadata"]["votes"]) == ("edit + preference", 2)
    (instruction,) = export.rows("instructions.jsonl")
    assert instruction["metadata"]["said"] == ["fb-000", "fb-002"]


def test_what_teaches_nothing_is_left_out_with_the_reason() -> None:
    same, blank = choice(), choice()
    same["responses"] = [{"model": "a", "content": "x"}] * 2
    blank["responses"] = [{"model": "a", "content": " "}, {"model": "b", "content": "x"}]
    lost = edit(response="[EMAIL]", edited="[EMAIL]")
    export = Export(stored(same, blank, lost, rating(response="")), left_out={"fb-003": "told so"})
    assert [row for file in FILES for row in export.rows(file)] == []
    assert export.account()["reasons"] == {
        "both answers are the same": 1,
        "nothing of the edit is left without the personal data": 1,
        "the better answer is blank": 1,
        "told so": 1,
    }


def test_rankings_are_averaged_and_agreement_is_that_of_their_pairs() -> None:
    base = {"kind": "ranking", "messages": ASK, "responses": ["x", "y", "z"]}
    given = [base | {"ranks": [1, 2, 3]}, base | {"ranks": [1, 3, 2]}, base | {"ranks": [1, 2, 3]}]
    (row,) = Export(stored(*given)).rows("rankings.jsonl")
    assert row["scores"] == pytest.approx([2, 3 - 7 / 3, 3 - 8 / 3])
    assert row["metadata"]["agreement"] == pytest.approx(8 / 9, abs=1e-4)
    assert Export(stored(*given), min_agreement=0.9).rows("rankings.jsonl") == []
    tied = Export(stored(base | {"ranks": [1, 1, 1]}))
    assert tied.account()["reasons"] == {"neither answer is better": 1}


def some(make: Any, *choices: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies made of one of each list of choices, and said by one of three people."""
    people = st.sampled_from("xyz")
    return st.tuples(people, *(st.sampled_from(one) for one in choices)).map(
        lambda values: make(*values[1:]) | {"author": values[0]}
    )


def a_rating(ask: str, response: str, way: str) -> dict[str, Any]:
    return rating(messages=[{"role": "user", "content": ask}], response=response, rating=way)


def a_choice(first: str, second: str, chosen: int | None) -> dict[str, Any]:
    return choice(responses=[{"model": "m", "content": text} for text in (first, second)], chosen=chosen)


def a_ranking(first: int, second: int) -> dict[str, Any]:
    return {"kind": "ranking", "messages": ASK, "responses": ["a", "b"], "ranks": [first, second]}


bodies = st.lists(
    some(a_rating, "pq", ["a", "b", "c", " "], ["up", "down"])
    | some(a_choice, ["a", "b", ""], ["a", "b"], [0, 1, None])
    | some(lambda text: edit(edited=text), ["a", "No."])
    | some(a_ranking, [1, 2], [1, 2]),
    max_size=14,
)


@given(bodies, st.sampled_from([0.0, 0.6, 1.0]), st.randoms())
@settings(max_examples=120, deadline=None)
def test_all_that_was_said_is_accounted_for_whatever_its_order(
    bodies: list[dict[str, Any]], least: float, rng: random.Random
) -> None:
    everything = stored(*bodies)
    export = Export(everything, least)
    account = export.account()
    assert account["read"] == len(bodies) == account["used"] + account["left_out"]
    assert sum(account["reasons"].values()) == account["left_out"]
    pointed = {(place["file"], place["row"]) for one in account["said"] for place in one.get("rows", [])}
    written = {(file, number) for file in FILES for number, _ in enumerate(export.rows(file), start=1)}
    assert pointed == written
    for file in FILES:
        for row in export.rows(file):
            assert row["metadata"]["agreement"] >= least
    shuffled = rng.sample(everything, len(everything))
    again = Export(shuffled, least)
    assert again.account() == account
    assert [again.rows(file) for file in FILES] == [export.rows(file) for file in FILES]


@given(bodies)
@settings(max_examples=30, deadline=None)
def test_whatever_is_written_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[dict[str, Any]]
) -> None:
    out = tmp_path_factory.mktemp("export")
    account = Export(stored(*bodies)).write(out)
    for name, file in account["files"].items():
        read = read_instructions if name == "instructions.jsonl" else read_preferences
        _, report = read(out / name)
        assert (report.read, report.quarantined) == (file["rows"], [])


def test_files_of_an_earlier_export_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    Export(stored(edit())).write(tmp_path)
    Export(stored(rating(rating="down"))).write(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [ACCOUNT, "judged.jsonl", "mine.txt"]


def test_min_agreement_is_a_share() -> None:
    with pytest.raises(UsageError, match="from 0 to 1"):
        Export([], 1.5)


def test_the_command_exports_what_was_selected(tmp_path: Path, clock: Clock) -> None:
    db = tmp_path / "service.db"
    store = FeedbackStore(Database(str(db)), clock)
    clock.now = 1_748_736_000.0 - 1  # the last second of May 2025, UTC
    store.add(said(edit(response="old")))
    clock.now += 1
    store.add(said(edit()))
    store.add(said(choice()))
    done = hanlin("feedback", "export", "--out", tmp_path / "all", "--db", db)
    assert done.stdout.splitlines()[0].startswith("3 read = 3 used + 0 left out")
    first = {file.name: file.read_bytes() for file in (tmp_path / "all").iterdir()}
    hanlin("feedback", "export", "--out", tmp_path / "all", "--db", db)
    assert {file.name: file.read_bytes() for file in (tmp_path / "all").iterdir()} == first
    done = hanlin(
        "feedback", "export", "--out", tmp_path / "some", "--db", db, "--since", "2025-06-01", "--kind", "edit"
    )
    assert done.returncode == 0, done.stderr
    assert [row["rejected"][0]["content"] for row in rows(tmp_path / "some/pairs.jsonl")] == ["No."]
    account = json.loads((tmp_path / "some" / ACCOUNT).read_text())
    assert account["selection"] == {"since": 1_748_736_000.0, "kinds": ["edit"], "projects": None}
    wrong = hanlin("feedback", "export", "--out", tmp_path / "some", "--db", db, "--kind", "smile")
    assert (wrong.returncode, "rating, edit, preference" in wrong.stderr) == (2, True)


def test_an_empty_database_exports_an_account_of_nothing(tmp_path: Path) -> None:
    account = Export([]).write(tmp_path / "deep/out")
    assert account["read"] == 0
    assert [file.name for file in (tmp_path / "deep/out").iterdir()] == [ACCOUNT]
    with pytest.raises(HanlinError):
        read_preferences(tmp_path / "deep/out")

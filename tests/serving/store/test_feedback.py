from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from hanlin.serving.feedback import FEEDBACK, MOST_CHARACTERS, FeedbackStore, NoConsentError
from hanlin.serving.store import Database
from hanlin.serving.store.tables import feedback
from tests.serving.store.conftest import Clock

ASK = [{"role": "user", "content": "What is 3?"}]


def rating(**changes: Any) -> dict[str, Any]:
    body = {"kind": "rating", "model": "m", "messages": ASK, "response": "A number.", "rating": "up", "consent": True}
    return body | changes


def edit(**changes: Any) -> dict[str, Any]:
    body = {"kind": "edit", "model": "m", "messages": ASK, "response": "No.", "edited": "A number.", "consent": True}
    return body | changes


def choice(**changes: Any) -> dict[str, Any]:
    responses = [{"model": "a", "content": "A number."}, {"model": "b", "content": "No."}]
    return {"kind": "preference", "messages": ASK, "responses": responses, "chosen": 0, "consent": True} | changes


def said(body: dict[str, Any]) -> Any:
    return FEEDBACK.validate_json(json.dumps(body))


def count(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(feedback)).scalar_one()


@pytest.mark.parametrize("body", [rating(reason="clear", tags=["short"]), edit(), choice(), choice(chosen=None)])
def test_what_is_said_is_kept_as_it_was(database: Database, clock: Clock, body: dict[str, Any]) -> None:
    store = FeedbackStore(database, clock)
    found = store.add(said(body), "hk-0123")
    (row,) = store.rows()
    assert (row.id, row.kind, row.author, row.created) == (found, body["kind"], "hk-0123", clock.now)
    left = {name: value for name, value in body.items() if name not in ("kind", "consent") and value is not None}
    assert {name: row.content[name] for name in left} == left


def test_nothing_is_kept_without_consent(database: Database) -> None:
    with pytest.raises(NoConsentError, match="set consent to true"):
        FeedbackStore(database).add(said(rating(consent=False)))
    assert count(database) == 0


def test_the_same_is_kept_once_for_each_author(database: Database) -> None:
    store = FeedbackStore(database)
    first = store.add(said(rating()), "hk-a")
    assert store.add(said(rating()), "hk-a") == first
    assert len({first, store.add(said(rating()), "hk-b"), store.add(said(rating(rating="down")), "hk-a")}) == 3
    assert count(database) == 3


def test_the_same_said_at_once_by_many_threads_is_kept_once(database: Database) -> None:
    store, found, gate = FeedbackStore(database), list[str](), threading.Barrier(8)

    def work() -> None:
        gate.wait()
        found.append(store.add(said(rating())))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert count(database) == 1


def test_no_personal_data_touches_the_disk(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "service.db"))
    store = FeedbackStore(database)
    call = {"name": "send", "arguments": '{"to": "ann@example.com", "phone": 13812345678, "n": 3, "deep": [true]}'}
    messages = [
        {"role": "user", "content": "我的电话13812345678"},
        {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "c1", "content": "sent to ann@example.com"},
    ]
    store.add(said(rating(messages=messages, response="Call 13812345678.", reason="my IP is 203.0.113.77")))
    body = choice(reason="ann@example.com")
    body["responses"][1]["content"] = "password: hunter2x"
    store.add(said(body))
    row = store.rows()[0]
    assert row.content["messages"][0]["content"] == "我的电话[PHONE]"
    arguments = row.content["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"to": "[EMAIL]", "phone": "[PHONE]", "n": 3, "deep": [True]}
    with database.read() as connection:
        counts = connection.execute(sa.select(feedback.c.redacted).order_by(feedback.c.created)).scalars().all()
    assert counts[0] == {"PHONE": 3, "EMAIL": 2, "IP": 1}
    database.close()
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for private in (b"13812345678", b"ann@example.com", b"203.0.113.77", b"hunter2x"):
        assert private not in stored


def test_what_is_withdrawn_is_gone_from_the_file_too(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "service.db"))
    store = FeedbackStore(database)
    found = store.add(said(rating(response="UNMISTAKABLE words")), "hk-a")
    assert not store.withdraw(found, "hk-b")
    assert count(database) == 1
    assert store.withdraw(found, "hk-a")
    assert not store.withdraw(found, "hk-a")
    assert store.rows() == []
    database.close()
    assert b"UNMISTAKABLE" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    again = store.add(said(rating(response="UNMISTAKABLE words")), "hk-a")
    assert again != found
    assert store.withdraw(again)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (rating(rating="maybe"), "rating"),
        (rating(colour="red"), "colour"),
        (rating(consent="yes"), "consent"),
        (rating(consent=1), "consent"),
        (rating(model="x" * 201), "model"),
        (rating(tags=["x"] * 17), "tags"),
        (rating(tags=[""]), "tags"),
        (rating(reason="x" * 4001), "reason"),
        (rating(messages=[]), "messages"),
        (rating(messages=ASK * 257), "messages"),
        (rating(messages=[{"role": "king", "content": "x"}]), "role"),
        (rating(messages=[*ASK, {"role": "assistant", "content": "x"}]), "last message"),
        (rating(messages=[{"role": "user"}]), "content is missing"),
        (rating(messages=[{"role": "user", "content": 3}]), "content"),
        (rating(messages=[{"role": "user", "content": "x" * MOST_CHARACTERS}]), "at most 400,000"),
        (rating(response="x" * (MOST_CHARACTERS + 1)), "response"),
        (edit(edited="No."), "another than response"),
        (edit(edited=" "), "another than response"),
        (choice(chosen=2), "chosen"),
        (choice(chosen=True), "chosen"),
        (choice(responses=[{"model": "a", "content": "x"}]), "responses"),
        ({"kind": "smile", "consent": True}, "kind"),
        ({"consent": True}, "kind"),
    ],
)
def test_a_body_that_is_out_of_bounds_is_refused(body: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        said(body)
    assert where in str(caught.value)


@pytest.mark.parametrize(
    "arguments", ["", "3", "[1]", "{", "NaN", '{"a": NaN}', "[" * 100_000, '{"a": ' * 33 + "1" + "}" * 33]
)
def test_arguments_of_a_tool_call_are_a_json_object(arguments: str) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "x"}]
    with pytest.raises(ValidationError, match="arguments should be"):
        said(rating(messages=messages))


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(ValidationError):
        FEEDBACK.validate_json(json.dumps(rating(response="\ud800")))
    with pytest.raises(ValidationError):
        FEEDBACK.validate_python(rating(response="\ud800"))


def test_strange_text_comes_back_as_it_was(database: Database) -> None:
    text = "\0 \u2028 \U0001f9d1 \x1b[0m \ufeff end"
    store = FeedbackStore(database)
    store.add(said(rating(response=text)))
    assert store.rows()[0].content["response"] == text


SERVER = """
import sys
from hanlin.serving.feedback import FeedbackStore
from hanlin.serving.store import Database
from tests.serving.store.test_feedback import rating, said

store = FeedbackStore(Database(sys.argv[1]))
for number in range(100_000):
    print(store.add(said(rating(response=str(number)))), flush=True)
"""


def test_acknowledged_feedback_survives_kill_9(url: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SERVER, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        acknowledged = {server.stdout.readline().strip() for _ in range(40)}
        server.send_signal(signal.SIGKILL)
        rest = server.stdout.read()
        acknowledged |= set(rest[: rest.rfind("\n") + 1].split())
    database = Database(url)
    assert acknowledged <= {row.id for row in FeedbackStore(database).rows()}
    database.close()

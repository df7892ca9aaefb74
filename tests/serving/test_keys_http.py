"""A service with keys: who may what, how much, and what is kept of what is said."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hanlin.serving.feedback import FeedbackStore
from hanlin.serving.keys import KeyLimits, Keys
from hanlin.serving.settings import ModelSettings
from hanlin.serving.store import Database
from hanlin.serving.store.tables import request_log
from tests.serving.live import Live, serving
from tests.serving.test_refusals import CHAT, CHAT_PATH, refusal


class Keyed(Live):
    """A live service with its keys."""

    keys: Keys
    database: Database

    def ask(self, secret: str, body: Any = CHAT, path: str = CHAT_PATH) -> Any:
        return self.post(path, body, headers=bearer(secret))


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def keyed(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    database = Database(str(tmp_path_factory.mktemp("keyed") / "service.db"))
    keys = Keys(database)
    with serving(
        directory, keys=keys, store=database, models=[ModelSettings(path=str(directory), name="tiny")]
    ) as live:
        made = Keyed(live.service, live.server)
        made.keys, made.database = keys, database
        yield made


def test_without_a_key_nothing_is_said(keyed: Keyed) -> None:
    body = {"garbage": True}
    for headers in ({}, {"authorization": "Basic eDp5"}, bearer("hk-" + "0" * 64), bearer("hk-é")):
        encoded = {name: value.encode("latin-1") for name, value in headers.items()}
        refused = keyed.post(CHAT_PATH, body, headers=encoded)
        assert refusal(refused, 401)["type"] == "authentication_error"
        assert refused.headers["www-authenticate"] == "Bearer"
    with keyed.client() as client:
        for path in ("/v1/models", "/metrics", "/admin/models"):
            refusal(client.get(path), 401)
        refusal(client.delete("/v1/feedback/x"), 401)
        assert client.get("/health").status_code == 200


def test_a_key_opens_until_it_is_revoked(keyed: Keyed) -> None:
    key, secret = keyed.keys.create("someone")
    assert keyed.ask(secret).status_code == 200
    keyed.keys.revoke(key.prefix)
    assert refusal(keyed.ask(secret), 401)["code"] == "invalid_api_key"


def test_roles(keyed: Keyed) -> None:
    _, user = keyed.keys.create("user")
    _, admin = keyed.keys.create("admin", "admin")
    with keyed.client() as client:
        refused = client.get("/admin/models", headers=bearer(user))
        assert refusal(refused, 403)["type"] == "permission_error"
        assert client.get("/admin/models", headers=bearer(admin)).status_code == 200
        assert client.get("/metrics", headers=bearer(user)).status_code == 200


def test_other_hosts_are_served_where_there_are_keys(keyed: Keyed) -> None:
    _, secret = keyed.keys.create("someone")
    with keyed.client() as client:
        headers = {**bearer(secret), "host": "llm.example"}
        assert client.get("/v1/models", headers=headers).status_code == 200


def test_limits_of_a_key(keyed: Keyed) -> None:
    _, secret = keyed.keys.create("few", limits=KeyLimits(requests_per_minute=2))
    assert [keyed.ask(secret).status_code for _ in range(2)] == [200, 200]
    refused = keyed.ask(secret)
    assert refusal(refused, 429)["code"] == "rate_limit_exceeded" and int(refused.headers["retry-after"]) >= 1
    _, small = keyed.keys.create("small", limits=KeyLimits(tokens_per_minute=60))
    prompt = keyed.ask(small, {**CHAT, "max_tokens": 3}).json()["usage"]["prompt_tokens"]
    assert prompt + 3 < 60 < 2 * (prompt + 3) + prompt
    refusal(keyed.ask(small, {**CHAT, "max_tokens": 30}), 429)
    refusal(keyed.ask(small, {**CHAT, "max_tokens": 60}), 400)  # waiting would not help
    # What was reserved and not used is given back: three requests that could take 65 tokens each.
    _, other = keyed.keys.create("other", limits=KeyLimits(tokens_per_minute=125))
    stopping = {**CHAT, "max_tokens": 40, "logit_bias": {"97": 100}, "stop": "aa"}
    assert [keyed.ask(other, stopping).status_code for _ in range(3)] == [200, 200, 200]
    assert keyed.quiet()


def test_feedback_is_kept_and_withdrawn(keyed: Keyed) -> None:
    _, mine = keyed.keys.create("mine")
    _, other = keyed.keys.create("other")
    _, admin = keyed.keys.create("admin", "admin")
    body = {
        "kind": "rating",
        "completion_id": "chatcmpl-1",
        "model": "tiny@1",
        "messages": [{"role": "user", "content": "write to ann@example.org"}],
        "response": "no",
        "rating": "down",
        "reason": "rude",
        "tags": ["tone"],
        "consent": True,
    }
    made = keyed.ask(mine, body, "/v1/feedback")
    assert made.status_code == 201
    stored = FeedbackStore(keyed.database).rows()
    assert [one.id for one in stored] == [made.json()["id"]]
    assert "ann@example.org" not in str(stored[0].content) and stored[0].content["rating"] == "down"
    assert keyed.ask(mine, body, "/v1/feedback").json() == made.json(), "said twice, kept once"
    preference = {
        "kind": "preference",
        "messages": body["messages"],
        "responses": [{"model": "a", "content": "x"}, {"model": "b", "content": "y"}],
        "chosen": None,
        "consent": True,
    }
    assert keyed.ask(mine, preference, "/v1/feedback").status_code == 201
    for wrong, param in (
        ({**body, "consent": False}, "consent"),
        ({**body, "rating": "sideways"}, "rating"),
        ({**body, "mood": 1}, "mood"),
        ({**preference, "chosen": 2}, "chosen"),
        ({**body, "kind": "other"}, None),
    ):
        assert refusal(keyed.ask(mine, wrong, "/v1/feedback"))["param"] == param
    with keyed.client() as client:
        path = f"/v1/feedback/{made.json()['id']}"
        refusal(client.delete(path, headers=bearer(other)), 404)
        assert client.delete(path, headers=bearer(mine)).status_code == 204
        refusal(client.delete(path, headers=bearer(mine)), 404)
        second = keyed.ask(mine, body, "/v1/feedback").json()["id"]
        assert client.delete(f"/v1/feedback/{second}", headers=bearer(admin)).status_code == 204


def test_requests_are_logged_without_what_was_said(keyed: Keyed) -> None:
    key, secret = keyed.keys.create("logged")
    asked = {**CHAT, "ignore_eos": True}  # of three tokens, whatever is drawn
    for body in (asked, {**asked, "stream": True}, {**asked, "model": "none"}):
        keyed.ask(secret, body)
    keyed.ask(secret, {"model": "tiny", "input": "hello"}, "/v1/embeddings")
    log = keyed.service.request_log
    assert log is not None
    rows: list[dict[str, Any]] = []
    until = time.monotonic() + 30
    # An answer's last byte leaves before the request is logged.
    while len(rows) < 4 and time.monotonic() < until:
        assert log.flush()
        with keyed.database.read() as connection:
            query = sa.select(request_log).where(request_log.c.key == key.prefix).order_by(request_log.c.id)
            rows = [dict(row) for row in connection.execute(query).mappings()]
    assert sorted(row["status"] for row in rows) == [200, 200, 200, 404]
    answered = [row for row in rows if row["path"] == CHAT_PATH and row["status"] == 200]
    for row in answered:
        assert row["model"] == "tiny@1" and row["prompt_tokens"] > 0 and row["completion_tokens"] == 3
        assert 0 < row["first_token_seconds"] <= row["seconds"] < 60
    assert "hello" not in str(rows)

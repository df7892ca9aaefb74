from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from hanlin.artifacts import UsageError
from hanlin.serving.keys import ROLES, SHOWN, KeyLimits, Keys
from hanlin.serving.store import Database
from hanlin.serving.store.tables import api_keys
from tests.processes import hanlin
from tests.serving.store.conftest import Clock


def test_a_key_opens_the_door_and_no_other_text_does(database: Database, clock: Clock) -> None:
    keys = Keys(database, clock)
    key, secret = keys.create("Ada", "annotator", limits=KeyLimits(requests_per_minute=7))
    other, _ = keys.create("Ada")
    assert re.fullmatch("hk-[0-9a-f]{64}", secret)
    found = keys.authenticate(secret)
    assert found is not None
    assert (found.prefix, found.name, found.role, found.limits) == (key.prefix, "Ada", "annotator", key.limits)
    assert other.prefix != key.prefix
    last = "0" if secret[-1] != "0" else "1"
    for wrong in ("", "hk-", secret[:-1], secret + "0", secret[:-1] + last, secret.upper(), f" {secret}", "hk-é\ud800"):
        assert keys.authenticate(wrong) is None, wrong


def test_the_secret_is_nowhere_at_rest(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "service.db"))
    _, secret = Keys(database).create("Ada")
    database.close()
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert secret[:SHOWN].encode() in stored
    # Eight more, not one: the next column stands right behind the prefix, and may begin with the secret's next digit.
    assert secret[: SHOWN + 8].encode() not in stored
    assert secret[SHOWN : SHOWN + 8].encode() not in stored
    assert bytes.fromhex(secret[3:]) not in stored


def test_keys_do_not_repeat(database: Database) -> None:
    keys = Keys(database)
    assert len({keys.create("many")[1] for _ in range(50)}) == 50


def test_a_key_ends_when_it_expires(database: Database, clock: Clock) -> None:
    keys = Keys(database, clock)
    key, secret = keys.create("Ada", days=2)
    clock.now += 2 * 86_400 - 1
    assert keys.authenticate(secret) is not None
    assert keys.any()
    clock.now += 1
    assert keys.authenticate(secret) is None
    assert key.state(clock.now) == "expired"
    assert not keys.any()


def test_a_key_ends_when_another_process_revokes_it(url: str, database: Database, clock: Clock) -> None:
    keys = Keys(database, clock)
    key, secret = keys.create("Ada")
    assert keys.authenticate(secret) is not None
    elsewhere = Database(url)
    clock.now += 5
    assert Keys(elsewhere, clock).revoke(key.prefix).revoked == clock.now
    elsewhere.close()
    assert keys.authenticate(secret) is None
    clock.now += 5
    assert keys.revoke(secret).revoked == clock.now - 5  # the first time counts
    assert [one.state(clock.now) for one in keys.list()] == ["revoked"]


def test_last_used_is_written_once_a_minute(database: Database, clock: Clock) -> None:
    keys = Keys(database, clock)
    _, secret = keys.create("Ada")
    assert keys.list()[0].last_used is None
    first = clock.now
    keys.authenticate(secret)
    clock.now += 59
    keys.authenticate(secret)
    assert keys.list()[0].last_used == first
    clock.now += 1
    keys.authenticate(secret)
    assert keys.list()[0].last_used == first + 60


def test_a_beginning_must_name_one_key(database: Database) -> None:
    keys = Keys(database)
    for prefix in ("hk-aaaa00000001", "hk-aaaa00000002"):
        row = {"prefix": prefix, "hash": "", "name": "n", "role": "user", "created": 1.0, "limits": {}}
        with database.write() as connection:
            connection.execute(api_keys.insert().values(row))
    with pytest.raises(UsageError, match="2 keys begin with hk-aaaa"):
        keys.revoke("hk-aaaa")
    with pytest.raises(UsageError, match="no key begins with hk-bbbb"):
        keys.revoke("hk-bbbb")
    for vague in ("", "hk-", "hk-aaa", "%", "hk-%%%%"):
        with pytest.raises(UsageError, match="is no beginning of a key"):
            keys.revoke(vague)
    assert keys.revoke("hk-aaaa00000002").prefix == "hk-aaaa00000002"
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).where(api_keys.c.revoked.is_not(None))).scalar_one() == 1


def test_each_role_may_do_what_those_below_it_may(database: Database) -> None:
    keys = Keys(database)
    made = {role: keys.create("n", role)[0] for role in ROLES}
    assert [[made[have].may(need) for need in ROLES] for have in ROLES] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "two\nlines", "\x1b[31mred"])
def test_a_name_is_a_line(database: Database, name: str) -> None:
    with pytest.raises(UsageError, match="1 to 200 characters"):
        Keys(database).create(name)


@pytest.mark.parametrize("days", [0, -1, float("nan"), float("inf")])
def test_a_key_is_good_for_some_days(database: Database, days: float) -> None:
    with pytest.raises(UsageError, match="days"):
        Keys(database).create("Ada", days=days)


def test_the_command_makes_lists_and_revokes(tmp_path: Path) -> None:
    db = tmp_path / "service.db"
    made = hanlin("keys", "create", "Ada", "--role", "admin", "--daily-tokens", 5000, "--days", 30, "--db", db)
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    key = Keys(Database(str(db))).authenticate(secret)
    assert key is not None
    assert (key.role, key.limits.daily_tokens) == ("admin", 5000)
    listed = hanlin("keys", "list", "--db", f"sqlite:///{db}")
    assert secret[:SHOWN] in listed.stdout
    assert "daily tokens 5,000" in listed.stdout
    assert secret not in listed.stdout
    ended = hanlin("keys", "revoke", secret[:SHOWN], "--db", db)
    assert ended.returncode == 0
    (row,) = json.loads(hanlin("keys", "list", "--json", "--db", db).stdout)
    assert (row["state"], row["name"]) == ("revoked", "Ada")
    assert "hash" not in row
    wrong = hanlin("keys", "create", "Ada", "--role", "king", "--db", db)
    assert (wrong.returncode, wrong.stderr.count("Roles: user, annotator, admin")) == (2, 1)

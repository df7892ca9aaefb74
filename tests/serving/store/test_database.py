from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from hanlin.artifacts import HanlinError, UsageError
from hanlin.serving.store import Database, StoreError, default_url, upgrade
from hanlin.serving.store.tables import api_keys, metadata

WRITER = """
import sys
from hanlin.serving.store import Database
from tests.serving.store.test_database import add

database = Database(sys.argv[1])
for number in range(100_000):
    add(database, f"{sys.argv[2]}-{number}")
    print(f"{sys.argv[2]}-{number}", flush=True)
"""


def add(database: Database, prefix: str) -> None:
    with database.write() as connection:
        connection.execute(
            api_keys.insert().values(prefix=prefix, hash="0" * 64, name="n", role="user", created=1.0, limits={})
        )


def prefixes(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(sa.select(api_keys.c.prefix)).scalars())


def test_a_new_database_has_the_tables_that_the_code_expects(database: Database) -> None:
    with database.read() as connection:
        options = {"version_table": upgrade.VERSION_TABLE, "compare_type": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_what_was_written_is_there_when_the_database_is_opened_again(url: str) -> None:
    first = Database(url)
    add(first, "a")
    first.close()
    assert prefixes(Database(url)) == {"a"}


def test_a_block_that_raises_writes_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError), database.write() as connection:
        connection.execute(api_keys.insert().values(prefix="a", hash="", name="n", role="user", created=1.0, limits={}))
        raise RuntimeError
    assert prefixes(database) == set()


def test_killed_writers_lose_nothing_that_they_acknowledged(url: str) -> None:
    """Two processes write at once and say so row by row; both are killed in the middle of it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, url, name], stdout=subprocess.PIPE, text=True, env=environment)
        for name in ("a", "b")
    ]
    said: set[str] = set()
    for writer in writers:
        assert writer.stdout is not None
        said |= {writer.stdout.readline().strip() for _ in range(30)}
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
    for writer in writers:
        assert writer.stdout is not None
        rest = writer.stdout.read()
        said |= set(rest[: rest.rfind("\n") + 1].split())
        writer.wait()
    assert len(said) >= 60
    database = Database(url)
    assert said <= prefixes(database)
    add(database, "after")  # no lock was left behind
    database.close()


def test_sqlite_is_told_to_sync_what_it_commits(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "service.db"))
    with database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}


def test_many_threads_write_at_once(database: Database) -> None:
    failures: list[Exception] = []

    def work(name: str) -> None:
        try:
            for number in range(10):
                add(database, f"{name}-{number}")
                assert f"{name}-{number}" in prefixes(database)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(prefixes(database)) == 80


def test_several_open_a_new_database_at_once(url: str) -> None:
    opened: list[Database] = []
    gate = threading.Barrier(6)

    def work() -> None:
        gate.wait()
        opened.append(Database(url))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 6
    for database in opened:
        database.close()


def test_an_older_database_is_upgraded_with_all_that_is_in_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Database(url)
    add(old, "a")
    old.close()
    newer = tmp_path / "migrations"
    shutil.copytree(upgrade.MIGRATIONS, newer, ignore=shutil.ignore_patterns("__pycache__"))
    (newer / "versions/v9999_more.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision = '9999'\ndown_revision = '0001'\n"
        "def upgrade():\n    op.add_column('api_keys', sa.Column('colour', sa.String(9)))\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr(upgrade, "MIGRATIONS", newer)
        database = Database(url)
        assert prefixes(database) == {"a"}
        with database.read() as connection:
            assert connection.exec_driver_sql("SELECT colour FROM api_keys").scalar_one() is None
        database.close()
    with pytest.raises(HanlinError, match=r"written by a newer hanlin.* 9999.*knows them up to 0001"):
        Database(url)


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Database(url).close()
    newer = tmp_path / "migrations"
    shutil.copytree(upgrade.MIGRATIONS, newer, ignore=shutil.ignore_patterns("__pycache__"))
    (newer / "versions/v9999_more.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision = '9999'\ndown_revision = '0001'\n"
        "def upgrade():\n    op.create_table('half', sa.Column('a', sa.Integer))\n"
        "    op.execute('SELECT * FROM nowhere')\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr(upgrade, "MIGRATIONS", newer)
        with pytest.raises(StoreError, match="nowhere"):
            Database(url)
    database = Database(url)
    with database.read() as connection:
        assert "half" not in sa.inspect(connection).get_table_names()
    database.close()


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    add(Database(str(tmp_path / "deep/service.db")), "a")
    for file in (tmp_path / "deep").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_no_value_is_shown_by_an_error(database: Database) -> None:
    with pytest.raises(StoreError) as caught, database.write() as connection:
        connection.execute(sa.text("INSERT INTO nowhere VALUES (:secret)"), {"secret": "hk-topsecret"})
    assert "nowhere" in str(caught.value)
    assert "topsecret" not in str(caught.value) + str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://a:b@host/c", "a database of kind 'mysql' can't be used"),
        ("sqlite://", "a database in memory keeps nothing"),
        ("sqlite:///:memory:", "a database in memory keeps nothing"),
        ("what://", "can't be used"),
        ("://", "can't be read"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Database(url)


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("milk, bread, and a text that is long enough to be read as the head of a database\n" * 20)
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"notes\.txt.*not a database"):
        Database(str(file))
    assert file.read_bytes() == before


def test_a_server_that_cannot_be_reached_is_named_without_its_password() -> None:
    with pytest.raises(HanlinError, match=r"\*\*\*@127\.0\.0\.1:1/x") as caught:
        Database("postgresql://me:topsecret@127.0.0.1:1/x")
    assert "topsecret" not in str(caught.value)


def test_where_the_database_is_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HANLIN_DB", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_url() == "/data/hanlin/service.db"
    monkeypatch.setenv("HANLIN_DB", "postgresql://host/name")
    assert default_url() == "postgresql://host/name"

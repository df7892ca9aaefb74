"""A database for each test: SQLite's always, PostgreSQL's where there is a server to make one on."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from hanlin.serving.store import Database

POSTGRES = "HANLIN_TEST_POSTGRES"
"""Names a server and a database on it from which others may be made, as postgresql+psycopg://USER@HOST:PORT/NAME"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/service.db"
        return
    if not os.environ.get(POSTGRES):
        pytest.skip(f"{POSTGRES} names no server")
    server = sa.create_engine(os.environ[POSTGRES], isolation_level="AUTOCOMMIT")
    name = f"hanlin_test_{secrets.token_hex(6)}"
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield server.url.set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.dispose()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.close()


class Clock:
    """A clock that stands still until it is told to move."""

    def __init__(self, now: float = 1_750_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()

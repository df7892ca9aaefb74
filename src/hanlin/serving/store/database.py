"""The service's database: opened, brought up to date, and written to so that nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from hanlin.artifacts import HanlinError, UsageError
from hanlin.serving.store import upgrade

_BUSY_SECONDS = 30
"""How long a transaction waits for another process's to end"""
_ADVISORY_LOCK = 0x68616E6C696E
"""The number under which PostgreSQL keeps one upgrade out of another's way ("hanlin")"""


class StoreError(HanlinError):
    """The database could not be read or written; what it was asked to write is not there."""


def default_url() -> str:
    """Where the service keeps its database unless told otherwise: `HANLIN_DB`, or one of the user's own."""
    if given := os.environ.get("HANLIN_DB"):
        return given
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return str(Path(home) / "hanlin/service.db")


class Database:
    """A database of the service, in its newest form; safe to use from many threads and processes.

    SQLite: a file in WAL mode, synced to disk before a transaction ends (`synchronous=FULL`), so that neither a killed
    process nor a power cut takes back what `write` has ended. PostgreSQL keeps to the same by its own defaults.
    """

    def __init__(self, url: str) -> None:
        """Open `url`: a path, `sqlite:///PATH` or `postgresql+psycopg://USER:PASSWORD@HOST/NAME`.

        A new database is made, an older one upgraded in one transaction, under a lock. Raises UsageError for a URL that
        can't be used, and HanlinError for a database that can't be reached, is none of ours, or is newer than this
        code.
        """
        self._url = _parse(url)
        self.name = self._url.render_as_string(hide_password=True)
        """The URL without its password, for messages"""
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        # One writer at a time is SQLite's rule; waiting in a queue of our own is fairer and faster than its retries.
        self._writing: contextlib.AbstractContextManager[Any] = (
            threading.Lock() if self._is_sqlite else contextlib.nullcontext()
        )
        try:
            self._engine = _make_engine(self._url, self._is_sqlite)
            with _file_lock(self._url) if self._is_sqlite else contextlib.nullcontext():
                self._upgrade()
        except (ModuleNotFoundError, NoSuchModuleError) as error:
            raise UsageError(
                f"{self.name}: the driver is not installed ({error}). For PostgreSQL: pip install 'hanlin[postgres]', "
                "and a URL that begins with postgresql+psycopg://."
            ) from None
        except OSError as error:
            raise HanlinError(f"{self.name}: it can't be opened: {error.strerror or error}.") from None
        except BaseException:
            self.close()
            raise

    def _upgrade(self) -> None:
        with self.write() as connection:
            if not self._is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            upgrade.upgrade(connection, self.name)

    @contextlib.contextmanager
    def read(self) -> Generator[Connection]:
        """A transaction that only reads: one consistent state. Raises StoreError."""
        with self._errors("read"), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self) -> Generator[Connection]:
        """A transaction: when the block has ended, all of it is on disk; when it raises, none of it happened.

        Raises StoreError when the database can't be written, and sqlalchemy's IntegrityError for a row that a
        constraint refuses.
        """
        with self._writing, self._errors("written"), self._engine.connect() as connection:
            connection = connection.execution_options(hanlin_writes=True)
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def _errors(self, done: str) -> Generator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except (DBAPIError, PoolTimeoutError) as error:
            said = str(error.orig if isinstance(error, DBAPIError) else error).strip().rstrip(".")
            raise StoreError(f"{self.name}: the database could not be {done}: {said}.") from error

    def close(self) -> None:
        """Let go of all connections."""
        if hasattr(self, "_engine"):
            self._engine.dispose()


def _parse(url: str) -> URL:
    if "://" not in url:
        return URL.create("sqlite", database=url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise UsageError(f"the database's URL can't be read: {error}") from None
    if parsed.drivername == "postgresql":  # of the drivers that this could mean, ours
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise UsageError(
            f"a database of kind {parsed.drivername!r} can't be used: give a path, sqlite:///PATH or "
            "postgresql+psycopg://USER:PASSWORD@HOST/NAME"
        )
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UsageError("a database in memory keeps nothing: name a file, as in sqlite:///service.db")
    return parsed


@contextlib.contextmanager
def _file_lock(url: URL) -> Generator[None]:
    """Makes the file, for its owner's eyes only, and keeps others who open it out until it is whole.

    The lock is on the folder: a second descriptor of the database's own file would, when closed, release SQLite's
    locks on it.
    """
    path = Path(url.database or "")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        yield
    finally:
        os.close(folder)


def _make_engine(url: URL, is_sqlite: bool) -> Engine:
    # Values stay out of error messages: they are prompts and answers.
    if not is_sqlite:
        return sa.create_engine(url, hide_parameters=True, pool_pre_ping=True, pool_size=8, max_overflow=8)
    engine = sa.create_engine(url, hide_parameters=True, pool_size=8, connect_args={"timeout": _BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say, not where sqlite3 guesses
        connection.execute("PRAGMA journal_mode=WAL")  # changes only a new file, which `_file_lock` keeps for us
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")  # what is withdrawn is overwritten, not only unlinked

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A writer says so at once: one that reads first and writes later could find that it may not.
        writes = connection.get_execution_options().get("hanlin_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine

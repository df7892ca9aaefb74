"""Brings a database's tables up to date, by alembic's revisions in `migrations/versions`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from hanlin.artifacts import HanlinError

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "hanlin_schema"
"""Holds the revision that a database is at. The name is ours alone: a PostgreSQL database may have other tenants."""
_one_at_a_time = threading.Lock()
"""Alembic's operations act on a context that is global to the process."""


def upgrade(connection: Connection, name: str) -> None:
    """Run the revisions that the database lacks, in the caller's transaction: all of them, or none.

    Raises HanlinError for a database that this code does not know, because it is newer. `name` is for its message.
    """
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    current, newest = context.get_current_revision(), script.get_current_head()
    if current == newest:
        return
    if current is not None:
        try:
            script.get_revision(current)
        except (ResolutionError, CommandError):
            raise HanlinError(
                f"{name}: the database was written by a newer hanlin: its tables are at revision {current}, this one "
                f"knows them up to {newest}. Update hanlin, or name another database."
            ) from None

    def steps(revision: Any, _: Any) -> Any:
        return script._upgrade_revs("head", revision)  # pyright: ignore[reportPrivateUsage] (as in alembic's command.py)

    with _one_at_a_time, EnvironmentContext(config, script, fn=steps) as environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE, transactional_ddl=True)
        environment.run_migrations()

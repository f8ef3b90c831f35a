"""The history of the tables: one revision per change, expand first, contract later."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

#: Number of the advisory lock that migrations take; any constant works, it only has to be ours.
LOCK = 8_316_402_117


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> tuple[str | None, str | None]:
    """Bring the database to the newest revision, in the caller's transaction; return from which to which.

    Any number of releases may start at once: the lock lets one migrate, and the others find nothing left to do.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    before = current(connection)
    command.upgrade(_config(connection), "head")
    return before, current(connection)


def newest() -> str:
    """Return the revision the code needs."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def current(connection: Connection) -> str | None:
    """Return the revision the database has, or None when it has none."""
    return MigrationContext.configure(connection).get_current_revision()

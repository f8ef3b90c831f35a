"""The history of the tables: one revision per change, expand first, contract later.

Alembic is imported when it is first needed: most commands never ask, and would wait for it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

if TYPE_CHECKING:
    from alembic.config import Config

#: Number of the advisory lock that migrations take; any constant works, it only has to be ours.
LOCK = 8_316_402_117


def _config(connection: Connection | None = None) -> "Config":
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> tuple[str | None, str | None]:
    """Bring the database to the newest revision, in the caller's transaction; return from which to which.

    Any number of releases may start at once: the lock lets one migrate, and the others find nothing left to do.
    """
    from alembic import command  # noqa: PLC0415

    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    before = current(connection)
    command.upgrade(_config(connection), "head")
    return before, current(connection)


def newest() -> str:
    """Return the revision the code needs."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def current(connection: Connection) -> str | None:
    """Return the revision the database has, or None when it has none."""
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415

    return MigrationContext.configure(connection).get_current_revision()

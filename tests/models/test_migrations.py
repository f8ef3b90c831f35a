"""From nothing to the newest tables and back."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, text

from models import Base, migrations
from sandbox.services import Services
from tests.workers import rows

_numbers = count(1)
ROOT = Path(__file__).parent.parent.parent
TABLES = Base.metadata.tables
REVISIONS = list(ScriptDirectory(str(Path(migrations.__file__).parent)).walk_revisions())


@pytest.fixture
def empty(services: Services) -> Iterator[Engine]:
    """An engine for a database without a table."""
    name = f"empty_{next(_numbers)}"
    url = services.postgres.create_database(name)
    made = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    yield made
    made.dispose()
    services.postgres.drop_database(name)


def config(connection: Connection) -> Config:
    made = Config()
    made.set_main_option("script_location", str(Path(migrations.__file__).parent))
    made.attributes["connection"] = connection
    return made


def tables(connection: Connection) -> set[str]:
    found = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
    return set(found.scalars()) - {"alembic_version"}


def things(connection: Connection) -> dict[str, Any]:
    """Everything of ours in the catalogue that a downgrade could leave behind or an upgrade could forget."""
    wanted = {
        "functions": "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        "triggers": "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal",
        "sequences": "SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'",
        "columns": "SELECT table_name, column_name, data_type, column_default, is_nullable"
        " FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'",
        "indexes": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'",
        "constraints": "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace AND conname NOT LIKE 'alembic%'",
    }
    return {name: sorted(map(tuple, connection.execute(text(query)))) for name, query in wanted.items()}


def test_the_migrations_make_exactly_the_tables_of_the_models(engine: Engine) -> None:
    rows.change(engine, "DROP TABLE effects")  # the tests' own
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": Base.metadata}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_the_tables_keep_the_room_that_the_models_ask_for(engine: Engine) -> None:
    asked = {name: dict(table.dialect_options["postgresql"].get("with") or {}) for name, table in TABLES.items()}
    options = text("SELECT relname, reloptions FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    with engine.connect() as connection:
        found = {name: dict(option.split("=") for option in kept or []) for name, kept in connection.execute(options)}
    assert {name: found[name] for name in asked} == asked
    assert found["runs"]["fillfactor"] == "85"


def test_a_fresh_database_has_no_revision_and_a_migrated_one_the_newest(empty: Engine) -> None:
    with empty.begin() as connection:
        assert migrations.current(connection) is None
        migrations.upgrade(connection)
        assert migrations.current(connection) == migrations.newest()
        assert tables(connection) == set(Base.metadata.tables)
        migrations.upgrade(connection)  # nothing left to do


def test_every_revision_can_be_taken_back_and_done_again(empty: Engine) -> None:
    with empty.begin() as connection:
        before = {}
        for revision in reversed(REVISIONS):
            before[revision.revision] = things(connection)
            command.upgrade(config(connection), revision.revision)
        newest = things(connection)
        for revision in REVISIONS:
            command.downgrade(config(connection), str(revision.down_revision or "base"))
            assert things(connection) == before[revision.revision], revision.revision
        migrations.upgrade(connection)
        assert things(connection) == newest


def test_revisions_are_numbered_in_one_line() -> None:
    numbers = [revision.revision for revision in reversed(REVISIONS)]
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]
    assert all(revision.doc for revision in REVISIONS)


MIGRATE = """
import sys
from sqlalchemy import create_engine
from models import migrations
with create_engine(sys.stdin.read()).begin() as connection:
    migrations.upgrade(connection)
"""


def test_releases_that_migrate_at_once_do_it_once(empty: Engine) -> None:
    address = empty.url.render_as_string(hide_password=False)
    started = [
        subprocess.Popen([sys.executable, "-c", MIGRATE], cwd=ROOT, stdin=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write(address)
        process.stdin.close()
    assert [process.wait(60) for process in started] == [0, 0, 0]
    with empty.connect() as connection:
        assert migrations.current(connection) == migrations.newest()

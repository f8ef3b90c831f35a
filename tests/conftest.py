"""What every test may ask for: real servers once a session, and a database of its own for each test."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker

from integrations import Integration
from jobs import Context
from models import migrations
from sandbox.services import Services
from tests.databases import Databases
from tests.workers import rows

ROOT = Path(__file__).parent.parent

# An example may take as long as a slow machine needs: what is proven is what comes out, not when.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")
# A shell lets what it starts in the background ignore Ctrl-C, and the programs of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Files that take the longest, most of them because their tests start whole processes and wait for them. They begin
#: first: at the end nobody waits for them.
LONG = (
    "docs/",
    "acceptance/",
    "chaos/",
    "transports/test_engine",
    "workers/test_cli.py",
    "workers/test_process",
    "workers/test_scheduler",
    "workers/test_watchdog",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files in front; whatever order was chosen for the rest stays."""
    tests = Path(__file__).parent
    items.sort(key=lambda item: not item.path.relative_to(tests).as_posix().startswith(LONG))


def engine_of(url: str) -> Engine:
    """Return an engine for a postgresql:// address."""
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """Embedded Postgres, Valkey and search server, shared by the tests that do not break them."""
    with Services.start(name="tests", root=ROOT / ".sandbox", durable=False) as running:
        yield running


def make_template(services: Services, name: str) -> str:
    """Make a migrated database that others are copied from, with what the trial jobs leave; return its name."""
    engine = engine_of(services.postgres.create_database(name))
    with engine.begin() as connection:
        migrations.upgrade(connection)
        connection.execute(rows.EFFECTS)
    engine.dispose()
    return name


@pytest.fixture(scope="session")
def template(services: Services) -> str:
    """Name of a migrated database that tests are copied from."""
    return make_template(services, "template_headrace")


@pytest.fixture(scope="session")
def databases(services: Services, template: str) -> Databases:
    """Databases for one test after the other."""
    return Databases(services.postgres, template)


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """Address of an empty migrated database."""
    name, url = databases.lend()
    yield url
    databases.take_back(name, url)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine for the test's own database."""
    made = engine_of(database_url)
    yield made
    made.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    """Sessions on the test's own database."""
    return sessionmaker(engine, expire_on_commit=False)


class Notes:
    """A reporter that remembers what a job said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[dict[str, Any]] = []

    def line(self, run_id: int, attempt: int, line: str, fields: dict[str, Any]) -> None:
        del run_id, attempt, fields
        self.lines.append(line)

    def progress(self, run_id: int, attempt: int, progress: dict[str, Any]) -> None:
        del run_id, attempt
        self.steps.append(progress)


@pytest.fixture
def notes() -> Notes:
    """What the job of `make_context` said."""
    return Notes()


@pytest.fixture
def make_context(sessions: sessionmaker[Session], notes: Notes) -> Callable[..., Context]:
    """Return a function that makes a job's context from ready integrations."""

    def make(*integrations: Integration, run_id: int = 1, attempt: int = 1, job: str = "test.job") -> Context:
        ready = {type(i): i for i in integrations}
        return Context(
            run_id=run_id,
            attempt=attempt,
            job=job,
            slot_at=None,
            sessions=sessions,
            integration=lambda kind: ready[kind],
            reporter=notes,
        )

    return make

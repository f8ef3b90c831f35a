"""One web process for all tests of this folder, on a database that each test finds empty."""

from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import Engine

from sandbox.services import Services
from tests.conftest import engine_of
from tests.web.people import SECRETS, admit
from tests.web.serving import Web, environment, serving
from tests.web.shop import clear


@pytest.fixture(scope="session")
def database_url(services: Services, template: str) -> str:
    """Address of the database of the shared web process."""
    return services.postgres.create_database("web", template=template)


@pytest.fixture(scope="session")
def web(services: Services, database_url: str) -> Iterator[Web]:
    """The shared web process."""
    with serving(environment(services, database_url)) as started:
        yield started


@pytest.fixture
def client(web: Web, engine: Engine) -> Iterator[httpx.Client]:
    """A program of a viewer, with the database empty but for the users."""
    del engine
    with web.client(SECRETS["viewer"]) as made:
        yield made


@pytest.fixture
def anybody(web: Web, engine: Engine) -> Iterator[httpx.Client]:
    """A client that nobody knows."""
    del engine
    with web.client() as made:
        yield made


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine for the database, emptied but for a user of each role."""
    made = engine_of(database_url)
    with made.begin() as connection:
        clear(connection)
        admit(connection)
    yield made
    made.dispose()

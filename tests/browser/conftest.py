"""A browser, and a web process that shows a shop with something of everything."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import Engine, text

from sandbox.services import Services
from tests.web.people import SECRETS, admit
from tests.web.serving import Web, environment, serving, until
from tests.web.shop import clear, fill

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; gone with the module, for its event loop would be in the way of other tests' own."""
    if not CHROMIUM.exists():
        absent = "install chromium to run the browser tests"
        if os.environ.get("CI"):
            pytest.fail(absent)
        pytest.skip(absent)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def database_url(services: Services, template: str) -> str:
    """Address of the database of the shared web process."""
    return services.postgres.create_database("browser", template=template)


@pytest.fixture(scope="session")
def running(services: Services, database_url: str) -> Iterator[Web]:
    """The shared web process."""
    with serving(environment(services, database_url)) as started:
        yield started


@pytest.fixture
def web(running: Web, engine: Engine) -> Web:
    """The shared web process once it shows the shop, as new."""
    with engine.begin() as connection:
        clear(connection)
        fill(connection)
        admit(connection)
        newest = connection.execute(text("SELECT max(id) FROM processes")).scalar_one()
    with running.client(SECRETS["viewer"]) as client:
        until(lambda: newest in [seen["id"] for seen in client.get("/api/v1/overview").json()["overview"]["processes"]])
    return running

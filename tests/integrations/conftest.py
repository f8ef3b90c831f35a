"""What the integrations are tested against: scripted servers, the stand-in upstreams, the embedded search server."""

from collections.abc import Iterator

import pytest
import redis

from sandbox.services import Services
from sandbox.upstreams import Upstreams
from tests.integrations.scripted import Scripted, scripted_server

#: A Redis database that no other test looks at.
REDIS_NUMBER = 11


@pytest.fixture
def store(services: Services) -> Iterator[redis.Redis]:
    """An empty Redis database."""
    made = redis.Redis.from_url(f"{services.valkey.url.rpartition('/')[0]}/{REDIS_NUMBER}")
    made.flushdb()
    yield made
    made.flushdb()
    made.close()


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A server that answers by script."""
    with scripted_server() as running:
        yield running


@pytest.fixture(scope="module")
def standing() -> Iterator[Upstreams]:
    """The stand-in upstreams with a small catalogue, shared by a module."""
    with Upstreams.start(products=30, stores=4) as running:
        yield running


@pytest.fixture
def upstreams(standing: Upstreams) -> Iterator[Upstreams]:
    """The stand-in upstreams, behaving well at the start of each test."""
    standing.admin.reset_faults()
    yield standing
    standing.admin.reset_faults()

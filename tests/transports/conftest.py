"""Every kind of broker, started when a test first needs it; each test has a queue of its own."""

import logging
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from sandbox.services import Services
from tests.transports import rabbitmq
from tests.transports.rabbitmq import RabbitMQ
from tests.transports.valkeys import Cluster, Watched
from workers import delivery, logs
from workers.delivery import Delivery

_numbers = count(1)
logging.getLogger(logs.SILENT).setLevel(logging.CRITICAL)

Reach = Callable[[], Delivery]


@pytest.fixture(scope="session")
def rabbit(services: Services) -> Iterator[RabbitMQ]:
    """A RabbitMQ node of this session's own."""
    rabbitmq.needed()
    with RabbitMQ(services.folder / "rabbitmq") as running:
        yield running


@pytest.fixture(scope="module")
def watched(services: Services) -> Iterator[Watched]:
    """A Sentinel with a master and a replica; a failover is not undone, so each module has its own."""
    with Watched(services.folder / f"sentinel-{next(_numbers)}") as running:
        yield running


@pytest.fixture(scope="session")
def cluster(services: Services) -> Iterator[Cluster]:
    """A cluster of three nodes."""
    made = Cluster(services.folder / "cluster")
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(params=["redis", "sentinel", "cluster", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """Address of a broker, of every kind in turn."""
    fixture = {"redis": "services", "sentinel": "watched", "cluster": "cluster", "rabbitmq": "rabbit"}[request.param]
    found = request.getfixturevalue(fixture)
    return str(found.valkey.url if isinstance(found, Services) else found.url)


@pytest.fixture
def reach(broker_url: str) -> Iterator[Reach]:
    """Return a function that makes a delivery through the broker, as each thread of ours has one."""
    made: list[Delivery] = []

    def one() -> Delivery:
        made.append(delivery.through(broker_url))
        return made[-1]

    yield one
    for each in made:
        each.close()


@pytest.fixture
def queue() -> str:
    """A queue that no other test uses."""
    return f"contract{next(_numbers)}"

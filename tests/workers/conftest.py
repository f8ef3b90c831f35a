"""A worker's resources on real servers: a database and a Redis database of the test's own, workers and relays in it."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Event, Thread

import dramatiq
import pytest
import redis
from sqlalchemy import Engine

from sandbox.services import Services
from tests.workers import trial_jobs
from workers import broker, relay, settings
from workers.broker import LedgerBroker
from workers.delivery import RedisDelivery
from workers.runtime import Runtime
from workers.watchdog import Watchdog
from workers.worker import IDLE_CHECK

#: A database of Redis that no other test looks at.
REDIS_NUMBER = 5

Working = Callable[..., AbstractContextManager[LedgerBroker]]


@pytest.fixture
def redis_url(services: Services) -> Iterator[str]:
    """Address of an empty Redis database."""
    url = f"{services.valkey.url.rpartition('/')[0]}/{REDIS_NUMBER}"
    client = redis.Redis.from_url(url)
    client.flushdb()
    yield url
    client.flushdb()
    client.close()


@pytest.fixture
def variables(services: Services, database_url: str, redis_url: str) -> dict[str, str]:
    """The environment of a process on the test's own databases."""
    return os.environ | services.environment() | {"DATABASE_URL": database_url, "REDIS_URL": redis_url}


@pytest.fixture
def runtime(variables: dict[str, str], engine: Engine) -> Iterator[Runtime]:
    """The resources of one process that knows the trial jobs."""
    relay.know_queues(engine, [trial_jobs.effect.queue])
    with Runtime(settings.load(variables), connections=24) as made:
        yield made


@pytest.fixture
def delivery(runtime: Runtime) -> RedisDelivery:
    """The queues in the test's own Redis database."""
    return RedisDelivery(lambda: runtime.redis)


@pytest.fixture
def working(runtime: Runtime) -> Working:
    """Return a function that works with a worker of its own, as `workers.worker.serve` does, while a block runs."""

    @contextmanager
    def work(*, threads: int = 2, grace: float = 10.0) -> Iterator[LedgerBroker]:
        bound = broker.make(runtime, threads=threads, queues=[trial_jobs.effect.queue])
        worker = dramatiq.Worker(bound, worker_threads=threads, worker_timeout=IDLE_CHECK)
        worker.start()
        watchdog = Watchdog(bound.holding)
        watchdog.start()
        try:
            yield bound
        finally:
            watchdog.stop()
            worker.stop(timeout=int(grace * 1000))

    return work


@pytest.fixture
def relaying(runtime: Runtime) -> Iterator[None]:
    """A relay that pushes and rescues while the test runs."""
    stopping = Event()
    thread = Thread(target=relay.serve, args=(runtime, stopping))
    thread.start()
    yield
    stopping.set()
    thread.join(20)
    assert not thread.is_alive(), "the relay did not stop"

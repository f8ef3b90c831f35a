"""The whole engine over RabbitMQ and over Sentinels: whatever the broker or a worker does, no run is lost."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from sandbox.services import Services
from tests.transports.rabbitmq import RabbitMQ, remove
from tests.transports.valkeys import Watched
from tests.workers import rows
from tests.workers.members import Members
from tests.workers.trial_jobs import effect
from workers import delivery, relay

WORKER = "tests.workers.trial_worker"
RELAY = "workers.relay"
QUEUE = effect.queue
#: Seconds until what broke must have healed: servers start anew, and a worker waits 3 s before it connects again.
HEALING = 90
CLAIMING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE '%candidates%' AND pid <> pg_backend_pid()
"""

Start = Callable[[dict[str, str]], Members]


@pytest.fixture
def start(services: Services, database_url: str, engine: Engine, tmp_path: Path) -> Iterator[Start]:
    """Return a function that makes a set of processes of ours on the test's own database."""
    relay.know_queues(engine, [QUEUE])
    made: list[Members] = []

    def members(variables: dict[str, str]) -> Members:
        ours = services.environment() | {"DATABASE_URL": database_url}
        made.append(Members(tmp_path, os.environ | ours | variables))
        return made[-1]

    yield members
    for each in made:
        each.close()


@pytest.fixture
def members(rabbit: RabbitMQ, start: Start) -> Iterator[Members]:
    """Processes whose queues are in RabbitMQ, which has none of them yet."""
    yield start({"BROKER_URL": rabbit.url})
    remove(rabbit, QUEUE)


def enqueue(engine: Engine, first: int, how_many: int, seconds: float = 0.0) -> None:
    with engine.begin() as connection:
        for number in range(first, first + how_many):
            effect.enqueue(connection, key=str(number), seconds=seconds)


def done(engine: Engine) -> int:
    return int(rows.one(engine, "SELECT count(*) FROM runs WHERE state = 'succeeded'"))


def all_done(engine: Engine, how_many: int) -> None:
    """Wait until every run succeeded; each left its effect exactly once."""
    rows.until(lambda: done(engine) == how_many, HEALING, "not every run succeeded")
    with engine.connect() as connection:
        effects = list(connection.execute(text("SELECT key FROM effects")).scalars())
    assert sorted(map(int, effects)) == list(range(how_many))


def length(rabbit: RabbitMQ) -> int:
    asked = delivery.through(rabbit.url)
    found = asked.lengths([QUEUE])[QUEUE]
    asked.close()
    return found


def test_runs_go_through_rabbitmq_and_leave_nothing_there(members: Members, rabbit: RabbitMQ, engine: Engine) -> None:
    members.start(RELAY)
    members.start(WORKER, "--threads", "4")
    enqueue(engine, 0, 300)
    all_done(engine, 300)
    assert length(rabbit) == 0
    assert rows.one(engine, "SELECT count(*) FROM attempts WHERE outcome <> 'succeeded'") == 0


def test_what_a_worker_had_fetched_and_not_claimed_when_it_was_killed_goes_to_another_one(
    members: Members, rabbit: RabbitMQ, engine: Engine
) -> None:
    enqueue(engine, 0, 3)
    with engine.connect() as blocking:
        relaying = delivery.through(rabbit.url)
        relay.Relay(engine, relaying).push()
        relaying.close()
        blocking.execute(text("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE"))
        victim = members.start(WORKER, "--threads", "4")
        rows.until(lambda: length(rabbit) == 0, HEALING, "the worker did not fetch")
        os.kill(victim.pid, signal.SIGKILL)
        # The broker has them back at once: nobody had to miss them.
        rows.until(lambda: length(rabbit) == 3, 10, "the broker did not take them back")
        rows.until(lambda: not rows.one(engine, CLAIMING), 10, "Postgres goes on for a worker that is dead")
        blocking.rollback()
    members.start(WORKER, "--threads", "4")
    all_done(engine, 3)
    assert rows.one(engine, "SELECT max(attempt) FROM runs") == 1


def test_rabbitmq_is_restarted_under_load_and_no_run_is_lost(
    members: Members, rabbit: RabbitMQ, engine: Engine
) -> None:
    members.start(RELAY)
    members.start(WORKER, "--threads", "4")
    enqueue(engine, 0, 200, seconds=0.02)
    rows.until(lambda: done(engine) > 20, HEALING)
    rabbit.stop()
    enqueue(engine, 200, 50)
    assert done(engine) < 250
    rabbit.start()
    all_done(engine, 250)


def test_a_rabbitmq_that_forgot_everything_is_filled_again(members: Members, rabbit: RabbitMQ, engine: Engine) -> None:
    enqueue(engine, 0, 5)
    relaying = delivery.through(rabbit.url)
    assert relay.Relay(engine, relaying).push() == 5
    relaying.close()
    remove(rabbit, QUEUE)
    rows.change(engine, "UPDATE runs SET queued_at = now() - interval '10 s'")
    members.start(RELAY)
    members.start(WORKER, "--threads", "4")
    all_done(engine, 5)


def test_a_master_that_dies_under_load_is_replaced_and_no_run_is_lost(
    watched: Watched, start: Start, engine: Engine
) -> None:
    members = start({"REDIS_URL": watched.url})
    members.start(RELAY)
    members.start(WORKER, "--threads", "4")
    enqueue(engine, 0, 200, seconds=0.02)
    rows.until(lambda: done(engine) > 20, HEALING)
    old = watched.address_of_the_master()
    watched.master.kill()
    enqueue(engine, 200, 50)
    rows.until(lambda: watched.address_of_the_master() != old, HEALING, "the Sentinel promoted nobody")
    all_done(engine, 250)

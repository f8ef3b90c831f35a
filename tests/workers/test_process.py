"""Real workers and relays, killed, stopped, and left without their servers."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine

from sandbox.services import Services
from tests.conftest import ROOT, engine_of, make_template
from tests.workers import rows
from tests.workers.members import Members
from tests.workers.trial_jobs import effect, patient, poison
from workers import relay

WORKER = "tests.workers.trial_worker"
RELAY = "workers.relay"
EACH_ONCE = "SELECT count(*) = count(DISTINCT run_id) FROM effects"


@pytest.fixture(scope="module")
def breakable() -> Iterator[Services]:
    """Servers that only these tests use."""
    with Services.start(name="broken", root=ROOT / ".sandbox", durable=False) as running:
        make_template(running, "template_broken")
        yield running


@pytest.fixture
def ground(breakable: Services, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A database and a Redis without a past."""
    name = f"broken_{abs(hash(request.node.name))}"
    redis.Redis.from_url(breakable.valkey.url).flushall()
    engine = engine_of(breakable.postgres.create_database(name, template="template_broken"))
    relay.know_queues(engine, ["trial"])
    yield engine
    engine.dispose()
    breakable.postgres.drop_database(name)


@pytest.fixture
def members(breakable: Services, ground: Engine, tmp_path: Path) -> Iterator[Members]:
    """Processes on those servers."""
    address = ground.url.set(drivername="postgresql").render_as_string(hide_password=False)
    made = Members(tmp_path, breakable.environment() | {"DATABASE_URL": address})
    yield made
    made.close()


def enqueue(engine: Engine, how_many: int, seconds: float = 0) -> list[int]:
    with engine.begin() as connection:
        return [effect.enqueue(connection, key=str(number), seconds=seconds) for number in range(how_many)]


def test_a_run_of_a_killed_worker_ends_elsewhere_exactly_once_more(ground: Engine, members: Members) -> None:
    (run_id,) = enqueue(ground, 1, seconds=2)
    members.start(RELAY)
    first = members.start(WORKER)
    rows.until(lambda: rows.state(ground, run_id) == "running", why=first.said())
    first.kill()
    second = members.start(WORKER)
    rows.until(lambda: rows.state(ground, run_id) == "succeeded", 60, why=second.said())
    assert rows.outcomes(ground, run_id) == ["lost", "succeeded"]
    assert rows.one(ground, "SELECT count(*) FROM effects") == 1
    assert rows.run_row(ground, run_id).failures == 1


def test_a_job_that_kills_its_workers_is_set_aside_as_poison(ground: Engine, members: Members) -> None:
    with ground.begin() as connection:
        run_id = poison.enqueue(connection)
    members.start(RELAY)
    for death in (1, 2, 3):
        worker = members.start(WORKER)
        rows.until(lambda: not worker.running, why=worker.said())  # noqa: B023 - called at once
        rows.change(ground, "UPDATE processes SET heartbeat_at = now() - interval '1 min' WHERE kind = 'worker'")
        rows.until(lambda: rows.run_row(ground, run_id).deaths == death)  # noqa: B023 - called at once
        rows.change(ground, "UPDATE runs SET due_at = now() WHERE state = 'waiting'")
    row = rows.run_row(ground, run_id)
    assert row.state == "dead"
    assert row.error.startswith("poison: 3 workers in a row died with this run")
    assert rows.outcomes(ground, run_id) == ["lost"] * 3


def test_a_stop_drains_within_the_grace(ground: Engine, members: Members) -> None:
    (short,) = enqueue(ground, 1, seconds=3)
    with ground.begin() as connection:
        long = patient.enqueue(connection)
    members.start(RELAY)
    worker = members.start(WORKER, "--grace", "10")
    # The second one has begun, not only been claimed, and so has the first.
    rows.until(lambda: rows.run_row(ground, long).progress is not None, why=worker.said())
    assert rows.state(ground, short) == "running"
    worker.signal(signal.SIGTERM)
    assert worker.wait(15) == 0, worker.said()
    assert rows.outcomes(ground, short) == ["succeeded"]
    assert rows.outcomes(ground, long) == ["shutdown"]
    assert rows.run_row(ground, long).failures == 0
    assert rows.one(ground, "SELECT stopped_at IS NOT NULL FROM processes WHERE kind = 'worker'")


def test_runs_that_redis_forgot_are_all_run(ground: Engine, members: Members, breakable: Services) -> None:
    enqueue(ground, 40)
    members.start(RELAY)
    rows.until(lambda: rows.one(ground, "SELECT count(*) FROM runs WHERE state = 'queued'") == 40)
    redis.Redis.from_url(breakable.valkey.url).flushall()
    worker = members.start(WORKER)
    rows.until(lambda: not rows.unfinished(ground), 60, why=worker.said())
    assert rows.one(ground, "SELECT count(*) FROM effects") == 40
    assert rows.one(ground, EACH_ONCE)


def test_a_restart_of_postgres_loses_no_run(ground: Engine, members: Members, breakable: Services) -> None:
    ids = enqueue(ground, 80, seconds=0.05)
    pushing, working = members.start(RELAY), members.start(WORKER, "--threads", "4")
    rows.until(lambda: rows.one(ground, "SELECT count(*) FROM effects") >= 10, why=working.said())
    breakable.postgres.restart()
    ground.dispose()
    rows.until(lambda: not rows.unfinished(ground), 90, why=pushing.said() + working.said())
    assert rows.one(ground, "SELECT count(*) FROM runs WHERE state = 'succeeded'") == len(ids)
    assert rows.one(ground, "SELECT count(DISTINCT run_id) FROM effects") == len(ids)
    assert pushing.running
    assert working.running


def test_two_relays_and_two_workers_leave_each_effect_once(ground: Engine, members: Members) -> None:
    started = [members.start(module) for module in (RELAY, RELAY, WORKER, WORKER)]
    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(enqueue, ground, 100) for _ in range(3)]:
            future.result(30)
    rows.until(lambda: not rows.unfinished(ground), 60, why="".join(member.said() for member in started))
    assert rows.one(ground, "SELECT count(*) FROM effects") == 300
    assert rows.one(ground, EACH_ONCE)
    assert rows.one(ground, "SELECT max(attempt) FROM runs") == 1


def test_a_worker_names_the_queues_there_are_when_one_is_unknown(members: Members) -> None:
    worker = members.start(WORKER, "--queues", "trial,trail")
    rows.until(lambda: not worker.running)
    assert worker.wait(1) == 2
    assert "no job uses the queue 'trail': choose from " in worker.said()
    assert "Traceback" not in worker.said()

"""The clock of a worker's host decides nothing: the database's does."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, text

from sandbox._process import Child
from tests.conftest import ROOT
from tests.workers import rows
from tests.workers.members import Members
from tests.workers.trial_jobs import effect, fail, talkative
from tests.workers.trial_jumping_worker import DAY
from workers import process, relay
from workers.process import Presence, clock_skew

RACERS = 50


@pytest.fixture
def members(variables: dict[str, str], engine: Engine, tmp_path: Path) -> Iterator[Members]:
    """Processes on the test's own database."""
    relay.know_queues(engine, [effect.queue])
    made = Members(tmp_path, variables)
    yield made
    made.close()


def test_a_worker_whose_host_has_a_jumping_clock_changes_nothing(
    engine: Engine, members: Members, variables: dict[str, str], tmp_path: Path
) -> None:
    soon = rows.one(engine, "SELECT now() + interval '6 s'")
    with engine.begin() as connection:
        retried, talks = fail.enqueue(connection, times=2), talkative.enqueue(connection)
        due_soon = effect.options(due_at=soon, deadline_at=soon.replace(year=2100)).enqueue(connection, key="due")
        due_later = effect.options(due_at=soon.replace(year=2100)).enqueue(connection, key="later")
        kept = effect.options(expires_at=soon.replace(year=2100)).enqueue(connection, key="kept")
    members.start("workers.relay")
    # It sets the clock before it reads our code, so it cannot be a copy.
    command = [sys.executable, "-m", "tests.workers.trial_jumping_worker"]
    worker = Child("worker", command, directory=tmp_path, cwd=ROOT, environment=variables)
    ended = [retried, talks, due_soon, kept]
    rows.until(lambda: {rows.state(engine, run_id) for run_id in ended} == {"succeeded"}, 60, why=worker.said())
    assert rows.outcomes(engine, retried) == ["failed", "failed", "succeeded"]
    assert rows.run_row(engine, due_soon).started_at >= soon
    assert rows.state(engine, due_later) == "waiting"
    moments = """
        SELECT count(*) FROM (
            SELECT started_at AS moment FROM attempts UNION ALL SELECT finished_at FROM attempts
            UNION ALL SELECT at FROM log_lines UNION ALL SELECT heartbeat_at FROM processes
            UNION ALL SELECT due_at FROM runs WHERE id <> :later
        ) AS kept WHERE moment NOT BETWEEN now() - interval '5 min' AND now()
    """
    assert rows.one(engine, moments, later=due_later) == 0
    assert rows.one(engine, "SELECT count(*) FROM log_lines WHERE run_id = :id", id=talks) == 1_000
    skew = "SELECT clock_skew FROM processes WHERE kind = :kind"
    rows.until(lambda: abs(rows.one(engine, skew, kind="worker")) > 2 * DAY)
    assert abs(rows.one(engine, skew, kind="relay")) < 1
    assert worker.running
    worker.stop(signal.SIGTERM)


@pytest.fixture
def wrong_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets the clock of this host for heartbeats."""

    def set_clock(seconds: float) -> None:
        wrong = SimpleNamespace(time=lambda: time.time() + seconds, monotonic=time.monotonic)
        monkeypatch.setattr(process, "time", wrong)

    return set_clock


@pytest.mark.parametrize("seconds", [4.2, -4.2, 86_400.0])
def test_by_how_much_a_clock_is_wrong_is_measured_against_the_databases(
    engine: Engine, wrong_by: Callable[[float], None], seconds: float
) -> None:
    wrong_by(seconds)
    with engine.connect() as connection:
        began = time.monotonic()
        found = clock_skew(connection)
        took = time.monotonic() - began
    assert abs(seconds) - took <= abs(found) <= abs(seconds)
    assert (found > 0) == (seconds > 0)


def test_a_slow_way_to_the_database_is_no_wrong_clock(
    engine: Engine, wrong_by: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "CLOCK", text("SELECT extract(epoch FROM clock_timestamp())::float8 FROM pg_sleep(1)"))
    with engine.connect() as connection:
        wrong_by(0)
        assert clock_skew(connection) == 0
        wrong_by(0.9)
        assert clock_skew(connection) == 0
        wrong_by(4)
        assert 2.9 < clock_skew(connection) <= 4


def test_each_beat_keeps_the_difference_in_the_row_of_the_process(
    engine: Engine, wrong_by: Callable[[float], None]
) -> None:
    skew = "SELECT round(clock_skew::numeric) FROM processes"
    wrong_by(600)
    presence = Presence(engine, "relay").start()
    assert rows.one(engine, skew) == 600
    wrong_by(-60)
    presence.beat()
    assert rows.one(engine, skew) == -60
    wrong_by(0)
    presence.beat()
    assert rows.one(engine, skew) == 0
    presence.stop()


def test_of_fifty_processes_that_enqueue_under_one_unique_key_one_writes_and_all_get_its_run(
    engine: Engine, database_url: str
) -> None:
    command = [sys.executable, "-m", "tests.workers.racers", database_url, str(RACERS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert len(done.stdout.split()) == RACERS
    (run_id,) = set(done.stdout.split())
    with engine.connect() as connection:
        assert [str(found) for found in connection.execute(text("SELECT id FROM runs")).scalars()] == [run_id]

"""Jobs that nothing in Python can end, in real worker processes."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.workers import rows
from tests.workers.members import Members
from tests.workers.trial_jobs import deaf, effect, overdue, patient, stubborn
from workers import relay
from workers.watchdog import RECYCLED

WORKER = "tests.workers.trial_worker"
SENTENCE = "took longer than its time limit of 0.3 s, and nothing could interrupt it: its worker process was recycled"
#: A socket, a sleep, a statement, a sleep that holds the row of its run, a thread that never ends.
BLOCKED = ["recv", "sleep", "database", "row", "thread"]


@pytest.fixture
def members(variables: dict[str, str], engine: Engine, tmp_path: Path) -> Iterator[Members]:
    """Processes on the test's own database, beside a relay."""
    relay.know_queues(engine, [effect.queue])
    made = Members(tmp_path, variables)
    made.start("workers.relay")
    yield made
    made.close()


def until_running(engine: Engine, *run_ids: int, said: str) -> None:
    rows.until(lambda: {rows.state(engine, run_id) for run_id in run_ids} == {"running"}, 60, why=said)


def test_jobs_that_do_not_end_are_recorded_as_timed_out_and_take_their_process_with_them(
    engine: Engine, members: Members
) -> None:
    with engine.begin() as connection:
        blocked = [overdue.enqueue(connection, how=how) for how in BLOCKED]
        beside = patient.enqueue(connection, checks=100_000)
    worker = members.start(WORKER, "--overtime", "5", "--threads", str(len(BLOCKED) + 1))
    rows.until(lambda: not worker.running, 60, why=worker.said())
    assert worker.wait(1) == RECYCLED
    for run_id in blocked:
        (attempt,) = rows.attempts(engine, run_id)
        assert (attempt.outcome, rows.run_row(engine, run_id).failures) == ("timed_out", 1)
        assert (attempt.error, rows.run_row(engine, run_id).error) == (SENTENCE, SENTENCE)
        assert "in _block" in attempt.traceback
    assert rows.outcomes(engine, beside) == ["shutdown"]
    assert (rows.run_row(engine, beside).failures, rows.run_row(engine, beside).deaths) == (0, 0)
    assert rows.one(engine, "SELECT count(*) FROM processes WHERE kind = 'worker' AND stopped_at IS NULL") == 0
    lines = [line for line in worker.said().splitlines() if "this worker process is recycled" in line]
    assert len(lines) == len(blocked)
    assert all(overdue.name in line and "in _block" in line for line in lines)
    assert all(any(f'"run": {run_id}' in line for line in lines) for run_id in blocked)


def test_a_job_that_never_ends_is_dead_once_its_allowance_of_processes_is_used_up(
    engine: Engine, members: Members
) -> None:
    with engine.begin() as connection:
        run_id = overdue.enqueue(connection, how="recv")
    for failures in (1, 2):
        worker = members.start(WORKER, "--overtime", "0.2")
        rows.until(lambda: not worker.running, 60, why=worker.said())  # noqa: B023 - called at once
        assert rows.run_row(engine, run_id).failures == failures
    assert (rows.state(engine, run_id), rows.outcomes(engine, run_id)) == ("dead", ["timed_out"] * 2)


def test_a_job_that_ends_late_but_within_the_overtime_leaves_its_worker_alone(engine: Engine, members: Members) -> None:
    with engine.begin() as connection:
        late = stubborn.enqueue(connection)
    worker = members.start(WORKER, "--overtime", "20", "--threads", "1")
    rows.until(lambda: rows.run_row(engine, late).finished_at is not None, 60, why=worker.said())
    with engine.begin() as connection:
        next_one = effect.enqueue(connection, key="the process lives")
    rows.until(lambda: rows.state(engine, next_one) == "succeeded", 60, why=worker.said())
    assert worker.running
    assert "recycled" not in worker.said()


def test_a_stop_leaves_without_the_jobs_that_do_not_end_and_puts_them_back(engine: Engine, members: Members) -> None:
    with engine.begin() as connection:
        ids = [deaf.enqueue(connection, how=how) for how in BLOCKED]
    worker = members.start(WORKER, "--grace", "0.5", "--threads", str(len(BLOCKED)))
    until_running(engine, *ids, said=worker.said())
    worker.signal(signal.SIGTERM)
    assert worker.wait(60) == 0, worker.said()
    for run_id in ids:
        row = rows.run_row(engine, run_id)
        assert (row.state in {"waiting", "queued"}, row.failures, row.checkpoint) == (True, 0, None)
        assert rows.outcomes(engine, run_id) == ["shutdown"]

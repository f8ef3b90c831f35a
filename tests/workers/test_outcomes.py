"""The buffer of outcomes, with a database that goes away, and with rows that are refused."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tests.workers import rows
from tests.workers.trial_jobs import effect
from workers import ledger
from workers.ledger import Ending
from workers.outcomes import Outcomes, _may_pass


@pytest.fixture
def buffer(engine: Engine) -> Iterator[Outcomes]:
    made = Outcomes(engine).start()
    yield made
    made.close(20)
    assert not made._thread.is_alive()


def running(engine: Engine, how_many: int = 1) -> list[int]:
    with engine.begin() as connection:
        process = rows.enter(connection)
        ids = [effect.enqueue(connection, key="a") for _ in range(how_many)]
    with engine.begin() as connection:  # a run is due from its statement on, a claim asks at its transaction's begin
        ledger.claim(connection, ids, process, [effect.name])
    return ids


def done(run_id: int) -> Ending:
    return Ending(run_id, 1, state="succeeded", outcome="succeeded", result={"pieces": 1})


def test_what_is_handed_over_is_written_in_sets(engine: Engine, buffer: Outcomes) -> None:
    commits: list[Connection] = []

    def count(connection: Connection) -> None:
        commits.append(connection)

    ids = running(engine, 300)
    event.listen(engine, "commit", count)
    for run_id in ids:
        buffer.ending(done(run_id))
    rows.until(lambda: not rows.unfinished(engine))
    event.remove(engine, "commit", count)
    assert rows.one(engine, "SELECT count(*) FROM attempts") == 300
    assert len(commits) < 150


def test_what_is_left_is_written_before_a_close_returns(engine: Engine) -> None:
    (run_id,) = running(engine)
    buffer = Outcomes(engine).start()
    buffer.line(run_id, 1, "the last word", {})
    buffer.ending(done(run_id))
    buffer.close(20)
    assert rows.state(engine, run_id) == "succeeded"
    assert rows.one(engine, "SELECT line FROM log_lines") == "the last word"


def test_nothing_is_lost_while_postgres_is_away(engine: Engine, buffer: Outcomes) -> None:
    ids = running(engine, 3)
    away = True

    def refuse(connection: Connection) -> None:
        del connection
        if away:
            raise OperationalError("connect", None, psycopg.OperationalError("away"))

    event.listen(engine, "begin", refuse)
    try:
        for run_id in ids:
            buffer.ending(done(run_id))
        rows.until(lambda: not buffer._endings)
        away = False
        rows.until(lambda: not rows.unfinished(engine))
    finally:
        event.remove(engine, "begin", refuse)


@pytest.mark.parametrize(
    "words",
    [
        {"state": "asleep"},  # Postgres refuses the state; the outcome of this one cannot be kept
        {"error_class": object()},
        {"delay": float("inf")},
    ],
)
def test_a_row_that_is_refused_takes_no_other_with_it(engine: Engine, buffer: Outcomes, words: dict[str, Any]) -> None:
    before, bad, after = running(engine, 3)
    buffer.line(before, 1, "kept", {})
    buffer.line(10**9, 1, "of a run that is gone", {})
    buffer.progress(before, 1, {"done": 1})
    buffer.ending(done(before))
    buffer.ending(Ending(**{"run_id": bad, "attempt": 1, "state": "waiting", "outcome": "failed", **words}))
    buffer.ending(done(after))
    rows.until(lambda: (rows.state(engine, before), rows.state(engine, after)) == ("succeeded", "succeeded"))
    rows.until(lambda: rows.one(engine, "SELECT array_agg(line) FROM log_lines") == ["kept"])
    assert rows.run_row(engine, before).result == {"pieces": 1}


def test_an_outcome_whose_words_are_refused_is_kept_without_them(engine: Engine, buffer: Outcomes) -> None:
    (run_id,) = running(engine)
    endless: dict[str, Any] = {}
    endless["self"] = endless
    buffer.ending(Ending(run_id, 1, state="dead", outcome="failed", error="broken", result=endless))
    rows.until(lambda: rows.state(engine, run_id) == "dead")
    row = rows.run_row(engine, run_id)
    assert (row.error, row.result) == ("its error text was refused", None)
    assert rows.outcomes(engine, run_id) == ["failed"]


def test_the_latest_progress_of_a_run_is_what_counts(engine: Engine, buffer: Outcomes) -> None:
    (run_id,) = running(engine)
    for step in range(100):
        buffer.progress(run_id, 1, {"done": step})
    rows.until(lambda: rows.run_row(engine, run_id).progress == {"done": 99})
    buffer.progress(run_id, 2, {"done": 7})
    buffer.line(run_id, 1, "later", {})
    rows.until(lambda: rows.one(engine, "SELECT count(*) FROM log_lines") == 1)
    rows.until(lambda: not buffer._steps)
    assert rows.run_row(engine, run_id).progress == {"done": 99}


def test_secrets_leave_before_they_are_gathered(engine: Engine, buffer: Outcomes) -> None:
    (run_id,) = running(engine)
    buffer.line(run_id, 1, "asked with Bearer hunter2", {"api_key": "hunter2", "deep": [({"password": "hunter2"},)]})
    rows.until(lambda: rows.one(engine, "SELECT count(*) FROM log_lines") == 1)
    assert "hunter2" not in rows.one(engine, "SELECT log_lines::text FROM log_lines")


def refused(kind: type[psycopg.Error], invalidated: bool = False) -> OperationalError:
    return OperationalError("s", None, kind("no"), connection_invalidated=invalidated)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (refused(psycopg.OperationalError), True),  # no answer, so no code
        (refused(psycopg.errors.DeadlockDetected), True),
        (refused(psycopg.errors.AdminShutdown), True),
        (refused(psycopg.errors.DiskFull), True),
        (refused(psycopg.errors.InvalidTextRepresentation, invalidated=True), True),
        (PoolTimeout("all connections are taken"), True),
        (DataError("s", None, psycopg.errors.UntranslatableCharacter("no")), False),
        (IntegrityError("s", None, psycopg.errors.ForeignKeyViolation("no")), False),
        (TypeError("not JSON"), False),
    ],
)
def test_what_may_pass_is_tried_again_and_nothing_else(error: Exception, passes: bool) -> None:
    assert _may_pass(error) is passes

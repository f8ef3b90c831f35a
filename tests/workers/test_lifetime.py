"""Work whose time is over: no attempt begins after its deadline, and nobody starts what has expired."""

import re

import pytest
from sqlalchemy import Engine, text

from tests.workers import rows
from tests.workers.conftest import Working
from tests.workers.trial_jobs import effect, fail, meet
from workers import ledger, rescue
from workers.delivery import Delivery
from workers.ledger import Ending


def waiting(engine: Engine, **columns: str) -> int:
    """Return a waiting run with SQL for some of its columns."""
    with engine.begin() as connection:
        run_id = effect.enqueue(connection, key="a")
    for column, value in columns.items():
        rows.change(engine, f"UPDATE runs SET {column} = {value} WHERE id = :id", id=run_id)
    return run_id


def held(engine: Engine, **columns: str) -> int:
    """Return a running run."""
    run_id = waiting(engine, **columns)
    with engine.begin() as connection:
        process = rows.enter(connection)
    assert len(rows.claim(engine, process, run_id, jobs=[effect.name])) == 1
    return run_id


def finish(engine: Engine, run_id: int, *, delay: float, outcome: str = "failed") -> None:
    ending = Ending(
        run_id, 1, state="waiting", outcome=outcome, delay=delay, counts=outcome == "failed", error="the mill is away"
    )
    with engine.begin() as connection:
        assert ledger.finish(connection, [ending]) == 1


def claim(engine: Engine, run_id: int) -> int:
    with engine.begin() as connection:
        process = rows.enter(connection)
    return len(rows.claim(engine, process, run_id, jobs=[effect.name]))


SOON, PAST = "now() + interval '1 min'", "now() - interval '1 ms'"


@pytest.mark.parametrize("state", ["waiting", "queued"])
@pytest.mark.parametrize("column", ["expires_at", "deadline_at"])
def test_a_claim_refuses_a_run_whose_time_is_over(engine: Engine, column: str, state: str) -> None:
    assert claim(engine, waiting(engine, **{column: PAST}, state=f"'{state}'")) == 0
    assert claim(engine, waiting(engine, **{column: SOON}, state=f"'{state}'")) == 1


def test_a_run_that_has_begun_no_longer_expires_but_meets_its_deadline(engine: Engine) -> None:
    run_id = held(engine, expires_at=SOON)
    finish(engine, run_id, delay=0)
    rows.change(engine, f"UPDATE runs SET expires_at = {PAST}")
    assert rescue.end_what_is_over(engine) == (0, 0)
    assert claim(engine, run_id) == 1
    assert claim(engine, waiting(engine, attempt="1", deadline_at=PAST)) == 0


@pytest.mark.parametrize("outcome", ["failed", "snoozed", "shutdown"])
def test_a_retry_that_would_be_due_after_the_deadline_is_the_end(engine: Engine, outcome: str) -> None:
    run_id = held(engine, deadline_at=SOON)
    finish(engine, run_id, delay=61, outcome=outcome)
    row = rows.run_row(engine, run_id)
    assert row.state == "dead"
    sentence = (
        r"out of time: no attempt begins after 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC; the last one: the mill is away"
    )
    assert re.fullmatch(sentence, row.error)
    assert row.finished_at is not None
    (attempt,) = rows.attempts(engine, run_id)
    assert (attempt.outcome, attempt.error) == (outcome, "the mill is away")
    assert row.failures == (outcome == "failed")


def test_a_retry_within_the_deadline_goes_on(engine: Engine) -> None:
    run_id = held(engine, deadline_at=SOON)
    finish(engine, run_id, delay=30)
    row = rows.run_row(engine, run_id)
    assert (row.state, row.error) == ("waiting", "the mill is away")


def test_a_run_that_was_cancelled_while_it_ran_is_cancelled_and_not_out_of_time(engine: Engine) -> None:
    run_id = held(engine, deadline_at=SOON)
    rows.change(engine, "UPDATE runs SET cancel_requested_at = now()")
    finish(engine, run_id, delay=61)
    row = rows.run_row(engine, run_id)
    assert (row.state, row.error) == ("cancelled", "the mill is away")


def test_a_success_after_the_deadline_is_a_success(engine: Engine) -> None:
    run_id = held(engine, deadline_at=SOON)
    rows.change(engine, f"UPDATE runs SET deadline_at = {PAST}")
    with engine.begin() as connection:
        ledger.finish(connection, [Ending(run_id, 1, state="succeeded", outcome="succeeded")])
    assert (rows.state(engine, run_id), rows.run_row(engine, run_id).error) == ("succeeded", None)


def test_a_run_lost_with_its_worker_is_dead_when_its_next_attempt_would_come_too_late(engine: Engine) -> None:
    run_id = held(engine, deadline_at="now() + interval '1 s'")
    rows.change(engine, "UPDATE processes SET stopped_at = now()")
    with engine.begin() as connection:
        assert rescue.take_back(connection) == 1
    row = rows.run_row(engine, run_id)
    assert row.state == "dead"
    assert row.error.endswith("UTC; the last one: the worker that held it died")
    assert rows.outcomes(engine, run_id) == ["lost"]


def test_the_rescue_ends_in_sets_what_waited_for_too_long(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescue, "MOST", 2)
    with engine.begin() as connection:
        ids = effect.enqueue_many(connection, [{"key": str(number)} for number in range(12)])
    rows.change(engine, f"UPDATE runs SET expires_at = {PAST} WHERE id = ANY(:ids)", ids=ids[:5])
    rows.change(engine, f"UPDATE runs SET deadline_at = {PAST}, attempt = 1, error = 'no' WHERE id = :id", id=ids[5])
    rows.change(engine, f"UPDATE runs SET deadline_at = {PAST} WHERE id = :id", id=ids[6])
    rows.change(engine, f"UPDATE runs SET expires_at = {SOON}, deadline_at = {SOON} WHERE id = :id", id=ids[7])
    rows.change(engine, "UPDATE runs SET state = 'queued', queued_at = now() WHERE id % 2 = 0")
    assert rescue.end_what_is_over(engine) == (5, 2)
    assert {rows.state(engine, run_id) for run_id in ids[:5]} == {"cancelled"}
    assert {rows.state(engine, run_id) for run_id in ids[5:7]} == {"dead"}
    assert {rows.state(engine, run_id) for run_id in ids[7:]} <= {"waiting", "queued"}
    said = rows.run_row(engine, ids[0])
    assert said.error.startswith("expired: it was wanted until 20")
    assert said.error.endswith("UTC and had not begun")
    assert said.finished_at is not None
    assert rows.run_row(engine, ids[5]).error.endswith("UTC; the last one: no")
    assert rows.run_row(engine, ids[6]).error.endswith("UTC")
    assert rescue.end_what_is_over(engine) == (0, 0)


def test_a_run_that_somebody_is_claiming_is_left_to_him(engine: Engine) -> None:
    run_id = waiting(engine, expires_at=PAST)
    with engine.begin() as connection:
        connection.execute(text("SELECT 1 FROM runs WHERE id = :id FOR UPDATE"), {"id": run_id})
        assert rescue.end_what_is_over(engine) == (0, 0)
    assert rescue.end_what_is_over(engine) == (1, 0)


def test_what_expired_gives_its_unique_key_free(engine: Engine) -> None:
    with engine.begin() as connection:
        first = effect.options(unique_key="k").enqueue(connection, key="a")
    rows.change(engine, f"UPDATE runs SET expires_at = {PAST}")
    rescue.end_what_is_over(engine)
    with engine.begin() as connection:
        assert effect.options(unique_key="k").enqueue(connection, key="a") != first


def test_a_run_on_the_broker_that_expired_ends_although_its_message_was_dropped(
    engine: Engine, delivery: Delivery
) -> None:
    run_id = waiting(engine, expires_at=PAST, state="'queued'", queued_at="now()")
    assert claim(engine, run_id) == 0
    assert rescue.rescue(engine, delivery) == (0, 0)
    assert rows.state(engine, run_id) == "cancelled"


@pytest.mark.usefixtures("relaying")
def test_a_run_of_failures_ends_at_its_deadline_before_its_attempts_are_used_up(
    engine: Engine, working: Working
) -> None:
    soon, much_later = (rows.one(engine, f"SELECT now() + interval '{time}'") for time in ("1 s", "1 h"))
    with engine.begin() as connection:
        patient = meet.options(deadline_at=soon).enqueue(connection, error="throttled")
        late = fail.options(expires_at=soon, due_at=much_later).enqueue(connection)
    with working():
        rows.until(lambda: not rows.unfinished(engine))
    row = rows.run_row(engine, patient)
    assert row.state == "dead"
    assert row.error.endswith("UTC; the last one: asked for patience")
    assert set(rows.outcomes(engine, patient)) == {"snoozed"}
    assert (rows.state(engine, late), rows.outcomes(engine, late)) == ("cancelled", [])

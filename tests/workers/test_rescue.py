"""What the rescue takes back, from dead workers and from a broker that forgot."""

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from tests.workers import rows
from tests.workers.trial_jobs import effect, fail
from workers import ledger, relay, rescue
from workers.delivery import Queued, RedisDelivery
from workers.delivery._redis import FORGOTTEN_AFTER, judge
from workers.ledger import Ending
from workers.process import RENEW
from workers.relay import Relay
from workers.rescue import MISSING_AFTER


def held(engine: Engine, *, max_attempts: int = 10) -> tuple[int, int]:
    """Return a running run and the live process that holds it."""
    with engine.begin() as connection:
        process = rows.enter(connection)
        run_id = effect.enqueue(connection, key="a")
    rows.change(engine, "UPDATE runs SET max_attempts = :most", most=max_attempts)
    rows.claim(engine, process, run_id, jobs=[effect.name])
    return run_id, process


def take_back(engine: Engine) -> int:
    with engine.begin() as connection:
        return rescue.take_back(connection)


def silence(engine: Engine, seconds: int = 60) -> None:
    """Let every process have been silent for so long."""
    rows.change(engine, "UPDATE processes SET heartbeat_at = now() - :s * interval '1 s'", s=seconds)


def test_a_run_of_a_silent_worker_ends_its_attempt_as_lost_and_goes_back(engine: Engine) -> None:
    run_id, process = held(engine)
    silence(engine)
    assert take_back(engine) == 1
    row = rows.run_row(engine, run_id)
    assert (row.state, row.failures, row.deaths, row.error) == ("waiting", 1, 1, "the worker that held it died")
    assert rows.one(engine, "SELECT due_at > now() FROM runs")
    (attempt,) = rows.attempts(engine, run_id)
    assert (attempt.number, attempt.outcome, attempt.process_id) == (1, "lost", process)
    assert rows.one(engine, "SELECT stopped_at IS NOT NULL FROM processes")
    assert take_back(engine) == 0


def test_a_run_of_a_worker_that_beats_is_left_alone(engine: Engine) -> None:
    run_id, _ = held(engine)
    silence(engine, 10)
    assert take_back(engine) == 0
    assert rows.state(engine, run_id) == "running"


def test_a_run_of_a_worker_that_said_goodbye_is_taken_back_at_once(engine: Engine) -> None:
    run_id, _ = held(engine)
    rows.change(engine, "UPDATE processes SET stopped_at = now()")
    assert take_back(engine) == 1
    assert rows.state(engine, run_id) == "waiting"


def test_a_run_that_took_three_workers_in_a_row_is_set_aside_as_poison(engine: Engine) -> None:
    run_id, _ = held(engine)
    for death in (1, 2, 3):
        silence(engine)
        take_back(engine)
        row = rows.run_row(engine, run_id)
        assert row.deaths == death
        rows.change(engine, "UPDATE runs SET due_at = now() WHERE state = 'waiting'")
        with engine.begin() as connection:
            ledger.claim(connection, [run_id], rows.enter(connection), [effect.name])
    assert (row.state, row.error[:37]) == ("dead", "poison: 3 workers in a row died with ")
    assert rows.outcomes(engine, run_id) == ["lost"] * 3
    assert row.finished_at is not None


def test_deaths_that_do_not_follow_one_another_are_no_poison(engine: Engine) -> None:
    run_id, _ = held(engine)
    silence(engine)
    take_back(engine)
    rows.change(engine, "UPDATE runs SET due_at = now()")
    with engine.begin() as connection:
        ledger.claim(connection, [run_id], rows.enter(connection), [effect.name])
        ledger.finish(connection, [Ending(run_id, 2, state="waiting", outcome="failed", counts=True)])
    assert rows.run_row(engine, run_id).deaths == 0


def test_a_lost_last_attempt_is_the_end(engine: Engine) -> None:
    run_id, _ = held(engine, max_attempts=1)
    silence(engine)
    take_back(engine)
    row = rows.run_row(engine, run_id)
    assert (row.state, row.error) == ("dead", "the worker that held it died")


def test_a_lost_run_whose_cancel_was_requested_is_cancelled(engine: Engine) -> None:
    run_id, _ = held(engine)
    rows.change(engine, "UPDATE runs SET cancel_requested_at = now()")
    silence(engine)
    take_back(engine)
    assert rows.state(engine, run_id) == "cancelled"


def test_a_late_outcome_of_a_worker_that_was_only_frozen_falls_through(engine: Engine) -> None:
    run_id, _ = held(engine)
    silence(engine)
    take_back(engine)
    with engine.begin() as connection:
        ending = Ending(run_id, 1, state="succeeded", outcome="succeeded")
        assert ledger.finish(connection, [ending]) == 0
    assert rows.outcomes(engine, run_id) == ["lost"]


ages = st.floats(0, 100)


@given(st.lists(st.tuples(st.integers(1, 20), st.sampled_from("ab"), ages), unique_by=lambda run: run[0]), st.data())
def test_a_run_is_forgotten_when_its_message_is_gone_or_was_fetched_long_ago(
    found: list[tuple[int, str, float]], data: st.DataObject
) -> None:
    queued = [Queued(*run) for run in found]
    known = {run.run_id for run in queued if data.draw(st.booleans())}
    listed = {run_id for run_id in known if data.draw(st.booleans())}
    forgotten = judge(queued, known, listed)
    for run in queued:
        waited_in_vain = run.age > FORGOTTEN_AFTER and run.run_id not in listed
        assert (run.run_id in forgotten) == (run.run_id not in known or waited_in_vain)


@pytest.fixture
def pushed(engine: Engine, delivery: RedisDelivery) -> int:
    """A run that is on the broker."""
    with engine.begin() as connection:
        run_id = fail.enqueue(connection)
    assert Relay(engine, delivery).push() == 1
    return run_id


def age(engine: Engine, seconds: float) -> None:
    rows.change(engine, "UPDATE runs SET queued_at = now() - :s * interval '1 s'", s=seconds)


def test_what_redis_forgot_goes_back_and_is_pushed_by_force(
    engine: Engine, delivery: RedisDelivery, redis_url: str, pushed: int
) -> None:
    redis.Redis.from_url(redis_url).flushdb()
    assert rescue.rescue(engine, delivery) == (0, 0)  # it may be on its way to a claim
    age(engine, MISSING_AFTER + 1)
    assert rescue.rescue(engine, delivery) == (0, 1)
    assert rows.state(engine, pushed) == "waiting"
    Relay(engine, delivery).push()
    assert delivery.fetch("trial", 5)[0] == [str(pushed).encode()]


def test_a_message_stuck_in_the_hands_of_a_dead_consumer_is_pushed_again(
    engine: Engine, delivery: RedisDelivery, pushed: int
) -> None:
    delivery.fetch("trial", 5)
    age(engine, MISSING_AFTER + 1)
    assert rescue.rescue(engine, delivery) == (0, 0)
    age(engine, FORGOTTEN_AFTER + 1)
    assert rescue.rescue(engine, delivery) == (0, 1)
    Relay(engine, delivery).push()
    assert delivery.fetch("trial", 5)[0] == [str(pushed).encode()]


def test_a_run_that_waits_in_a_long_queue_is_left_there(engine: Engine, delivery: RedisDelivery, pushed: int) -> None:
    age(engine, 10_000)
    assert rescue.rescue(engine, delivery) == (0, 0)
    assert rows.state(engine, pushed) == "queued"


def test_a_message_that_is_gone_is_noticed_behind_any_backlog_of_another_queue(
    engine: Engine, delivery: RedisDelivery, pushed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue, "MOST", 2)
    with engine.begin() as connection:
        others = [effect.enqueue(connection, key=str(number)) for number in range(5)]
    rows.change(
        engine, "UPDATE runs SET queue = 'stuck', state = 'queued', queued_at = now() WHERE id <> :id", id=pushed
    )
    rows.change(engine, "INSERT INTO queues (name) VALUES ('stuck')")
    delivery.push(("stuck", effect.name, run_id, False) for run_id in others)
    age(engine, MISSING_AFTER + 60)
    rows.change(engine, "UPDATE runs SET queued_at = now() - interval '10 s' WHERE id = :id", id=pushed)
    delivery.forget("trial", delivery.fetch("trial", 10)[0])
    assert rescue.rescue(engine, delivery) == (0, 1)
    assert rows.state(engine, pushed) == "waiting"


def test_a_relay_that_could_not_reach_postgres_itself_buries_nobody_yet(
    engine: Engine, delivery: RedisDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage every heartbeat is old: the living get the time to beat again."""
    run_id, _ = held(engine)
    silence(engine)
    monkeypatch.setattr(relay, "STALE_AFTER", 0.3)
    tested = Relay(engine, delivery)
    tested.rescue()
    assert rows.state(engine, run_id) == "running"

    def buried() -> bool:
        tested.rescue()
        return rows.state(engine, run_id) == "waiting"

    rows.until(buried)


def test_a_process_that_froze_in_the_middle_of_a_beat_keeps_nobody_from_rescuing_the_others(engine: Engine) -> None:
    with engine.begin() as connection:
        frozen, dead = rows.enter(connection), rows.enter(connection)
    rows.change(engine, "UPDATE processes SET heartbeat_at = now() - interval '1 minute'")
    stopped = "SELECT stopped_at IS NOT NULL FROM processes WHERE id = :id"
    with engine.begin() as beating, engine.begin() as rescuing:
        beating.execute(RENEW, {"id": frozen, "skew": 0.0})
        rescuing.execute(text("SET LOCAL lock_timeout = '5s'"))
        rescue.take_back(rescuing)
        assert rescuing.execute(text(stopped), {"id": dead}).scalar_one()
        assert not rescuing.execute(text(stopped), {"id": frozen}).scalar_one()

"""The consumer that claims what it fetches, under Dramatiq's own worker."""

from typing import Any

import dramatiq
import pytest
from dramatiq.errors import ConnectionClosed
from sqlalchemy import Engine

from tests.workers import rows
from tests.workers.conftest import Working
from tests.workers.trial_jobs import effect, moved
from workers import broker, ledger
from workers.broker import ClaimingConsumer, LedgerBroker
from workers.delivery import NAMESPACE, BrokerAway, RedisDelivery
from workers.runtime import Runtime


@pytest.fixture
def bound(runtime: Runtime) -> Any:
    """A broker whose worker was not started; its process is entered."""
    made = broker.make(runtime, threads=4, queues=["trial"])
    made.holding.start()
    yield made
    made.holding.stop()


def enqueue(engine: Engine, how_many: int = 1) -> list[int]:
    with engine.begin() as connection:
        return [effect.enqueue(connection, key=str(number)) for number in range(how_many)]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet while is short: every test here waits for some."""
    monkeypatch.setattr(broker, "IDLE", 0.05)


def push(delivery: RedisDelivery, *run_ids: int, force: bool = False) -> None:
    delivery.push(("trial", effect.name, run_id, force) for run_id in run_ids)


def turns(consumer: dramatiq.Consumer) -> int:
    """Take turns until a quiet while; return how many."""
    return sum(1 for _ in iter(lambda: next(consumer), None))


def in_line(bound: LedgerBroker) -> list[int]:
    """Return the runs that were claimed, in the order in which they are to begin."""
    return [held.claim.run_id for held in bound.holding.executor._line]


def consume(bound: LedgerBroker) -> ClaimingConsumer:
    consumer = bound.consume("trial")
    assert isinstance(consumer, ClaimingConsumer)
    return consumer


def test_a_fetched_set_is_claimed_and_acknowledged_at_once(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery, runtime: Runtime
) -> None:
    ids = enqueue(engine, 3)
    push(delivery, *ids)
    consumer = consume(bound)
    first = next(consumer)
    assert first is not None
    assert rows.one(engine, "SELECT count(*) FROM runs WHERE state = 'running'") == 3
    assert runtime.redis.keys(f"{NAMESPACE}:trial.msgs") == runtime.redis.keys(f"{NAMESPACE}:__acks__*") == []
    assert bound.holding.window.held == 3


def test_a_set_has_a_turn_for_each_of_its_runs_and_no_more_than_there_are_threads(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bound.holding.window, "_average", 0.0)  # runs so short that many may be held
    push(delivery, *enqueue(engine, 2))
    consumer = consume(bound)
    assert turns(consumer) == 2
    push(delivery, *enqueue(engine, 9))
    assert turns(consumer) == 2  # of four threads
    assert len(in_line(bound)) == 11


def test_runs_begin_in_the_order_in_which_they_were_pushed(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery
) -> None:
    first, second, third = enqueue(engine, 3)
    push(delivery, third, first, second)
    next(consume(bound))
    assert in_line(bound) == [third, first, second]


def test_a_turn_executes_what_is_in_line_and_frees_its_thread(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery
) -> None:
    executor, consumer = bound.holding.executor, consume(bound)
    for _ in range(3):
        push(delivery, *enqueue(engine, 3))
        assert turns(consumer) == 3
        for _ in range(3):
            executor.turn()
        assert (in_line(bound), executor.at_work(), executor.held) == ([], [], 0)
    assert rows.one(engine, "SELECT count(*) FROM effects") == 9


def test_a_turn_that_failed_leaves_its_thread_free_and_the_line_to_the_others(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, consumer = bound.holding.executor, consume(bound)
    with monkeypatch.context() as broken:
        broken.setattr(executor, "execute", None)
        for _ in range(5):
            push(delivery, *enqueue(engine))
            assert turns(consumer) == 1
            with pytest.raises(TypeError):
                executor.turn()
            bound.holding.window.give_back(1)
    push(delivery, *enqueue(engine))
    assert turns(consumer) == 1
    executor.turn()
    assert rows.one(engine, "SELECT count(*) FROM effects") == 1


def test_an_id_that_comes_twice_in_a_set_begins_once(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery
) -> None:
    ids = enqueue(engine, 2)
    push(delivery, *ids)
    push(delivery, *ids, force=True)
    turns(consume(bound))
    assert in_line(bound) == ids


def test_a_duplicate_of_a_run_that_somebody_holds_is_dropped(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery
) -> None:
    (run_id,) = enqueue(engine)
    push(delivery, run_id)
    assert turns(consume(bound)) == 1
    push(delivery, run_id)
    assert turns(consume(bound)) == 0
    assert delivery.known("trial", [run_id]) == set()
    assert rows.run_row(engine, run_id).attempt == 1


ODD_IDS = ["odd", "\N{SUPERSCRIPT TWO}", "01", "-1", "9223372036854775808", "b7f1", ""]


@pytest.mark.parametrize("odd", ODD_IDS)
def test_a_message_that_is_none_of_ours_is_dropped_alone(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery, runtime: Runtime, odd: str
) -> None:
    before, after = enqueue(engine, 2)
    push(delivery, before)
    runtime.redis.hset(f"{NAMESPACE}:trial.msgs", odd, "anything")
    runtime.redis.rpush(f"{NAMESPACE}:trial", odd)
    push(delivery, after)
    turns(consume(bound))
    assert in_line(bound) == [before, after]
    assert runtime.redis.keys(f"{NAMESPACE}:trial.msgs") == []


def test_what_cannot_be_claimed_is_not_acknowledged_and_the_room_comes_back(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery
) -> None:
    (run_id,) = enqueue(engine)
    push(delivery, run_id)
    rows.change(engine, "ALTER TABLE runs RENAME TO gone")
    with pytest.raises(ConnectionClosed, match="Postgres is away"):
        next(consume(bound))
    rows.change(engine, "ALTER TABLE gone RENAME TO runs")
    assert delivery.known("trial", [run_id]) == {run_id}
    assert bound.holding.window.held == 0
    push(delivery, run_id, force=True)
    assert turns(consume(bound)) == 1


def test_what_was_claimed_and_not_begun_is_given_back_uncounted_as_soon_as_the_process_stops(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery
) -> None:
    ids = enqueue(engine, 2)
    push(delivery, *ids)
    assert turns(consume(bound)) == 2
    bound.holding.interrupt()
    rows.until(lambda: all(rows.outcomes(engine, run_id) == ["shutdown"] for run_id in ids))
    assert {rows.state(engine, run_id) for run_id in ids} == {"waiting"}
    assert rows.one(engine, "SELECT sum(failures) FROM runs") == 0
    assert bound.holding.window.held == 0
    bound.holding.executor.turn()
    assert rows.one(engine, "SELECT count(*) FROM effects") == 0


def test_a_turn_that_never_began_is_handed_out_again(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery
) -> None:
    push(delivery, *enqueue(engine, 2))
    consumer = consume(bound)
    lost = [next(consumer), next(consumer)]
    consumer.close()
    assert turns(consume(bound)) == 0
    consumer.requeue([message for message in lost if message])
    assert turns(consume(bound)) == 2


def test_a_run_that_was_given_back_does_not_begin(bound: LedgerBroker, engine: Engine, delivery: RedisDelivery) -> None:
    push(delivery, *enqueue(engine))
    assert turns(consume(bound)) == 1
    bound.holding.executor.put_back()
    bound.holding.executor.turn()
    assert rows.one(engine, "SELECT count(*) FROM effects") == 0


def test_there_is_no_delay_queue(bound: LedgerBroker) -> None:
    assert bound.get_declared_queues() == {"trial"}
    assert bound.get_declared_delay_queues() == set()


def test_a_worker_comes_back_by_itself_after_redis_and_postgres_were_away(
    engine: Engine, delivery: RedisDelivery, working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_id,) = enqueue(engine)
    real_fetch, real_claim = RedisDelivery.fetch, ledger.claim
    away = ["redis", "postgres"]

    def fetch(self: RedisDelivery, queue: str, most: int) -> tuple[list[bytes], list[int]]:
        if away[:1] == ["redis"]:
            away.pop(0)
            raise BrokerAway("Redis", "away")
        return real_fetch(self, queue, most)

    def claim(connection: Any, *args: Any) -> Any:
        if away[:1] == ["postgres"]:
            away.pop(0)
            rows.one(engine, "SELECT pg_terminate_backend(:pid)", pid=connection.connection.info.backend_pid)
        return real_claim(connection, *args)

    monkeypatch.setattr(RedisDelivery, "fetch", fetch)
    monkeypatch.setattr(ledger, "claim", claim)
    with working():
        push(delivery, run_id)
        rows.until(lambda: not away)
        push(delivery, run_id, force=True)
        rows.until(lambda: rows.state(engine, run_id) == "succeeded")
    assert rows.one(engine, "SELECT count(*) FROM effects") == 1


def test_a_run_stays_served_in_its_queue_when_a_deploy_moves_its_job_to_another_one(
    engine: Engine, working: Working, delivery: RedisDelivery
) -> None:
    with engine.begin() as connection:
        run_id = moved.enqueue(connection)
    rows.change(engine, "UPDATE runs SET queue = 'trial'")
    with working():
        delivery.push([("trial", moved.name, run_id, False)])
        rows.until(lambda: rows.state(engine, run_id) == "succeeded")
    assert rows.outcomes(engine, run_id) == ["succeeded"]

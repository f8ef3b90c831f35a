"""The consumer that claims what it fetches, under Dramatiq's own worker."""

from typing import Any

import dramatiq
import orjson
import pytest
import redis
from dramatiq.errors import ConnectionClosed
from sqlalchemy import Engine

from tests.workers import rows
from tests.workers.conftest import Working
from tests.workers.trial_jobs import effect, moved
from workers import broker, ledger
from workers.broker import ClaimingConsumer, LedgerBroker
from workers.delivery import NAMESPACE, BrokerAway, RedisDelivery, encode
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


def push(delivery: RedisDelivery, *run_ids: int, force: bool = False) -> None:
    delivery.push(("trial", effect.name, run_id, force) for run_id in run_ids)


def plant(client: redis.Redis, name: str, body: bytes) -> None:
    """Put any message on the queue."""
    client.hset(f"{NAMESPACE}:trial.msgs", name, body)
    client.rpush(f"{NAMESPACE}:trial", name)


def drain(consumer: dramatiq.Consumer) -> list[int]:
    """Take messages until a quiet while."""
    found = []
    while (message := next(consumer)) is not None:
        found.append(int(message.message_id))
    return found


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


def test_an_id_that_comes_twice_in_a_set_is_handed_out_once(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery
) -> None:
    ids = enqueue(engine, 2)
    push(delivery, *ids)
    push(delivery, *ids, force=True)
    assert drain(consume(bound)) == ids


def test_a_duplicate_of_a_run_that_somebody_holds_is_dropped(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery
) -> None:
    (run_id,) = enqueue(engine)
    push(delivery, run_id)
    assert drain(consume(bound)) == [run_id]
    push(delivery, run_id)
    assert drain(consume(bound)) == []
    assert delivery.known("trial", [run_id]) == set()
    assert rows.run_row(engine, run_id).attempt == 1


UNREADABLE = {
    "no json": b"\xff{",
    "no message": b"{}",
    "no run": encode("trial", effect.name, 1).replace(b'"message_id":"1"', b'"message_id":"b7f1"'),
    "another digit": encode("trial", effect.name, 1).replace(b'"message_id":"1"', '"message_id":"²"'.encode()),
    "leading zero": encode("trial", effect.name, 1).replace(b'"message_id":"1"', b'"message_id":"01"'),
    "beyond": encode("trial", effect.name, 1).replace(b'"message_id":"1"', b'"message_id":"9223372036854775808"'),
    "a number": orjson.dumps(orjson.loads(encode("trial", effect.name, 1)) | {"message_id": [1]}),
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_unreadable_message_is_dropped_alone(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery, runtime: Runtime, body: bytes
) -> None:
    before, after = enqueue(engine, 2)
    push(delivery, before)
    plant(runtime.redis, "odd", body)
    push(delivery, after)
    assert drain(consume(bound)) == [before, after]
    assert runtime.redis.keys(f"{NAMESPACE}:__acks__*") == []


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
    assert drain(consume(bound)) == [run_id]


@pytest.mark.parametrize("way", ["close", "nack", "requeue"])
def test_what_was_claimed_and_not_started_is_given_back_uncounted(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery, way: str
) -> None:
    ids = enqueue(engine, 2)
    push(delivery, *ids)
    consumer = consume(bound)
    first = next(consumer)
    assert first is not None
    match way:
        case "close":
            consumer.close()
            ids = ids[1:]
        case "nack":
            consumer.nack(first)
            ids = ids[:1]
        case "requeue":
            consumer.requeue([first, *filter(None, [next(consumer)])])
    rows.until(lambda: all(rows.outcomes(engine, run_id) == ["shutdown"] for run_id in ids))
    assert {rows.state(engine, run_id) for run_id in ids} == {"waiting"}
    assert rows.one(engine, "SELECT sum(failures) FROM runs") == 0
    assert bound.holding.window.held == 2 - len(ids)


def test_a_message_whose_run_was_given_back_executes_nothing(
    bound: LedgerBroker, engine: Engine, delivery: RedisDelivery
) -> None:
    (run_id,) = enqueue(engine)
    push(delivery, run_id)
    drain(consume(bound))
    bound.holding.executor.put_back()
    bound.holding.executor.execute(run_id)
    assert rows.one(engine, "SELECT count(*) FROM effects") == 0


def test_there_is_one_actor_a_job_and_no_delay_queue(bound: LedgerBroker) -> None:
    assert bound.get_actor(effect.name).options["time_limit"] == effect.time_limit * 1000
    assert bound.get_declared_queues() == {"trial"}
    assert bound.get_declared_delay_queues() == set()


def test_a_worker_comes_back_by_itself_after_redis_and_postgres_were_away(
    engine: Engine, delivery: RedisDelivery, working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_id,) = enqueue(engine)
    real_fetch, real_claim = RedisDelivery.fetch, ledger.claim
    away = ["redis", "postgres"]

    def fetch(self: RedisDelivery, queue: str, most: int) -> tuple[list[bytes], list[bytes]]:
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

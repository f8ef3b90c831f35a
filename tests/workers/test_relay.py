"""Moving what is due onto the broker, and dying in the middle of it."""

import pytest
import redis
from sqlalchemy import Engine

from tests.workers import rows
from tests.workers.trial_jobs import effect
from workers import ledger, reach, relay
from workers.delivery import NAMESPACE, BrokerAway, RedisDelivery
from workers.relay import Relay


def enqueue(engine: Engine, how_many: int = 1) -> list[int]:
    with engine.begin() as connection:
        return [effect.enqueue(connection, key=str(number)) for number in range(how_many)]


def ids(delivery: RedisDelivery) -> list[int]:
    return [int(found) for found in delivery.fetch("trial", 1_000)[0]]


def test_what_is_due_is_pushed_once_and_marked(engine: Engine, delivery: RedisDelivery) -> None:
    runs = enqueue(engine, 3)
    assert Relay(engine, delivery).push() == 3
    assert Relay(engine, delivery).push() == 0
    assert ids(delivery) == runs
    row = rows.run_row(engine, runs[0])
    assert (row.state, row.pushes) == ("queued", 1)
    assert row.queued_at is not None


def test_what_is_not_due_or_in_a_paused_queue_stays(engine: Engine, delivery: RedisDelivery) -> None:
    enqueue(engine)
    rows.change(engine, "UPDATE runs SET due_at = now() + interval '1 hour'")
    assert Relay(engine, delivery).push() == 0
    rows.change(engine, "UPDATE runs SET due_at = now()")
    rows.change(engine, "UPDATE queues SET paused_at = now()")
    assert Relay(engine, delivery).push() == 0
    rows.change(engine, "UPDATE queues SET paused_at = NULL")
    assert Relay(engine, delivery).push() == 1


def test_a_queue_with_enough_on_the_broker_keeps_its_backlog_in_postgres(
    engine: Engine, delivery: RedisDelivery
) -> None:
    enqueue(engine, reach.LEAST + 5)
    pushing = Relay(engine, delivery)
    assert [pushing.push() for _ in range(3)] == [reach.LEAST, 0, 0]
    delivery.fetch("trial", 1)
    assert pushing.push() >= 1


def test_a_relay_that_dies_after_its_push_leaves_a_run_that_can_be_claimed(
    engine: Engine, delivery: RedisDelivery
) -> None:
    (run_id,) = enqueue(engine)
    with engine.connect() as connection:
        ledger.take_due(connection, {"trial": 10})
        delivery.push([("trial", effect.name, run_id, False)])
        connection.rollback()
    assert rows.state(engine, run_id) == "waiting"
    Relay(engine, delivery).push()
    assert ids(delivery) == [run_id]
    with engine.begin() as connection:
        process = rows.enter(connection)
        assert len(ledger.claim(connection, [run_id], process, [effect.name])) == 1


def test_while_redis_is_away_nothing_is_marked(
    engine: Engine, delivery: RedisDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_id,) = enqueue(engine)

    def refuse(_: object, messages: object) -> int:
        raise BrokerAway("Redis", f"away: {messages}")

    monkeypatch.setattr(RedisDelivery, "push", refuse)
    with pytest.raises(BrokerAway):
        Relay(engine, delivery).push()
    assert rows.state(engine, run_id) == "waiting"


def test_two_relays_share_what_is_due(engine: Engine, delivery: RedisDelivery) -> None:
    runs = enqueue(engine, 4)
    with engine.begin() as other:
        taken = {due.run_id for due in ledger.take_due(other, {"trial": 2})}
        assert Relay(engine, delivery).push() == 2
    assert taken | set(ids(delivery)) == set(runs)


def test_queues_are_known_once(engine: Engine, delivery: RedisDelivery) -> None:
    del delivery
    relay.know_queues(engine, ["b", "a"])
    relay.know_queues(engine, ["b", "c"])
    assert rows.one(engine, "SELECT array_agg(name ORDER BY name) FROM queues") == ["a", "b", "c", "trial"]


def test_a_retry_is_pushed_although_its_old_message_was_never_acknowledged(
    engine: Engine, delivery: RedisDelivery, redis_url: str
) -> None:
    (run_id,) = enqueue(engine)
    Relay(engine, delivery).push()
    delivery.fetch("trial", 1)
    rows.change(engine, "UPDATE runs SET state = 'waiting'")
    Relay(engine, delivery).push()
    assert redis.Redis.from_url(redis_url).lrange(f"{NAMESPACE}:trial", 0, -1) == [str(run_id).encode()]

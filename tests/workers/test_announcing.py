"""What is enqueued is on the broker right after the commit, and nothing suffers when it cannot be."""

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import sessionmaker

from jobs import WRITTEN
from tests.workers import rows
from tests.workers.trial_jobs import effect, shared
from workers import announcing
from workers.announcing import Announcer
from workers.bell import Bell
from workers.delivery import NAMESPACE, BrokerAway, RedisDelivery
from workers.runtime import Runtime


def fetched(delivery: RedisDelivery) -> list[int]:
    return [int(found) for found in delivery.fetch("trial", 100)[0]]


def test_a_run_is_on_the_broker_right_after_its_commit_and_not_before(
    runtime: Runtime, delivery: RedisDelivery
) -> None:
    with runtime.sessions.begin() as session:
        run_id = effect.enqueue(session, key="a")
        assert fetched(delivery) == []
    assert fetched(delivery) == [run_id]


def test_nothing_is_announced_of_a_transaction_that_was_rolled_back(runtime: Runtime, delivery: RedisDelivery) -> None:
    with runtime.sessions() as session:
        effect.enqueue(session, key="a")
        session.rollback()
        session.execute(text("SELECT 1"))
        session.commit()
    assert fetched(delivery) == []


def test_a_run_for_later_is_left_to_the_relay(runtime: Runtime, delivery: RedisDelivery, engine: Engine) -> None:
    later = rows.one(engine, "SELECT now() + interval '1 hour'")
    with runtime.sessions.begin() as session:
        effect.options(due_at=later).enqueue(session, key="a")
    assert fetched(delivery) == []


def test_for_a_run_that_shares_limits_a_relay_is_woken(runtime: Runtime, delivery: RedisDelivery) -> None:
    with runtime.sessions.begin() as session:
        shared.enqueue(session, tenant="a")
    assert fetched(delivery) == []
    assert runtime.redis.llen(f"{NAMESPACE}:relay.bell") == 1


def test_a_large_transaction_is_left_to_the_relay_which_is_woken(runtime: Runtime, delivery: RedisDelivery) -> None:
    with runtime.sessions.begin() as session:
        effect.enqueue_many(session, [{"key": "a"}] * (announcing.MOST + 1))
    assert fetched(delivery) == []
    assert runtime.redis.llen(f"{NAMESPACE}:relay.bell") == 1


def test_a_redis_that_is_away_delays_no_commit_and_is_left_alone_for_a_while(
    runtime: Runtime, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(self: RedisDelivery, messages: object) -> int:
        asked.append((self, messages))
        raise BrokerAway("Redis", "away")

    with runtime.sessions.begin() as session:
        monkeypatch.setattr(RedisDelivery, "push", refuse)
        first = effect.enqueue(session, key="a")
    with runtime.sessions.begin() as session:
        second = effect.enqueue(session, key="a")
        assert session.info[WRITTEN]
    assert WRITTEN not in session.info
    assert len(asked) == 1
    assert [rows.state(engine, run_id) for run_id in (first, second)] == ["waiting", "waiting"]


def test_a_broker_that_threads_cannot_share_is_left_to_the_relay_which_is_woken(
    runtime: Runtime, delivery: RedisDelivery
) -> None:
    delivery.shared = False
    made = sessionmaker(runtime.engine)
    Announcer(delivery, Bell(runtime.redis)).listen(made)
    with made.begin() as session:
        effect.enqueue(session, key="a")
    assert fetched(delivery) == []
    assert runtime.redis.llen(f"{NAMESPACE}:relay.bell") == 1


def test_the_bell_wakes_whoever_waits_and_keeps_few_rings(runtime: Runtime) -> None:
    bell = Bell(runtime.redis)
    for _ in range(20):
        bell.ring()
    for _ in range(4):
        bell.wait(4)
    assert runtime.redis.llen(f"{NAMESPACE}:relay.bell") == 0


def test_an_announcer_may_serve_several_makers_of_sessions(runtime: Runtime, delivery: RedisDelivery) -> None:
    Announcer(runtime.delivery(), Bell(runtime.redis)).listen(runtime.sessions)
    with runtime.sessions.begin() as session:
        run_id = effect.enqueue(session, key="a")
    assert fetched(delivery) == [run_id]

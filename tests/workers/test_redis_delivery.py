"""Our knowledge of Dramatiq's keys, held against the real Dramatiq."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from hypothesis import given
from hypothesis import strategies as st

from workers.delivery import NAMESPACE, Delivery, RedisDelivery, encode
from workers.delivery._redis import MOST_TOKENS
from workers.runtime import Runtime

IDS = f"{NAMESPACE}:trial"
BODIES = f"{NAMESPACE}:trial.msgs"
WAKE = f"{NAMESPACE}:trial.wake"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    made = redis.Redis.from_url(redis_url)
    yield made
    made.close()


@pytest.fixture
def stock(redis_url: str) -> Iterator[RedisBroker]:
    """Dramatiq's own broker in our namespace."""
    broker = RedisBroker(url=redis_url, namespace=NAMESPACE, middleware=[])  # type: ignore[no-untyped-call]
    broker.declare_queue("trial")
    yield broker
    broker.close()


def push(delivery: Delivery, *run_ids: int, force: bool = False) -> int:
    return delivery.push(("trial", "trial_jobs.effect", run_id, force) for run_id in run_ids)


def length(client: redis.Redis, key: str) -> Any:
    return client.llen(key)


@given(st.integers(1, 2**63 - 1), st.text(min_size=1), st.text(min_size=1))
def test_dramatiq_reads_our_messages(run_id: int, queue: str, job: str) -> None:
    message: dramatiq.Message[Any] = dramatiq.Message.decode(encode(queue, job, run_id))
    assert (message.queue_name, message.actor_name, message.args) == (queue, job, (run_id,))
    assert message.message_id == message.options["redis_message_id"] == str(run_id)
    assert dramatiq.Message.decode(message.encode()) == message


def test_dramatiqs_own_consumer_fetches_and_acknowledges_what_we_push(
    delivery: RedisDelivery, stock: RedisBroker, client: redis.Redis
) -> None:
    push(delivery, 7, 8)
    consumer = stock.consume("trial", prefetch=2, timeout=100)
    messages = [next(consumer), next(consumer)]
    assert [message.args for message in messages if message] == [(7,), (8,)]
    assert client.smembers(f"{NAMESPACE}:__acks__.{stock.broker_id}.trial") == {b"7", b"8"}
    for message in messages:
        assert message is not None
        consumer.ack(message)
    assert client.keys(f"{NAMESPACE}:trial*") == [WAKE.encode()]
    assert client.keys(f"{NAMESPACE}:__acks__*") == []


def test_what_others_enqueue_is_acknowledged_and_stands_for_no_run(
    delivery: RedisDelivery, stock: RedisBroker, client: redis.Redis
) -> None:
    stock.enqueue(dramatiq.Message("trial", "trial_jobs.effect", (7,), {}, {}))
    ids, run_ids = delivery.fetch("trial", 10)
    assert (len(ids), run_ids) == (1, [])
    delivery.forget("trial", ids)
    assert client.keys(f"{NAMESPACE}:trial*") == []
    assert client.keys(f"{NAMESPACE}:__acks__*") == []


def test_what_was_fetched_is_no_longer_listed_and_still_known_until_it_is_forgotten(delivery: RedisDelivery) -> None:
    push(delivery, 7, 8, 9)
    ids, _ = delivery.fetch("trial", 2)
    assert delivery.listed("trial") == {9}
    assert delivery.known("trial", [7, 8, 9]) == {7, 8, 9}
    delivery.forget("trial", ids)
    assert delivery.known("trial", [7, 8, 9]) == {9}


def test_pushing_a_run_again_changes_nothing_unless_it_is_forced(delivery: RedisDelivery, client: redis.Redis) -> None:
    assert push(delivery, 1, 2, 3) == 3
    assert push(delivery, 1, 2, 3) == 0
    assert length(client, IDS) == 3
    delivery.fetch("trial", 3)
    assert push(delivery, 1, 2, 3) == 0
    assert push(delivery, 2, force=True) == 1
    assert client.lrange(IDS, 0, -1) == [b"2"]


def test_a_forgotten_message_is_new_again(delivery: RedisDelivery) -> None:
    push(delivery, 1)
    ids, _ = delivery.fetch("trial", 1)
    assert delivery.known("trial", [1, 2]) == {1}
    delivery.forget("trial", ids)
    assert delivery.known("trial", [1, 2]) == set()
    assert push(delivery, 1) == 1


def test_a_backlog_that_is_pushed_blindly_never_grows(delivery: RedisDelivery, client: redis.Redis) -> None:
    for _ in range(3):
        push(delivery, *range(1, 2_501))
        assert (length(client, IDS), client.hlen(BODIES)) == (2_500, 2_500)
        assert length(client, WAKE) <= MOST_TOKENS


def test_a_set_is_fetched_in_order_and_not_beyond_what_was_asked(delivery: RedisDelivery) -> None:
    push(delivery, *range(1, 6))
    assert delivery.fetch("trial", 3)[0] == [b"1", b"2", b"3"]
    assert delivery.fetch("trial", 3)[0] == [b"4", b"5"]
    assert delivery.fetch("trial", 3) == ([], [])


def test_a_run_whose_message_is_gone_is_fetched_all_the_same(delivery: RedisDelivery, client: redis.Redis) -> None:
    push(delivery, 1, 2)
    client.hdel(BODIES, "1")
    assert delivery.fetch("trial", 5) == ([b"1", b"2"], [1, 2])


def test_a_push_wakes_a_consumer_that_waits(delivery: RedisDelivery, runtime: Runtime) -> None:
    with ThreadPoolExecutor(1) as pool:
        for run_id in range(1, 6):
            started = time.monotonic()
            waiting = pool.submit(delivery.wait, "trial", 4.0)
            push(runtime.delivery(), run_id)
            waiting.result(20)
            assert time.monotonic() - started < 2.0  # a quiet wait takes twice as long


def test_a_quiet_wait_ends_in_time(delivery: RedisDelivery) -> None:
    started = time.monotonic()
    delivery.wait("trial", 0.1)
    assert 0.09 < time.monotonic() - started < 4


def test_lengths_count_what_nobody_has_fetched(delivery: RedisDelivery) -> None:
    push(delivery, 1, 2)
    delivery.fetch("trial", 1)
    assert delivery.lengths(["trial", "other"]) == {"trial": 1, "other": 0}


def test_all_keys_of_the_broker_live_on_one_node_of_a_cluster(delivery: RedisDelivery, client: redis.Redis) -> None:
    push(delivery, 1)
    delivery.fetch("trial", 1)
    keys: Any = client.keys("*")
    assert keys
    assert all(key.startswith(b"{headrace}:") for key in keys)

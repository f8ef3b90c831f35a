"""What the engine relies on, held against every broker that it can be pointed at."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from sandbox._process import free_port
from tests.transports.conftest import Reach
from tests.transports.rabbitmq import RabbitMQ, remove
from tests.transports.valkeys import Cluster, client
from tests.workers.rows import until
from workers import delivery
from workers.delivery import BrokerAway, Delivery, Queued

AGES = 3_600.0
JOB = "trial_jobs.effect"


def push(by: Delivery, queue: str, *run_ids: int, force: bool = False) -> int:
    return by.push((queue, JOB, run_id, force) for run_id in run_ids)


def fetched(by: Delivery, queue: str, most: int) -> tuple[list[bytes], list[int]]:
    """Fetch once, or again and again while less came than could: the receipts and the runs."""
    receipts: list[bytes] = []
    runs: list[int] = []
    deadline = time.monotonic() + 20
    while len(receipts) < most and time.monotonic() < deadline:
        by.wait(queue, 0.2)
        taken, found = by.fetch(queue, most - len(receipts))
        receipts += taken
        runs += found
        if not taken and by.lengths([queue])[queue] == 0:
            break
    return receipts, runs


def test_what_is_pushed_is_fetched_in_order_and_never_beyond_what_was_asked(reach: Reach, queue: str) -> None:
    assert push(reach(), queue, *range(1, 6)) == 5
    worker = reach()
    assert fetched(worker, queue, 3)[1] == [1, 2, 3]
    assert reach().lengths([queue]) == {queue: 2}
    assert fetched(worker, queue, 3)[1] == [4, 5]
    assert worker.fetch(queue, 3) == ([], [])


def test_what_was_forgotten_is_gone_for_everybody(reach: Reach, queue: str) -> None:
    push(reach(), queue, 1, 2, 3)
    worker = reach()
    receipts, _ = fetched(worker, queue, 2)
    worker.forget(queue, receipts)
    worker.close()
    assert fetched(reach(), queue, 3)[1] == [3]


def test_what_is_given_back_comes_again(reach: Reach, queue: str) -> None:
    push(reach(), queue, 1, 2, 3)
    worker = reach()
    receipts, _ = fetched(worker, queue, 2)
    worker.give_back(queue, receipts)
    assert sorted(fetched(reach(), queue, 3)[1]) == [1, 2, 3]


def test_what_a_dead_worker_had_fetched_is_delivered_again_or_counts_as_lost(reach: Reach, queue: str) -> None:
    push(reach(), queue, 1, 2)
    dead = reach()
    assert fetched(dead, queue, 2)[1] == [1, 2]
    dead.close()
    relay = reach()
    delivered = set(fetched(reach(), queue, 2)[1])
    lost = set(relay.lost(queue, [Queued(1, queue, AGES), Queued(2, queue, AGES)]))
    assert delivered | lost == {1, 2}


def test_a_run_whose_message_was_never_there_is_lost_and_one_that_waits_is_not(reach: Reach, queue: str) -> None:
    relay = reach()
    assert relay.lost(queue, [Queued(1, queue, 6.0)]) == [1]
    push(relay, queue, 1)
    assert relay.lost(queue, [Queued(1, queue, 6.0)]) == []


def test_a_lost_run_that_is_pushed_by_force_is_delivered(reach: Reach, queue: str) -> None:
    relay, worker = reach(), reach()
    push(relay, queue, 1)
    fetched(worker, queue, 1)
    push(relay, queue, 1, force=True)
    assert fetched(worker, queue, 1)[1] == [1]


def test_a_run_that_is_pushed_twice_is_delivered_at_least_once(reach: Reach, queue: str) -> None:
    relay = reach()
    push(relay, queue, 1, 2)
    push(relay, queue, 1, 2)
    assert set(fetched(reach(), queue, 4)[1]) == {1, 2}


def test_thousands_are_pushed_at_once_and_all_arrive(reach: Reach, queue: str) -> None:
    assert push(reach(), queue, *range(1, 3_001)) == 3_000
    worker = reach()
    found: list[int] = []
    while len(found) < 3_000:
        receipts, runs = fetched(worker, queue, 500)
        assert runs, "some did not arrive"
        worker.forget(queue, receipts)
        found += runs
    assert found == list(range(1, 3_001))
    assert worker.lengths([queue]) == {queue: 0}


def test_one_push_may_reach_several_queues(reach: Reach, queue: str) -> None:
    other = f"{queue}b"
    relay = reach()
    assert relay.push([(queue, JOB, 1, False), (other, JOB, 2, False), (queue, JOB, 3, False)]) == 3
    assert relay.lengths([queue, other, f"{queue}c"]) == {queue: 2, other: 1, f"{queue}c": 0}
    worker = reach()
    assert fetched(worker, queue, 2)[1] == [1, 3]
    assert fetched(worker, other, 1)[1] == [2]


def test_a_push_wakes_a_worker_that_waits(reach: Reach, queue: str) -> None:
    relay, worker = reach(), reach()
    relay.lengths([queue])  # a queue of RabbitMQ's that is being made refuses messages
    with ThreadPoolExecutor(1) as pool:
        for run_id in range(1, 4):
            waiting = pool.submit(worker.wait, queue, 4.0)
            started = time.monotonic()
            push(relay, queue, run_id)
            waiting.result(20)
            assert time.monotonic() - started < 2.0  # a quiet wait takes twice as long
            worker.forget(queue, fetched(worker, queue, 1)[0])


def test_a_quiet_wait_ends_in_time(reach: Reach, queue: str) -> None:
    worker = reach()
    worker.lengths([queue])
    started = time.monotonic()
    for _ in range(3):  # a cluster that has just come up may end one of them early, which costs only a look
        worker.wait(queue, 0.1)
    assert 0.09 < time.monotonic() - started < 4


def test_a_worker_without_room_holds_nothing_that_others_could_take(reach: Reach, queue: str) -> None:
    full, other = reach(), reach()
    full.fetch(queue, 8)
    push(reach(), queue, *range(1, 7))
    assert fetched(full, queue, 2)[1] == [1, 2]
    full.rest()
    assert fetched(other, queue, 4)[1] == [3, 4, 5, 6]


def test_a_broker_that_is_there_answers_the_probe(reach: Reach) -> None:
    reach().probe()


NOWHERE = ["redis://{0}/0", "redis+sentinel://{0},{0}/shop/0", "redis+cluster://{0}", "amqp://{0}", "amqp://{0},{0}/x"]


@pytest.mark.parametrize("written", NOWHERE)
def test_a_broker_that_is_away_is_one_error_whatever_is_asked(written: str) -> None:
    asked = delivery.through(written.format(f"127.0.0.1:{free_port()}"))
    questions = (
        asked.probe,
        partial(push, asked, "trial", 1),
        partial(asked.fetch, "trial", 1),
        partial(asked.wait, "trial", 0.1),
        partial(asked.forget, "trial", [b"1"]),
        partial(asked.give_back, "trial", [b"1"]),
        partial(asked.lengths, ["trial"]),
        partial(asked.lost, "trial", [Queued(1, "trial", 6.0)]),
    )
    for question in questions:
        with pytest.raises(BrokerAway) as caught:
            question()
        assert caught.value.broker == asked.name
        assert str(caught.value)
    if asked.name == "RabbitMQ":
        with pytest.raises(BrokerAway, match="refused"):
            asked.probe()
    asked.rest()
    asked.close()


def test_all_keys_of_ours_live_on_one_node_of_a_cluster(cluster: Cluster, queue: str) -> None:
    relay = delivery.through(cluster.url)
    for number in range(10):
        push(relay, f"{queue}{number}", 1)
    relay.close()
    holding = []
    for node in cluster.nodes:
        with client(node) as asked:
            holding.append(asked.dbsize())
    assert sorted(holding)[:2] == [0, 0]
    assert sum(holding) >= 20


def test_rabbitmq_cannot_say_which_messages_it_has_so_what_was_pushed_very_long_ago_is_pushed_again(
    rabbit: RabbitMQ, queue: str
) -> None:
    relay = delivery.through(rabbit.url)
    push(relay, queue, 1, 2)
    assert relay.lost(queue, [Queued(1, queue, 60.0), Queued(2, queue, AGES)]) == [2]
    assert push(relay, queue, 2) == 1
    assert fetched(relay, queue, 3)[1] == [1, 2, 2]
    relay.close()


def test_a_queue_of_rabbitmq_that_somebody_removed_is_made_again(rabbit: RabbitMQ, queue: str) -> None:
    relay, worker = delivery.through(rabbit.url), delivery.through(rabbit.url)
    push(relay, queue, 1)
    assert fetched(worker, queue, 1)[1] == [1]
    worker.fetch(queue, 2)  # goes on listening
    remove(rabbit, queue)
    with pytest.raises(BrokerAway, match="removed"):
        push(relay, queue, 2)
    with pytest.raises(BrokerAway, match="removed"):
        worker.wait(queue, 10)
    push(relay, queue, 2)
    assert fetched(worker, queue, 1)[1] == [2]
    relay.close()
    worker.close()


def test_what_rabbitmq_confirmed_outlives_a_crash_of_it(rabbit: RabbitMQ, queue: str) -> None:
    relay = delivery.through(rabbit.url)
    relay.lengths([queue])
    made = time.monotonic()
    # A node that crashes within seconds after it made a queue forgets that it has to lead it.
    until(lambda: time.monotonic() - made > 6 and push(relay, queue, *range(1, 101)))
    rabbit.kill()
    rabbit.start()
    assert fetched(delivery.through(rabbit.url), queue, 100)[1] == list(range(1, 101))


def test_a_worker_of_rabbitmq_that_dies_loses_its_messages_to_the_others_at_once(rabbit: RabbitMQ, queue: str) -> None:
    dead, other = delivery.through(rabbit.url), delivery.through(rabbit.url)
    push(other, queue, 1)
    assert fetched(dead, queue, 1)[1] == [1]
    line: Any = dead._line  # type: ignore[attr-defined]
    line._connection._transport._sock.shutdown(socket.SHUT_RDWR)  # as the kernel does for a killed process
    until(lambda: other.lengths([queue])[queue] == 1)
    assert fetched(other, queue, 1)[1] == [1]
    other.close()

    # And whoever was only cut off is told so once, and then connects again.
    with pytest.raises(BrokerAway):
        dead.wait(queue, 10)
    assert fetched(dead, queue, 1)[1] == [1]
    dead.close()

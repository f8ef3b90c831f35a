"""Delivery through Redis: push, fetch and forget messages, always in sets.

Dramatiq's own layout in Redis is kept (a list of ids and a hash of messages per queue), and this module and its
contract test are all that know it. The run's id is the message's id and its receipt, so pushing a run twice is
harmless: the second push of a known id does nothing, unless it is forced because the first one evidently got lost. What
Dramatiq keeps beside that, who has fetched which message, is left out: the ledger knows it better. An idle consumer
blocks on the queue's wake list instead of sleeping and asking again.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Self, cast

import redis

from workers import redis_servers
from workers.delivery._contract import BrokerAway, Queued, encode, run_ids

#: Hash-tagged, so that all keys live on one node of a cluster.
NAMESPACE = "{headrace}"

#: Tokens a wake list may hold; enough for every idle consumer.
MOST_TOKENS = 64
#: Seconds after which a message that was fetched and led to no claim counts as lost between two hands.
FORGOTTEN_AFTER = 20.0

PUSH = """
local ids, messages, wake = KEYS[1], KEYS[2], KEYS[3]
local pushed = 0
for i = 2, #ARGV, 3 do
    local fresh = redis.call('hsetnx', messages, ARGV[i], ARGV[i + 1])
    if fresh == 1 or ARGV[i + 2] == '1' then
        redis.call('rpush', ids, ARGV[i])
        pushed = pushed + 1
    end
end
local tokens = math.min(pushed, tonumber(ARGV[1]) - redis.call('llen', wake))
for _ = 1, tokens do redis.call('rpush', wake, '1') end
return pushed
"""

# With the last message the calls for it go: nobody is to be woken for nothing.
FETCH = """
local ids = redis.call('lpop', KEYS[1], ARGV[1])
if redis.call('exists', KEYS[1]) == 0 then redis.call('del', KEYS[2]) end
return ids
"""


class RedisDelivery:
    """The queues in Redis.

    Args:
        connect: Returns a client without hidden retries; called when it is first needed.
        name: What people call this kind of Redis.
    """

    shared = True

    def __init__(self, connect: "Callable[[], redis.Redis | redis.RedisCluster]", name: str = "Redis") -> None:
        self._connect = connect
        self.name = name

    @classmethod
    def to(cls, url: str, patience: float) -> Self:
        """Return a delivery through the Redis at this address, which may take so many seconds to answer."""
        return cls(lambda: redis_servers.connect(url, patience), redis_servers.name(url))

    @cached_property
    def _client(self) -> "redis.Redis | redis.RedisCluster":
        return self._connect()

    @cached_property
    def _push(self) -> Callable[..., Any]:
        return self._client.register_script(PUSH)

    @cached_property
    def _fetch(self) -> Callable[..., Any]:
        return self._client.register_script(FETCH)

    def push(self, messages: Iterable[tuple[str, str, int, bool]]) -> int:
        """Push runs; return how many were new to the broker."""
        by_queue: dict[str, list[bytes | str | int]] = defaultdict(list)
        for queue, job, run_id, force in messages:
            by_queue[queue] += (run_id, encode(queue, job, run_id), "1" if force else "0")
        with self._answering():
            return sum(self._push_queue(queue, words) for queue, words in by_queue.items())

    def _push_queue(self, queue: str, words: list[bytes | str | int]) -> int:
        keys = [_ids(queue), _messages(queue), _wake(queue)]
        step = 3 * 1000  # stays below what Redis unpacks on one stack
        chunks = (words[i : i + step] for i in range(0, len(words), step))
        return sum(cast("int", self._push(keys=keys, args=[MOST_TOKENS, *chunk])) for chunk in chunks)

    def fetch(self, queue: str, most: int) -> tuple[list[bytes], list[int]]:
        """Take up to `most` messages: the ids taken, and the runs they stand for."""
        with self._answering():
            ids = cast("list[bytes] | None", self._fetch(keys=[_ids(queue), _wake(queue)], args=[most])) or []
        return ids, run_ids(run_id.decode(errors="replace") for run_id in ids)

    def forget(self, queue: str, receipts: Sequence[bytes]) -> None:
        """Acknowledge messages: Postgres knows about them now."""
        if receipts:
            with self._answering():
                self._client.hdel(_messages(queue), *receipts)

    def give_back(self, queue: str, receipts: Sequence[bytes]) -> None:
        """Put fetched messages back where they were: they could not be claimed."""
        if receipts:
            with self._answering():
                self._client.lpush(_ids(queue), *reversed(receipts))

    def wait(self, queue: str, seconds: float) -> None:
        """Return when something was pushed, or after the given time."""
        with self._answering():
            self._client.blpop([_wake(queue)], timeout=seconds)

    def rest(self) -> None:
        """Nothing to do: Redis hands out only what is fetched."""

    def lengths(self, queues: Sequence[str]) -> dict[str, int]:
        """Return how many messages nobody has fetched yet, by queue."""
        with self._answering():
            pipeline = self._client.pipeline(transaction=False)
            for queue in queues:
                pipeline.llen(_ids(queue))
            return dict(zip(queues, cast("list[int]", pipeline.execute()), strict=True))

    def lost(self, queue: str, queued: Sequence[Queued]) -> list[int]:
        """Return the runs whose message is gone, or was fetched long ago and led to no claim."""
        old = any(run.age > FORGOTTEN_AFTER for run in queued)
        return judge(queued, self.known(queue, [run.run_id for run in queued]), self.listed(queue) if old else set())

    def known(self, queue: str, run_ids: Sequence[int]) -> set[int]:
        """Return those of the runs whose message is still in the broker, fetched or not."""
        if not run_ids:
            return set()
        with self._answering():
            bodies = cast("list[bytes | None]", self._client.hmget(_messages(queue), [str(i) for i in run_ids]))
        return {run_id for run_id, body in zip(run_ids, bodies, strict=True) if body is not None}

    def listed(self, queue: str) -> set[int]:
        """Return the runs that nobody has fetched yet; the relay keeps a queue short enough to be read whole."""
        with self._answering():
            ids = cast("list[bytes]", self._client.lrange(_ids(queue), 0, -1))
        return {int(run_id) for run_id in ids if run_id.isdigit()}

    def probe(self) -> None:
        """Ask whether it is there."""
        with self._answering():
            self._client.ping()

    def close(self) -> None:
        """Close the connections, if any was opened."""
        if "_client" in self.__dict__:
            self._client.close()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except redis_servers.ERRORS as error:
            raise BrokerAway(self.name, error) from None


def judge(queued: Sequence[Queued], known: set[int], listed: set[int]) -> list[int]:
    """Return the ids of the runs that the broker has lost.

    Args:
        queued: Runs that have been queued for a while.
        known: Ids whose message the broker still has.
        listed: Ids that nobody has fetched yet.
    """
    return [
        run.run_id
        for run in queued
        if run.run_id not in known or (run.age > FORGOTTEN_AFTER and run.run_id not in listed)
    ]


def _ids(queue: str) -> str:
    return f"{NAMESPACE}:{queue}"


def _messages(queue: str) -> str:
    return f"{NAMESPACE}:{queue}.msgs"


def _wake(queue: str) -> str:
    return f"{NAMESPACE}:{queue}.wake"

"""The broker's keys: push, fetch and forget messages, always in sets.

Dramatiq's own layout in Redis is kept (a list of ids and a hash of messages per queue), and this module and the
contract test beside it are all that know it. The run's id is the message's id, so pushing a run twice is harmless: the
second push of a known id does nothing, unless it is forced because the first one evidently got lost. What Dramatiq
keeps beside that, who has fetched which message, is left out: the ledger knows it better. An idle consumer blocks on
the queue's wake list instead of sleeping and asking again.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import cast

import orjson
import redis

#: Hash-tagged, so that all keys live on one node of a cluster.
NAMESPACE = "{headrace}"

#: Tokens a wake list may hold; enough for every idle consumer.
MOST_TOKENS = 64

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

FETCH = """
local ids, messages = KEYS[1], KEYS[2]
local found = redis.call('lpop', ids, ARGV[1])
if not found then return {} end
return {found, redis.call('hmget', messages, unpack(found))}
"""


class Delivery:
    """The queues in Redis.

    Args:
        client: A client without hidden retries.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._push = client.register_script(PUSH)
        self._fetch = client.register_script(FETCH)

    def push(self, messages: Iterable[tuple[str, str, int, bool]]) -> int:
        """Push runs, given as queue, job, run id and whether to force; return how many were new to the broker."""
        by_queue: dict[str, list[bytes | str | int]] = defaultdict(list)
        for queue, job, run_id, force in messages:
            by_queue[queue] += (run_id, encode(queue, job, run_id), "1" if force else "0")
        return sum(self._push_queue(queue, words) for queue, words in by_queue.items())

    def _push_queue(self, queue: str, words: list[bytes | str | int]) -> int:
        keys = [_ids(queue), _messages(queue), _wake(queue)]
        step = 3 * 1000  # stays below what Redis unpacks on one stack
        chunks = (words[i : i + step] for i in range(0, len(words), step))
        return sum(cast("int", self._push(keys=keys, args=[MOST_TOKENS, *chunk])) for chunk in chunks)

    def fetch(self, queue: str, most: int) -> tuple[list[bytes], list[bytes]]:
        """Take up to `most` messages: the ids taken, and the bodies of those that still have one."""
        found = cast("list[list[bytes]]", self._fetch(keys=[_ids(queue), _messages(queue)], args=[most]))
        if not found:
            return [], []
        ids, bodies = found
        return ids, [body for body in bodies if body]

    def forget(self, queue: str, ids: Sequence[bytes]) -> None:
        """Acknowledge messages: Postgres knows about them now."""
        if ids:
            self._client.hdel(_messages(queue), *ids)

    def give_back(self, queue: str, ids: Sequence[bytes]) -> None:
        """Put fetched messages back where they were: they could not be claimed."""
        if ids:
            self._client.lpush(_ids(queue), *reversed(ids))

    def wait(self, queue: str, seconds: float) -> None:
        """Return when something was pushed, or after the given time."""
        self._client.blpop([_wake(queue)], timeout=seconds)

    def lengths(self, queues: Sequence[str]) -> dict[str, int]:
        """Return how many messages nobody has fetched yet, by queue."""
        pipeline = self._client.pipeline(transaction=False)
        for queue in queues:
            pipeline.llen(_ids(queue))
        return dict(zip(queues, cast("list[int]", pipeline.execute()), strict=True))

    def known(self, queue: str, run_ids: Sequence[int]) -> set[int]:
        """Return those of the runs whose message is still in the broker, fetched or not."""
        if not run_ids:
            return set()
        bodies = cast("list[bytes | None]", self._client.hmget(_messages(queue), [str(i) for i in run_ids]))
        return {run_id for run_id, body in zip(run_ids, bodies, strict=True) if body is not None}

    def listed(self, queue: str) -> set[int]:
        """Return the runs that nobody has fetched yet; the relay keeps a queue short enough to be read whole."""
        ids = cast("list[bytes]", self._client.lrange(_ids(queue), 0, -1))
        return {int(run_id) for run_id in ids if run_id.isdigit()}


def encode(queue: str, job: str, run_id: int) -> bytes:
    """Return the message of a run as Dramatiq reads it."""
    return orjson.dumps(
        {
            "queue_name": queue,
            "actor_name": job,
            "args": [run_id],
            "kwargs": {},
            "options": {"redis_message_id": str(run_id)},
            "message_id": str(run_id),
            "message_timestamp": 0,
        }
    )


def _ids(queue: str) -> str:
    return f"{NAMESPACE}:{queue}"


def _messages(queue: str) -> str:
    return f"{NAMESPACE}:{queue}.msgs"


def _wake(queue: str) -> str:
    return f"{NAMESPACE}:{queue}.wake"

"""What every transport does for us, and how it says that it cannot."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson

from workers import logs

#: What the id of a message of ours looks like: a run's id.
RUN_ID = re.compile(r"[1-9][0-9]{0,17}")


class BrokerAway(Exception):  # noqa: N818 - reads as what it is in a message
    """The broker does not answer, or refused: wait and try again.

    Args:
        broker: What people call it.
        reason: What its client said.
    """

    def __init__(self, broker: str, reason: object) -> None:
        super().__init__((str(reason).strip().splitlines() or [type(reason).__name__])[0])
        self.broker = broker


@dataclass(frozen=True)
class Queued:
    """A run that was pushed a while ago and that nobody has claimed."""

    run_id: int
    queue: str
    #: Seconds since its last push.
    age: float


class Delivery(Protocol):
    """The queues of a broker, as one thread of ours uses them.

    Everything here raises `BrokerAway` and nothing else when the broker does not do what it should. A message that was
    fetched and not forgotten belongs to nobody: it is delivered again, or its run is found by `lost`.
    """

    #: What people call this broker.
    name: str
    #: Whether several threads may use one delivery at the same time.
    shared: bool

    def push(self, messages: Iterable[tuple[str, str, int, bool]]) -> int:
        """Push runs, given as queue, job, run id and whether to force; return how many messages that made.

        When it returns, the broker has them. A broker that can tell leaves out runs whose message it has already,
        unless it is forced because the first one evidently got lost.
        """

    def fetch(self, queue: str, most: int) -> tuple[list[bytes], list[int]]:
        """Take up to `most` messages: a receipt for each one taken, and the runs they stand for, in order.

        Receipts are settled by `forget` or `give_back` in the order in which they were fetched.
        """

    def forget(self, queue: str, receipts: Sequence[bytes]) -> None:
        """Acknowledge messages: Postgres knows about them now."""

    def give_back(self, queue: str, receipts: Sequence[bytes]) -> None:
        """Put fetched messages back, to come again before long: they could not be claimed."""

    def wait(self, queue: str, seconds: float) -> None:
        """Return when something was pushed, or after the given time."""

    def rest(self) -> None:
        """Hold nothing that others could take: we have no room for it now."""

    def lengths(self, queues: Sequence[str]) -> dict[str, int]:
        """Return how many messages nobody has fetched yet, by queue."""

    def lost(self, queue: str, queued: Sequence[Queued]) -> list[int]:
        """Return the runs of a queue whose message is gone as far as the broker can tell; in doubt it is."""

    def probe(self) -> None:
        """Ask the broker something cheap; may be called from any thread, by one at a time."""

    def close(self) -> None:
        """Let go of the broker. What was fetched and not forgotten is delivered again where the broker can do that."""


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


def run_ids(message_ids: Iterable[str]) -> list[int]:
    """Return the runs that messages with these ids stand for; one that is none of ours is left out, and told."""
    found = []
    for message_id in message_ids:
        if RUN_ID.fullmatch(message_id):
            found.append(int(message_id))
        else:
            logs.get().error("a message that is none of ours was dropped", id=message_id[:100])
    return found

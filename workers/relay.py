"""`python -m workers.relay`: moves what is due from the ledger onto the broker, and takes back what was lost.

One transaction takes a set of due runs, marks them queued, and pushes them before it commits. If the relay dies after
the push, the rows are still `waiting`: the runs are claimed all the same, or pushed again, which changes nothing. A
queue that an operator paused is left out, and the others get no more than their workers take in a moment, so a backlog
stays in Postgres where priorities and pauses still reach it. Any number of relays may run.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from threading import Event

import typer
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

import jobs
from workers import gates, ledger, logs, redrive, rescue
from workers.admission import Admission
from workers.bell import Bell
from workers.delivery import BrokerAway, Delivery
from workers.entry import enter, stop_signal
from workers.gates import Gates
from workers.ledger import Due
from workers.process import STALE_AFTER, Presence
from workers.reach import LEAST, Reach
from workers.runtime import Runtime

#: Runs of one queue pushed in one transaction.
BATCH = 1_000
#: Seconds between two looks when little was due; they grow up to the second number while nothing ever is.
IDLE, LONGEST_IDLE = 0.05, 0.2
#: Seconds between two rescues, and after something was away.
RESCUE_EVERY = 2.0
PAUSE = 1.0

KNOW_QUEUES = text("INSERT INTO queues (name) SELECT unnest(CAST(:names AS text[])) ON CONFLICT DO NOTHING")


class Relay:
    """Pushes due runs.

    Args:
        engine: The database.
        delivery: The broker.
    """

    def __init__(self, engine: Engine, delivery: Delivery) -> None:
        self._engine = engine
        self._delivery = delivery
        self._reach = Reach()
        self._admission = Admission()
        self._looked_at = self._steady_since = -math.inf

    def push(self) -> int:
        """Push one set of due runs; return how many."""
        with self._engine.begin() as connection:
            found = gates.read(connection)
        rooms = self._rooms(found.queues)
        pushed = self._push_free(found, rooms)
        if found.keyed or found.limited or found.ramps:
            pushed += self._push_limited(found, rooms - pushed)
        for queue, count in pushed.items():
            self._reach.pushed(queue, count)
        return pushed.total()

    def _rooms(self, queues: Iterable[str]) -> Counter[str]:
        """Return how many runs may be pushed, by queue; queues without room are left out."""
        lengths = self._delivery.lengths(list(queues))
        rooms = {queue: min(BATCH, self._reach.room(queue, length)) for queue, length in lengths.items()}
        return Counter({queue: room for queue, room in rooms.items() if room})

    def _push_free(self, found: Gates, rooms: Mapping[str, int]) -> Counter[str]:
        """Push runs that share no limits; any number of relays do so side by side."""
        free = {queue: room for queue, room in rooms.items() if queue not in found.limited}
        held = [*found.jobs, *(job for job, key in found.ramps if job and not key)]
        if not free:
            return Counter()
        with self._engine.begin() as connection:
            return self._deliver(ledger.take_due(connection, free, held))

    def _push_limited(self, found: Gates, rooms: Mapping[str, int]) -> Counter[str]:
        """Push runs that share limits, unless another relay does so at the moment."""
        with self._engine.begin() as connection:
            return self._deliver(self._admission.take(connection, found, rooms))

    def _deliver(self, due: Sequence[Due]) -> Counter[str]:
        self._delivery.push((run.queue, run.job, run.run_id, run.pushes > 1) for run in due)
        return Counter(run.queue for run in due)

    def rescue(self) -> None:
        """Take back what was lost."""
        try:
            with self._engine.begin() as connection:
                gates.lift(connection)
            lost, forgotten = rescue.rescue(self._engine, self._delivery, bury=self._steady())
        except SQLAlchemyError:
            self._looked_at = -math.inf
            raise
        if lost or forgotten:
            logs.get().warning("runs taken back", from_dead_workers=lost, from_the_broker=forgotten)

    def _steady(self) -> bool:
        """Whether the ledger could be written all the time in which a heartbeat goes stale: silence proves death."""
        now = time.monotonic()
        if now - self._looked_at > STALE_AFTER / 2:
            self._steady_since = now
        self._looked_at = now
        return now - self._steady_since >= STALE_AFTER


def know_queues(engine: Engine, names: Iterable[str]) -> None:
    """Make sure every queue has its row."""
    with engine.begin() as connection:
        connection.execute(KNOW_QUEUES, {"names": sorted(names)})


def main() -> None:
    """Relay until stopped."""
    stopping = stop_signal()
    with enter("relay") as runtime:
        presence = Presence(runtime.machinery, "relay").start(stopping)
        serve(runtime, stopping)
        presence.stop()


def serve(runtime: Runtime, stopping: Event) -> None:
    """Push and rescue until told to stop; what is away is waited for."""
    delivery = runtime.delivery()
    relay = Relay(runtime.machinery, delivery)
    bell = Bell(runtime.redis)
    rescue_at = time.monotonic()
    idle = IDLE
    known = False
    while not stopping.is_set():
        try:
            if not known:
                know_queues(runtime.machinery, {job.queue for job in jobs.all_jobs().values()})
                known = True
            if time.monotonic() >= rescue_at:
                relay.rescue()
                redrive.advance(runtime.machinery)
                rescue_at = time.monotonic() + RESCUE_EVERY
            pushed = relay.push()
            # Fewer than a queue always has room for are no backlog: what is announced comes without a relay.
            rung = pushed < LEAST and bell.wait(idle)
            idle = IDLE if pushed or rung else min(LONGEST_IDLE, 1.2 * idle)
        except (BrokerAway, SQLAlchemyError) as error:
            away = error.broker if isinstance(error, BrokerAway) else "Postgres"
            logs.get().warning("the relay waits", away=away, reason=str(error).splitlines()[0])
            stopping.wait(PAUSE)
    delivery.close()


if __name__ == "__main__":
    typer.run(main)

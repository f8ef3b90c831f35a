"""Dramatiq delivers, the ledger decides: our broker and its consumer.

Whoever knows Dramatiq looks for `@dramatiq.actor` and finds none: jobs are recorded in `jobs/`, which know no broker.
What we use of Dramatiq is what it does very well: consumers, threads, graceful stop. What we do not use is its
retries, delays and dead letters, which live in memory or in hooks whose errors are swallowed; ours are rows (see
docs/decisions).

The consumer fetches a set of messages, claims their runs in one statement, and acknowledges the set as soon as the
claim has committed: from then on Postgres alone knows who holds what. A message whose run is not due, is held
by somebody else, or has ended is acknowledged and dropped. If the claim cannot be made, nothing is acknowledged.

What Dramatiq's threads are handed are not those messages but turns: a thread with a turn executes what was claimed,
one run after the other, until nothing is left for it (see docs/decisions/0021-turns.md).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import dramatiq
from dramatiq.broker import Broker, Consumer, MessageProxy
from dramatiq.errors import ConnectionClosed
from dramatiq.message import Message
from dramatiq.middleware import Middleware
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from jobs import names
from workers import ledger, logs
from workers.bell import Bell
from workers.delivery import BrokerAway
from workers.executor import Executor
from workers.ledger import Claim
from workers.outcomes import Outcomes
from workers.process import Presence
from workers.runtime import Runtime
from workers.window import Window

#: Seconds an idle consumer blocks before it looks whether it should stop.
IDLE = 1.0
#: Seconds that the last outcomes may take to be written when the process stops.
LAST_WORDS = 20.0
#: The one actor: what a thread does with its turn.
TURN = "headrace.turn"


class Holding:
    """What one worker process adds to Dramatiq's: its presence, its executor, its buffer, its allowance.

    Args:
        runtime: The process's resources.
        threads: Runs it executes at the same time.
        queues: Queues it serves.
    """

    def __init__(self, runtime: Runtime, *, threads: int, queues: Sequence[str]) -> None:
        self.runtime = runtime
        self.window = Window(threads)
        self._bell = Bell(runtime.redis)
        self.outcomes = Outcomes(runtime.machinery, self._ring)
        self.executor = Executor(
            runtime, self.outcomes, self.window, threads=threads, process_id=lambda: self.presence.id
        )
        self.presence = Presence(
            runtime.machinery,
            "worker",
            queues=queues,
            jobs=sorted(names()),
            threads=threads,
            held=self.executor.compare,
        )

    def start(self) -> None:
        """Enter the process's row and start writing outcomes."""
        self.outcomes.start()
        self.presence.start()

    def _ring(self) -> None:
        with suppress(BrokerAway):  # a relay looks by itself in a moment
            self._bell.ring()

    def interrupt(self) -> None:
        """Claim nothing more, and tell running jobs: Dramatiq stops its consumers only once its threads are done."""
        self.window.close()
        self.executor.interrupt()

    def stop(self) -> None:
        """Give back what is still held, write the last outcomes, say goodbye."""
        self.executor.put_back()
        if self.executor.at_work():
            # A blocked job may hold the row of its run, which is to be written now.
            self.runtime.end_transactions()
        self.outcomes.close(LAST_WORDS)
        self.presence.stop()


class Lifecycle(Middleware):
    """Starts and stops our part of a worker process with Dramatiq's."""

    def __init__(self, holding: Holding) -> None:
        self._holding = holding

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        del broker, worker
        self._holding.start()

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        del broker, worker
        self._holding.interrupt()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        del broker, worker
        self._holding.stop()


class LedgerBroker(Broker):
    """What Dramatiq's worker takes for its broker: consumers that claim what they fetch, wherever that comes from."""

    def __init__(self, holding: Holding) -> None:
        super().__init__(middleware=[Lifecycle(holding)])
        self.holding = holding

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue, without the delay queue that Dramatiq would add: delays are `due_at`."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues[queue_name] = None
            self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """Return a consumer that claims; how much it fetches follows the worker's window."""
        del prefetch, timeout
        return ClaimingConsumer(self.holding, queue_name)


class ClaimingConsumer(Consumer):
    """Fetches sets of messages of one queue, claims their runs, and sends for the threads that they need."""

    def __init__(self, holding: Holding, queue: str) -> None:
        self._holding = holding
        self._queue = queue
        self._delivery = holding.runtime.delivery()
        self._jobs = list(names())
        self._claiming = holding.runtime.machinery.execution_options(isolation_level="AUTOCOMMIT")
        self._connection: Connection | None = None
        #: The last fetch left nothing there.
        self._drained = False

    def __next__(self) -> MessageProxy | None:
        """Return a turn for a thread, or None after a quiet while."""
        executor = self._holding.executor
        if not executor.wants_thread():
            self._fill()
            if not executor.wants_thread():
                return None
        return MessageProxy(Message(self._queue, TURN, (), {}, {}))

    def ack(self, message: MessageProxy) -> None:
        """Nothing to do: messages are acknowledged when their runs are claimed."""

    def nack(self, message: MessageProxy) -> None:
        """Nothing to do either: a turn that failed has told the executor so."""

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Take back turns that never began."""
        for _ in messages:
            self._holding.executor.will_not_come()

    def close(self) -> None:
        """Hang up; what was claimed belongs to the executor."""
        self._hang_up()
        self._delivery.close()

    def _fill(self) -> None:
        room = self._holding.window.take(IDLE)
        with _dramatiq_waiting():
            if not room:
                self._delivery.rest()
            elif self._drained:
                self._holding.window.give_back(room)
                self._delivery.wait(self._queue, IDLE)
                self._drained = False
            else:
                self._use(room)

    def _use(self, room: int) -> None:
        used = 0
        try:
            used = self._fetch_and_claim(room)
        finally:
            self._holding.window.give_back(room - used)

    def _fetch_and_claim(self, room: int) -> int:
        receipts, run_ids = self._delivery.fetch(self._queue, room)
        self._drained = len(receipts) < room
        if not receipts:
            return 0
        try:
            claims = self._claim(run_ids)
        except SQLAlchemyError:
            # Should the claim have been committed all the same, the messages find their runs taken, and the next
            # heartbeats find runs that this process does not know and give them back.
            self._delivery.give_back(self._queue, receipts)
            raise
        place = {run_id: number for number, run_id in enumerate(run_ids)}
        self._holding.executor.hold(sorted(claims, key=lambda claim: place[claim.run_id]))
        # Before a thread is sent for: a job that kills its process would leave a message that keeps its next push out.
        self._forget(receipts)
        return len(claims)

    def _claim(self, run_ids: list[int]) -> list[Claim]:
        """Claim on our own connection; one that broke since the last claim is replaced."""
        kept = self._connection is not None
        try:
            return self._claim_once(run_ids)
        except DBAPIError as error:
            if not kept or not error.connection_invalidated:
                raise
            return self._claim_once(run_ids)

    def _claim_once(self, run_ids: list[int]) -> list[Claim]:
        """One trip to Postgres: nothing asks first whether it answers, and the statement is its own transaction."""
        if self._connection is None:
            self._connection = self._claiming.connect()
        try:
            return ledger.claim(self._connection, run_ids, self._holding.presence.id, self._jobs)
        except SQLAlchemyError:
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _forget(self, receipts: list[bytes]) -> None:
        """Acknowledge; should that fail, the messages come again and find their runs taken."""
        try:
            self._delivery.forget(self._queue, receipts)
        except BrokerAway as error:
            reason = {"queue": self._queue, "reason": str(error)}
            logs.get().warning(f"{error.broker} did not take an acknowledgement", **reason)


@contextmanager
def _dramatiq_waiting() -> Iterator[None]:
    """Say in Dramatiq's words that something is away: it waits and makes a new consumer."""
    try:
        yield
    except BrokerAway as error:
        raise ConnectionClosed(f"{error.broker} is away: {error}") from None  # type: ignore[no-untyped-call]
    except SQLAlchemyError as error:
        reason = f"Postgres is away: {error}".splitlines()[0]
        raise ConnectionClosed(reason) from None  # type: ignore[no-untyped-call]


def make(runtime: Runtime, *, threads: int, queues: Sequence[str]) -> LedgerBroker:
    """Return a broker that serves the given queues.

    Args:
        runtime: The process's resources.
        threads: Runs to execute at the same time.
        queues: Queues to serve.
    """
    broker = LedgerBroker(Holding(runtime, threads=threads, queues=queues))
    for queue in queues:
        broker.declare_queue(queue)
    dramatiq.Actor(
        broker.holding.executor.turn, broker=broker, actor_name=TURN, queue_name=queues[0], priority=0, options={}
    )
    return broker

"""This process in the ledger: its row, its heartbeat, and what the heartbeat brings back.

The row says whose runs must be rescued. It is renewed on a thread and a connection of its own, so a busy worker or a
slow Redis never looks like a dead one. Each beat also reads what the ledger believes we hold: what somebody wants to
stop is told to its job, and a run that we know nothing of (its claim was committed, but the answer never reached us)
is given back. A process that was taken for dead (it was frozen, or cut off) finds its row closed and continues under
a new one: what it held before belongs to others by then, and the fencing number keeps it from interfering.

The database's clock decides everything. By how much the host's differs is measured with each beat and kept in the row.
"""

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from threading import Event, Thread
from typing import Self

from psycopg.errors import UndefinedColumn, UndefinedTable
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from workers import logs

#: Seconds between two beats, and without one before a process is taken for dead.
BEAT = 3.0
STALE_AFTER = 15.0

ENTER = text("""
    INSERT INTO processes (kind, host, pid, version, queues, jobs, threads, clock_skew, started_at)
    VALUES (:kind, :host, :pid, :version, :queues, :jobs, :threads, :skew, coalesce(:started_at, now()))
    RETURNING id, started_at
""")
RENEW = text("""
    UPDATE processes SET heartbeat_at = now(), clock_skew = :skew WHERE id = :id AND stopped_at IS NULL RETURNING id
""")
CLOCK = text("SELECT extract(epoch FROM clock_timestamp())::float8")
LEAVE = text("UPDATE processes SET stopped_at = now(), heartbeat_at = now() WHERE id = :id AND stopped_at IS NULL")
HELD = text("""
    SELECT id, attempt, cancel_requested_at IS NOT NULL AS unwanted,
        extract(epoch FROM now() - started_at)::float8 AS age
    FROM runs WHERE process_id = :id AND state = 'running'
""")


@dataclass(frozen=True)
class Running:
    """A run that the ledger says this process holds."""

    run_id: int
    attempt: int
    #: An operator wants it to stop.
    unwanted: bool
    #: Seconds since its claim.
    age: float


class Presence:
    """The row of this process and the thread that renews it.

    Args:
        engine: The database; nothing that may use up its connections shares it.
        kind: Kind of the process.
        queues: Queues it serves.
        jobs: Names of the jobs that its code has.
        threads: Runs it may execute at the same time.
        held: Called at every beat with the runs that the ledger says this process holds.
    """

    def __init__(
        self,
        engine: Engine,
        kind: str,
        *,
        queues: Sequence[str] = (),
        jobs: Sequence[str] = (),
        threads: int = 0,
        held: Callable[[list[Running]], None] | None = None,
    ) -> None:
        self._engine = engine
        self._facts = {
            "kind": kind,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": version("headrace"),
            "queues": list(queues),
            "jobs": list(jobs),
            "threads": threads,
        }
        self._held = held
        self._stopping = Event()
        self._thread = Thread(target=self._beat_forever, name="heartbeat", daemon=True)
        self.id = 0
        #: By the database's clock; the same under each row that it goes on under.
        self._started_at: datetime | None = None

    def start(self, giving_up: Event | None = None) -> Self:
        """Enter the row and start beating; waits until the database answers. Harmless when it has started already.

        Args:
            giving_up: Set by a process that is asked to stop: without a database it is not entered then, its id is 0.
        """
        asked = giving_up or self._stopping
        while not (self.id or asked.is_set() or self._stopping.is_set()):
            try:
                self._enter()
                self._thread.start()
            except SQLAlchemyError as error:
                logs.get().warning("waiting for Postgres", reason=_reason(error))
                asked.wait(1.0)
        return self

    def stop(self) -> None:
        """Stop beating and say goodbye; a database that is away does not hold us."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(BEAT)
        try:
            with self._engine.begin() as connection:
                connection.execute(LEAVE, {"id": self.id})
        except SQLAlchemyError:
            logs.get().warning("left without saying goodbye: Postgres is away")

    def beat(self) -> None:
        """Renew the row once and pass on what the ledger says we hold."""
        with self._engine.begin() as connection:
            alive = connection.execute(RENEW, {"id": self.id, "skew": clock_skew(connection)}).scalar()
            held = [Running(*row) for row in connection.execute(HELD, {"id": self.id})] if self._held else []
        if alive is None:
            old = self.id
            self._enter()
            logs.get().warning("this process was taken for dead and goes on under a new row", old=old, new=self.id)
        if self._held:
            self._held(held)

    def _enter(self) -> None:
        with self._engine.begin() as connection:
            facts = self._facts | {"skew": clock_skew(connection), "started_at": self._started_at}
            self.id, self._started_at = connection.execute(ENTER, facts).one()

    def _beat_forever(self) -> None:
        while not self._stopping.wait(BEAT):
            try:
                self.beat()
            except SQLAlchemyError as error:
                logs.get().warning("no heartbeat: Postgres is away", reason=_reason(error))


def clock_skew(connection: Connection) -> float:
    """Return by how many seconds this host's clock is ahead of the database's, at least; negative if it is behind.

    The database looked at its clock at some moment between our question and its answer. What lies in between may be the
    way there or back, so it counts as no difference: a slow network never looks like a wrong clock.
    """
    asked, began = time.time(), time.monotonic()
    theirs = float(connection.execute(CLOCK).scalar_one())
    answered = asked + time.monotonic() - began
    return max(asked - theirs, 0.0) + min(answered - theirs, 0.0)


def _reason(error: SQLAlchemyError) -> str:
    if isinstance(error, DBAPIError) and isinstance(error.orig, UndefinedTable | UndefinedColumn):
        return "the tables are missing or too old for this code: run `headrace migrate`"
    return str(error.__cause__ or error).splitlines()[0]

"""The state of everything, read at most once a second however many people and machines look.

A sight holds what Postgres knows, read in one read-only transaction so that its numbers belong together, and whether
Redis and Elasticsearch answer. No part may hold up the others or the reader: each is asked on its own thread and has
the same few seconds.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from types import MappingProxyType

from sqlalchemy import Connection, Engine, text

import jobs
from models import migrations
from web import recent
from web.question import Question, Silence
from workers import canaries, census, circuits, timetable

#: Seconds that all parts together have to answer, and for which an answer is good.
DEADLINE = 2.5
FRESH_FOR = 1.0
_STATEMENT_TIMEOUT = "SET LOCAL statement_timeout = 2400"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What Postgres knows, at one moment of its own clock."""

    taken_at: datetime
    runs: dict[str, int]
    dead: recent.DeadView
    retrying: list[recent.RetryingView]
    queues: list[census.QueueView]
    schedules: list[timetable.ScheduleView]
    streams: list[census.StreamView]
    index: census.IndexView
    totals: census.TotalsView
    processes: list[census.ProcessView]
    pace: list[recent.MinuteView]
    movements: list[recent.MovementView]
    recent_runs: list[census.RunView]
    canaries: list[canaries.CanaryView]
    circuits: list[circuits.CircuitView]


@dataclass(frozen=True, slots=True)
class NotMigrated:
    """Postgres answers, and its tables are not those the code needs."""

    revision: str | None
    newest_revision: str


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at everything."""

    postgres: Snapshot | NotMigrated | Silence
    #: The other parts by name; None means that it answered.
    parts: MappingProxyType[str, Silence | None]
    #: Documents that searches see; None when there is no live index, or nobody could tell.
    documents: int | None = None
    #: What people call the broker that is really used.
    broker: str = "Redis"

    @property
    def snapshot(self) -> Snapshot | None:
        """What Postgres knows, if it could be asked."""
        return self.postgres if isinstance(self.postgres, Snapshot) else None


class Pulse:
    """Looks at everything on demand.

    Args:
        engine: The database.
        probes: Asks each other part something cheap, by its name; raises if it is away.
        index: Of those, the one that answers with the number of documents that searches see.
        broker: What people call the broker.
    """

    def __init__(
        self,
        engine: Engine,
        probes: dict[str, Callable[[], object]],
        *,
        index: str = "elasticsearch",
        broker: str = "Redis",
    ) -> None:
        self._broker = broker
        newest = migrations.newest()
        self._postgres = Question(lambda: take(engine, newest))
        self._ready = Question(lambda: _tables(engine, newest))
        self._parts = {name: Question(probe) for name, probe in probes.items()}
        self._index = index
        self._lock = Lock()
        self._sight: Sight | None = None
        self._good_until = 0.0

    def look(self) -> Sight:
        """Return the state of everything, at most `FRESH_FOR` seconds old, within `DEADLINE` seconds."""
        with self._lock:
            if self._sight is None or time.monotonic() >= self._good_until:
                self._sight = self._ask()
                self._good_until = time.monotonic() + FRESH_FOR
            return self._sight

    def ready(self) -> NotMigrated | Silence | None:
        """Return what keeps this process from doing its work, or None."""
        self._ready.put()
        return self._ready.answer(time.monotonic() + DEADLINE)

    def _ask(self) -> Sight:
        until = time.monotonic() + DEADLINE
        self._postgres.put()
        for question in self._parts.values():
            question.put()
        answers = {name: question.answer(until) for name, question in self._parts.items()}
        silent = {name: answer if isinstance(answer, Silence) else None for name, answer in answers.items()}
        counted = answers.get(self._index)
        documents = counted if isinstance(counted, int) else None
        return Sight(self._postgres.answer(until), MappingProxyType(silent), documents, self._broker)


def take(engine: Engine, newest: str) -> Snapshot | NotMigrated:
    """Read what Postgres knows.

    Args:
        engine: The database.
        newest: Revision of the tables that the code needs.
    """
    reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with reading.connect() as connection:
        connection.execute(text(_STATEMENT_TIMEOUT))
        revision = migrations.current(connection)
        return _read(connection) if revision == newest else NotMigrated(revision, newest)


def _tables(engine: Engine, newest: str) -> NotMigrated | None:
    with engine.connect() as connection:
        revision = migrations.current(connection)
    return None if revision == newest else NotMigrated(revision, newest)


def _read(connection: Connection) -> Snapshot:
    return Snapshot(
        taken_at=connection.execute(text("SELECT now()")).scalar_one(),
        runs=census.runs_by_state(connection),
        dead=recent.dead(connection),
        retrying=recent.retrying(connection),
        queues=census.queues(connection, {job.queue for job in jobs.all_jobs().values()}),
        schedules=timetable.schedules(connection),
        streams=census.streams(connection),
        index=census.index(connection),
        totals=census.totals(connection),
        processes=census.processes(connection),
        pace=recent.pace(connection),
        movements=recent.movements(connection),
        recent_runs=census.recent_runs(connection, 12),
        canaries=canaries.look(connection),
        circuits=circuits.look(connection),
    )

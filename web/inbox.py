"""Webhooks are kept together: requests that arrive while a commit is under way share the next one.

One task with one connection writes. It takes everything that has arrived, stores the events with one statement and
the runs they cause with another, commits, and only then are the requests answered. So the price of a commit is shared
under load, nobody waits for a timer when there is none, and a 200 always means that Postgres has it. When Postgres is
away everybody in the batch is told so and nothing is half kept; the next batch connects anew.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg

from jobs import Job
from models import Verdict
from workers import logs
from workers.runtime import NOTICE_SILENCE

#: Requests that may wait for a commit, and the bytes of their bodies.
CAPACITY = 2_000
CAPACITY_BYTES = 64 * 1024 * 1024
#: Requests that share one commit at most.
BATCH = 500
#: Seconds a commit may take, and opening a connection.
COMMIT_TIMEOUT = 5.0
CONNECT_TIMEOUT = 3

# Lists of text without gaps go over as they are (%b): spelling them out costs more than all else here.
# `duplicates` of a row given is how often the batch repeats it; a row that is there already was delivered once more.
EVENTS = """
    INSERT INTO events (source, external_id, type, verdict, headers, body, reason, address, secret, duplicates)
    SELECT source, external_id, type, verdict, headers::jsonb, body, reason, address, secret, duplicates
    FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::bytea[], %s::text[], %s::text[],
                %s::bigint[], %s::bigint[])
        AS given (source, external_id, type, verdict, headers, body, reason, address, secret, duplicates)
    ON CONFLICT (source, external_id) DO UPDATE SET duplicates = events.duplicates + 1 + excluded.duplicates
    RETURNING id, source, external_id, xmax = 0 AS fresh
"""
RUNS = """
    WITH made AS (
        INSERT INTO runs (job, queue, priority, key, args, max_attempts, event_id, expires_at, deadline_at)
        SELECT job, queue, priority, key, jsonb_build_object('event_id', event_id), max_attempts, event_id,
               now() + expires * interval '1 second', now() + retry_for * interval '1 second'
        FROM unnest(%b::text[], %b::text[], %s::smallint[], %s::text[], %s::smallint[], %s::bigint[], %s::float8[],
                    %s::float8[]) AS given (job, queue, priority, key, max_attempts, event_id, expires, retry_for)
        RETURNING id, event_id
    )
    UPDATE events SET run_id = made.id FROM made WHERE events.id = made.event_id
"""

# Runs that wait are locked in the order in which workers claim them.
FOUND = "SELECT FROM runs WHERE unique_key = ANY(%s::text[]) ORDER BY id FOR UPDATE"
SHARED = """
    WITH given AS (
        SELECT * FROM unnest(%b::text[], %b::text[], %s::smallint[], %s::text[], %s::smallint[], %s::bigint[],
                             %s::float8[], %s::float8[], %b::text[], %s::float8[]) WITH ORDINALITY
            AS given (job, queue, priority, key, max_attempts, event_id, expires, retry_for, unique_key, wait, place)
    ), made AS (
        INSERT INTO runs (job, queue, priority, key, args, max_attempts, event_id, due_at, unique_key, unique_while,
                          expires_at, deadline_at)
        SELECT DISTINCT ON (unique_key) job, queue, priority, key, jsonb_build_object('event_id', event_id),
               max_attempts, event_id, now() + wait * interval '1 second', unique_key, 'waiting',
               now() + (wait + expires) * interval '1 second', now() + (wait + retry_for) * interval '1 second'
        FROM given ORDER BY unique_key, place
        ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO UPDATE SET unique_key = excluded.unique_key
        RETURNING id, event_id, unique_key
    )
    UPDATE events SET run_id = made.id, joined_run = CASE WHEN made.event_id <> events.id THEN made.id END
    FROM given JOIN made USING (unique_key) WHERE events.id = given.event_id
"""


class InboxUnavailable(Exception):  # noqa: N818 - named for what the caller does
    """The event could not be kept now; the sender is asked to come back."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One delivery as it is kept."""

    source: str
    external_id: str
    type: str
    verdict: Verdict
    #: Redacted header lines as a JSON object.
    headers: str
    body: bytes
    #: The job that answers it; None when nobody does.
    handler: Job[Any] | None
    #: Why it was refused, or could not be read.
    reason: str | None = None
    #: What the event is about, for a handler that asks.
    about: str | None = None
    #: Where it came from.
    address: str | None = None
    #: Which of our secrets it was signed with; 0 is the newest.
    secret: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same event."""
        return self.source, self.external_id


@dataclass(frozen=True, slots=True)
class Kept:
    """Where an arrival is kept: the event's id, and whether this delivery was the first of it."""

    event_id: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class _Waiting:
    arrival: Arrival
    #: None when nobody waits for it.
    answer: asyncio.Future[Kept] | None


class _Caused(NamedTuple):
    """A run that an event causes, with the keys that follow from the event."""

    job: Job[Any]
    event_id: int
    key: str | None
    unique_key: str | None


class Inbox:
    """Keeps arrivals and the runs they cause, many with one commit. Used within one event loop.

    Args:
        database_url: Address of the database, `postgresql://...`.
        capacity: Requests that may wait for a commit.
        connect_args: What psycopg has to know beside the address.
    """

    def __init__(
        self, database_url: str, *, capacity: int = CAPACITY, connect_args: Mapping[str, Any] | None = None
    ) -> None:
        self._url = database_url
        self._connect_args = connect_args or {}
        self._capacity = capacity
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def keep(self, arrival: Arrival) -> Kept:
        """Store an arrival and the run it causes; returns once that is committed.

        Raises:
            InboxUnavailable: Too many wait already, or Postgres is away.
        """
        if len(self._waiting) >= self._capacity or self._bytes + len(arrival.body) > CAPACITY_BYTES:
            raise InboxUnavailable("too many deliveries wait for Postgres")
        answer: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
        self._enter(_Waiting(arrival, answer))
        return await answer

    def remember(self, arrival: Arrival) -> None:
        """Store an arrival behind the answer to it, unless much else waits: nobody is promised anything."""
        if len(self._waiting) < self._capacity // 2 and self._bytes + len(arrival.body) < CAPACITY_BYTES // 2:
            self._enter(_Waiting(arrival, None))

    def _enter(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._bytes += len(waiting.arrival.body)
        self._arrived.set()

    async def run(self) -> None:
        """Commit batch after batch until cancelled."""
        try:
            while True:
                await self._arrived.wait()
                await self._settle(self._take())
        finally:
            _refuse(self._waiting, "the receiver stops")
            await self._disconnect()

    def _take(self) -> list[_Waiting]:
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        self._bytes -= sum(len(waiting.arrival.body) for waiting in batch)
        if not self._waiting:
            self._arrived.clear()
        return batch

    async def _settle(self, batch: Sequence[_Waiting]) -> None:
        try:
            kept = await self._store([waiting.arrival for waiting in batch])
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            await self._settle_one_by_one(batch, error)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the next batch must find a living task
            logs.get().warning("webhooks refused: Postgres cannot commit", requests=len(batch), reason=_reason(error))
            await self._disconnect()
            _refuse(batch, "Postgres cannot commit now")
        else:
            for waiting, answer in zip(batch, kept, strict=True):
                if waiting.answer is not None and not waiting.answer.done():
                    waiting.answer.set_result(answer)

    async def _settle_one_by_one(self, batch: Sequence[_Waiting], error: psycopg.Error) -> None:
        if len(batch) == 1:
            logs.get().error("a webhook cannot be kept", source=batch[0].arrival.source, reason=_reason(error))
            return _refuse(batch, "this delivery cannot be kept")
        for waiting in batch:  # one of them cannot be stored; the others shall not suffer for it
            await self._settle([waiting])
        return None

    async def _store(self, arrivals: Sequence[Arrival]) -> list[Kept]:
        reused = self._connection is not None
        try:
            return await self._commit_in_time(arrivals)
        except psycopg.OperationalError:
            if not reused:
                raise
        # The connection had died while it was idle. Should the first try have been committed after all, the second
        # one finds the events there: they are answered as duplicates, and nothing is kept twice.
        await self._disconnect()
        return await self._commit_in_time(arrivals)

    async def _commit_in_time(self, arrivals: Sequence[Arrival]) -> list[Kept]:
        task = asyncio.create_task(self._commit(arrivals))
        done, _ = await asyncio.wait({task}, timeout=COMMIT_TIMEOUT)
        if not done:
            self._abandon(task)
            raise TimeoutError("no answer in time")
        return task.result()

    def _abandon(self, task: asyncio.Task[list[Kept]]) -> None:
        # Cancelling asks the silent server once more and waits for it: that happens behind us, not before the answers.
        task.cancel()
        connection, self._connection = self._connection, None
        closing = asyncio.create_task(_close_after(task, connection))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _commit(self, arrivals: Sequence[Arrival]) -> list[Kept]:
        rows, order = _merge(arrivals)
        connection = self._connection = self._connection or await self._connect()
        async with connection.transaction(), connection.cursor() as cursor:
            await cursor.execute(EVENTS, _columns(rows))
            found = {(source, key): Kept(id_, fresh) for id_, source, key, fresh in await cursor.fetchall()}
            arrived = {row.key: row for row, _ in rows}
            fresh = [(arrived[key], found[key]) for key, first in order if first and found[key].fresh]
            await _cause(cursor, [_caused(row.handler, row, kept.event_id) for row, kept in fresh if row.handler])
        return [Kept(found[key].event_id, found[key].fresh and first) for key, first in order]

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        options: dict[str, Any] = {**NOTICE_SILENCE, **self._connect_args, "connect_timeout": CONNECT_TIMEOUT}
        return await psycopg.AsyncConnection.connect(
            self._url, autocommit=True, application_name="headrace web inbox", **options
        )

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        await _close(connection)


async def _close_after(task: asyncio.Task[list[Kept]], connection: psycopg.AsyncConnection[Any] | None) -> None:
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # seen: nobody waits for it any more
    await _close(connection)


async def _close(connection: psycopg.AsyncConnection[Any] | None) -> None:
    if connection is not None:
        with suppress(psycopg.Error, OSError):
            await connection.close()


def _merge(arrivals: Iterable[Arrival]) -> tuple[list[tuple[Arrival, int]], list[tuple[tuple[str, str], bool]]]:
    """Return each event once with its repetitions, and for every arrival its key and whether it came first.

    The events are sorted: two processes that store the same ones lock them in the same order.
    """
    firsts: dict[tuple[str, str], tuple[Arrival, int]] = {}
    order = []
    for arrival in arrivals:
        first, repeated = firsts.get(arrival.key, (arrival, -1))
        firsts[arrival.key] = (first, repeated + 1)
        order.append((arrival.key, repeated < 0))
    return [firsts[key] for key in sorted(firsts)], order


def _columns(rows: Sequence[tuple[Arrival, int]]) -> list[list[Any]]:
    return [
        [row.source for row, _ in rows],
        [row.external_id for row, _ in rows],
        [row.type for row, _ in rows],
        [str(row.verdict) for row, _ in rows],
        [row.headers for row, _ in rows],
        [row.body for row, _ in rows],
        [row.reason for row, _ in rows],
        [row.address for row, _ in rows],
        [row.secret for row, _ in rows],
        [repeated for _, repeated in rows],
    ]


def _caused(job: Job[Any], arrival: Arrival, event_id: int) -> _Caused:
    arguments = {"event_id": event_id}
    unique_key = job.unique_key_of(arguments, arrival.about) if job.entity else None
    return _Caused(job, event_id, job.key_of(arguments, arrival.about), unique_key)


async def _cause(cursor: psycopg.AsyncCursor[Any], caused: Sequence[_Caused]) -> None:
    """Write the runs that answer fresh events, in the order in which those arrived.

    Events of one entity share a run that no worker has taken.
    """
    shared = [one for one in caused if one.unique_key is not None]
    if len(shared) < len(caused):
        await cursor.execute(RUNS, _runs([one for one in caused if one.unique_key is None]))
    if shared:
        unique_keys = [one.unique_key for one in shared]
        waits = [one.job.unique.wait if one.job.unique else 0.0 for one in shared]
        await cursor.execute(FOUND, [unique_keys])
        await cursor.execute(SHARED, [*_runs(shared), unique_keys, waits])


def _runs(caused: Sequence[_Caused]) -> list[list[Any]]:
    return [
        [one.job.name for one in caused],
        [one.job.queue for one in caused],
        [one.job.priority for one in caused],
        [one.key for one in caused],
        [one.job.max_attempts for one in caused],
        [one.event_id for one in caused],
        [one.job.lifetime.expires for one in caused],
        [one.job.lifetime.retry_for for one in caused],
    ]


def _refuse(batch: Iterable[_Waiting], reason: str) -> None:
    for waiting in batch:
        if waiting.answer is not None and not waiting.answer.done():
            waiting.answer.set_exception(InboxUnavailable(reason))


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]

"""What is there right now: the reads that the pages, the metrics and the command line share.

Each function is one query with a bound on the rows it touches, so looking at a system in trouble does not add to the
trouble: counts stop at `CAP`, histories are read from their newest end. Times and ages are the database's, because the
clocks of the machines may differ. The views are plain values; `as_json` turns them into what JSON can carry.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from models import State
from workers.process import STALE_AFTER

#: Counts stop here and mean "this many or more"; of a history, the newest this many rows are looked at.
CAP = 100_000
#: Processes listed at most; those gone for an hour are left out.
_PROCESSES = 200
#: Generations of the search index listed at most.
_GENERATIONS = 10


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue: what waits in it, for how long, and who serves it."""

    name: str
    #: Runs in the state `waiting`, due or not.
    waiting: int
    #: Of those, runs whose time has come.
    due: int
    queued: int
    running: int
    #: When the longest waiting due run became due, pushed to the broker or not; empty when nothing is due.
    oldest_due_at: datetime | None
    oldest_due_seconds: float | None
    paused_at: datetime | None
    paused_by: str | None
    reason: str | None
    #: Live worker processes that serve it.
    workers: int
    #: When its pause ends by itself.
    paused_until: datetime | None = None
    #: Runs of it that may be under way at the same time; empty for no limit.
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream: how far it was read, and what it set aside."""

    upstream: str
    name: str
    high_water: datetime | None
    #: End of the last complete walk and its age; empty before the first one.
    walked_at: datetime | None
    freshness_seconds: float | None
    #: `{"seen": 0, "changed": 0, ...}` of the current or last walk.
    counts: dict[str, Any]
    #: A walk has begun and is not complete.
    walking: bool
    run_id: int | None
    #: Items that would not validate and still wait for a good delivery.
    quarantined: int
    #: Items missing upstream whose deletion waits for an operator.
    held_deletions: int


@dataclass(frozen=True, slots=True)
class ProcessView:
    """One started process and whether it lives."""

    id: int
    kind: str
    host: str
    pid: int
    version: str
    queues: list[str]
    threads: int
    started_at: datetime
    heartbeat_at: datetime
    stopped_at: datetime | None
    #: It did not stop, and its heartbeat is younger than `STALE_AFTER` seconds.
    alive: bool
    #: Runs in its hands.
    running: int
    #: Seconds by which its host's clock is ahead of the database's, at least; negative if it is behind.
    clock_skew: float | None = None


@dataclass(frozen=True, slots=True)
class TotalsView:
    """How much there is of everything that is counted."""

    products: int
    levels: int
    movements: int
    #: Webhooks by what the receiver decided, of the newest `CAP` events.
    accepted: int
    ignored: int
    malformed: int
    #: Deliveries after the first of these events.
    duplicates: int
    #: Items that would not validate, still open.
    quarantined: int


@dataclass(frozen=True, slots=True)
class GenerationView:
    """One physical index."""

    index: str
    state: str
    #: Documents at promotion.
    documents: int | None
    #: Products up to this id have been read into it by the rebuild.
    scanned_to: int
    created_at: datetime
    promoted_at: datetime | None


@dataclass(frozen=True, slots=True)
class IndexView:
    """The search index: its generations, what it still has to learn, and what the last check found."""

    #: Newest first.
    generations: list[GenerationView]
    #: Marks that wait to be sent, and the age of the oldest.
    pending: int
    oldest_seconds: float | None
    #: Documents that the live index, or the one being built, refused.
    rejects: int
    #: End and result of the last successful `search.verify`; empty before the first one.
    verified_at: datetime | None
    verified: dict[str, Any] | None
    #: Products that differed between Postgres and the index at that check.
    drift: int | None

    @property
    def live(self) -> GenerationView | None:
        """The generation that answers searches."""
        return next((generation for generation in self.generations if generation.state == "live"), None)


@dataclass(frozen=True, slots=True)
class RunView:
    """A run in one line."""

    id: int
    job: str
    queue: str
    state: str
    attempt: int
    failures: int
    max_attempts: int
    created_at: datetime
    due_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    #: Length of the current or last attempt; empty before the first one and while it waits for the next.
    duration_seconds: float | None
    progress: dict[str, Any] | None
    #: Why it is dead, waits again or was cancelled.
    error: str | None


RUNS_BY_STATE = text(
    " UNION ALL ".join(
        f"SELECT '{state}' AS state, count(*) AS runs"
        f" FROM (SELECT 1 FROM runs WHERE state = '{state}' LIMIT :cap) AS {state}"
        for state in (State.WAITING, State.QUEUED, State.RUNNING, State.DEAD)
    )
    + """
    UNION ALL
    SELECT state, count(*) FROM (SELECT state FROM runs ORDER BY id DESC LIMIT :cap) AS newest
    WHERE state IN ('succeeded', 'cancelled') GROUP BY state
    """
)

QUEUES = text("""
    WITH RECURSIVE used (name, keyed) AS (
        -- From one queue to the next along the index, past all that is in between; runs with a key have their own.
        (SELECT queue, false FROM runs WHERE state = 'waiting' AND key IS NULL ORDER BY queue LIMIT 1)
        UNION ALL
        (SELECT queue, true FROM runs WHERE state = 'waiting' AND key IS NOT NULL ORDER BY queue LIMIT 1)
        UNION ALL
        SELECT CASE WHEN keyed THEN
            (SELECT queue FROM runs WHERE state = 'waiting' AND key IS NOT NULL AND queue > name ORDER BY queue LIMIT 1)
        ELSE
            (SELECT queue FROM runs WHERE state = 'waiting' AND key IS NULL AND queue > name ORDER BY queue LIMIT 1)
        END, keyed
        FROM used WHERE name IS NOT NULL
    ), listed AS (
        SELECT unnest(CAST(:known AS text[])) AS name UNION SELECT name FROM queues
        UNION SELECT name FROM used WHERE name IS NOT NULL
    ), live AS (
        SELECT waiting.* FROM listed CROSS JOIN generate_series(0, 3) AS level CROSS JOIN LATERAL (
            (SELECT queue, state, due_at FROM runs
             WHERE state = 'waiting' AND key IS NULL AND queue = listed.name AND priority = level
             ORDER BY due_at, id LIMIT :cap)
            UNION ALL
            (SELECT queue, state, due_at FROM runs
             WHERE state = 'waiting' AND key IS NOT NULL AND queue = listed.name AND priority = level
             ORDER BY due_at, id LIMIT :cap)
        ) AS waiting
        UNION ALL
        (SELECT queue, state, due_at FROM runs WHERE state = 'queued' ORDER BY queued_at LIMIT :cap)
        UNION ALL
        (SELECT queue, state, due_at FROM runs WHERE state = 'running' LIMIT :cap)
    ), counted AS (
        SELECT queue AS name,
               count(*) FILTER (WHERE state = 'waiting') AS waiting,
               count(*) FILTER (WHERE state = 'waiting' AND due_at <= now()) AS due,
               count(*) FILTER (WHERE state = 'queued') AS queued,
               count(*) FILTER (WHERE state = 'running') AS running,
               min(due_at) FILTER (WHERE state <> 'running' AND due_at <= now()) AS oldest_due_at
        FROM live GROUP BY queue
    ), serving AS (
        SELECT unnest(queues) AS name, count(*) AS workers FROM processes
        WHERE kind = 'worker' AND stopped_at IS NULL AND heartbeat_at > now() - make_interval(secs => :stale)
        GROUP BY 1
    ), names AS (
        SELECT name FROM listed UNION SELECT name FROM counted
    )
    SELECT name, least(coalesce(waiting, 0), :cap) AS waiting, least(coalesce(due, 0), :cap) AS due,
           coalesce(queued, 0) AS queued, coalesce(running, 0) AS running, oldest_due_at,
           extract(epoch FROM now() - oldest_due_at)::float8 AS oldest_due_seconds,
           paused_at, paused_by, reason, paused_until, concurrency, coalesce(workers, 0) AS workers
    FROM names LEFT JOIN counted USING (name) LEFT JOIN queues USING (name) LEFT JOIN serving USING (name)
    ORDER BY name
""")

STREAMS = text("""
    SELECT upstream, name, high_water, walked_at,
           extract(epoch FROM now() - walked_at)::float8 AS freshness_seconds,
           counts, walk_full IS NOT NULL AS walking, run_id, held_deletions,
           (SELECT count(*) FROM (
               SELECT 1 FROM quarantine WHERE stream_id = streams.id AND resolved_at IS NULL LIMIT :cap
           ) AS open) AS quarantined
    FROM streams ORDER BY upstream, name LIMIT :cap
""")

PROCESSES = text("""
    SELECT id, kind, host, pid, version, queues, threads, started_at, heartbeat_at, stopped_at,
           stopped_at IS NULL AND heartbeat_at > now() - make_interval(secs => :stale) AS alive,
           (SELECT count(*) FROM runs WHERE state = 'running' AND process_id = processes.id) AS running, clock_skew
    FROM processes
    WHERE heartbeat_at > now() - interval '1 hour'
    ORDER BY alive DESC, kind, id DESC LIMIT :limit
""")

TOTALS = text("""
    SELECT (SELECT count(*) FROM (SELECT 1 FROM products WHERE deleted_at IS NULL LIMIT :cap) AS p) AS products,
           (SELECT count(*) FROM (SELECT 1 FROM stock_levels WHERE deleted_at IS NULL LIMIT :cap) AS l) AS levels,
           (SELECT count(*) FROM (SELECT 1 FROM stock_movements LIMIT :cap) AS m) AS movements,
           (SELECT count(*) FROM (SELECT 1 FROM quarantine WHERE resolved_at IS NULL LIMIT :cap) AS q) AS quarantined,
           accepted, ignored, malformed, duplicates
    FROM (
        SELECT count(*) FILTER (WHERE verdict = 'accepted') AS accepted,
               count(*) FILTER (WHERE verdict = 'ignored') AS ignored,
               count(*) FILTER (WHERE verdict = 'malformed') AS malformed,
               coalesce(sum(duplicates) FILTER (WHERE verdict <> 'rejected'), 0)::bigint AS duplicates
        FROM (SELECT verdict, duplicates FROM events ORDER BY received_at DESC LIMIT :cap) AS newest
    ) AS webhooks
""")

INDEX = text("""
    SELECT marks.pending, marks.oldest_seconds, verify.finished_at AS verified_at, verify.result AS verified,
           (SELECT count(*) FROM (
               SELECT 1 FROM search_rejects JOIN generations ON generations.id = generation_id
               WHERE generations.state IN ('live', 'building') LIMIT :cap
           ) AS refused) AS rejects,
           g.index, g.state, g.documents, g.scanned_to, g.created_at, g.promoted_at
    FROM (
        SELECT count(*) AS pending, extract(epoch FROM now() - min(created_at))::float8 AS oldest_seconds
        FROM (SELECT created_at FROM search_changes ORDER BY id LIMIT :cap) AS oldest
    ) AS marks
    LEFT JOIN LATERAL (
        SELECT finished_at, result FROM runs
        WHERE job = 'search.verify' AND state = 'succeeded' ORDER BY id DESC LIMIT 1
    ) AS verify ON true
    LEFT JOIN LATERAL (SELECT * FROM generations ORDER BY id DESC LIMIT :limit) AS g ON true
    ORDER BY g.id DESC
""")

RECENT_RUNS = text("""
    SELECT id, job, queue, state, attempt, failures, max_attempts, created_at, due_at, started_at, finished_at,
           CASE WHEN state IN ('running', 'succeeded', 'dead', 'cancelled')
                THEN extract(epoch FROM coalesce(finished_at, now()) - started_at)::float8 END AS duration_seconds,
           progress, error
    FROM runs ORDER BY id DESC LIMIT :limit
""")


def runs_by_state(connection: Connection) -> dict[str, int]:
    """Return the number of runs in each of the six states.

    Live states and `dead` are counted up to `CAP`; `succeeded` and `cancelled` among the newest `CAP` runs.
    """
    found = {row.state: int(row.runs) for row in connection.execute(RUNS_BY_STATE, {"cap": CAP})}
    return {str(state): found.get(state, 0) for state in State}


def queues(connection: Connection, known: Iterable[str]) -> list[QueueView]:
    """Return every queue by name.

    Args:
        connection: The database.
        known: Names of queues that jobs declare; they are listed even if nothing ever used them.
    """
    values = {"known": sorted(set(known)), "cap": CAP, "stale": STALE_AFTER}
    return [QueueView(**row) for row in connection.execute(QUEUES, values).mappings()]


def streams(connection: Connection) -> list[StreamView]:
    """Return every stream by upstream and name."""
    return [StreamView(**row) for row in connection.execute(STREAMS, {"cap": CAP}).mappings()]


def processes(connection: Connection) -> list[ProcessView]:
    """Return the processes that showed a sign of life within the last hour, the living first."""
    values = {"stale": STALE_AFTER, "limit": _PROCESSES}
    return [ProcessView(**row) for row in connection.execute(PROCESSES, values).mappings()]


def totals(connection: Connection) -> TotalsView:
    """Return how much there is, each number up to `CAP`."""
    return TotalsView(**connection.execute(TOTALS, {"cap": CAP}).mappings().one())


def index(connection: Connection) -> IndexView:
    """Return the state of the search index as Postgres knows it; the search server is not asked."""
    rows = connection.execute(INDEX, {"cap": CAP, "limit": _GENERATIONS}).mappings().all()
    columns = tuple(field.name for field in fields(GenerationView))
    found = [GenerationView(**{name: row[name] for name in columns}) for row in rows if row["index"] is not None]
    known = {name: rows[0][name] for name in ("pending", "oldest_seconds", "rejects", "verified_at", "verified")}
    return IndexView(generations=found, drift=_drift(known["verified"]), **known)


def _drift(verified: dict[str, Any] | None) -> int | None:
    if verified is None:
        return None
    return sum(int(verified.get(kind) or 0) for kind in ("missing", "stale", "orphans"))


def recent_runs(connection: Connection, limit: int = 20) -> list[RunView]:
    """Return the newest runs, newest first."""
    return [RunView(**row) for row in connection.execute(RECENT_RUNS, {"limit": limit}).mappings()]


def as_json(view: Any) -> Any:
    """Return a view, or any list or mapping of views, as values that JSON can carry; times in ISO 8601."""
    if isinstance(view, datetime):
        return view.isoformat()
    if isinstance(view, dict):
        return {str(key): as_json(value) for key, value in view.items()}
    if isinstance(view, list | tuple):
        return [as_json(item) for item in view]
    if hasattr(view, "__dataclass_fields__"):
        return as_json(asdict(view))
    return view

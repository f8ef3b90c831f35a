"""The moves of runs, as sets: every function is one statement over many rows, conditional on the state it leaves.

A claim takes `waiting` or `queued` runs, because a message may arrive before the relay's own transaction is visible.
Finishing matches the attempt number, so the late outcome of a worker that was thought dead changes nothing. Rows are
locked in the order of their ids, so two batches never wait for each other in a circle.
"""

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, text

#: Characters kept of an error's message and of a traceback, and bytes of a result.
ERROR_LIMIT = 10_000
TRACEBACK_LIMIT = 20_000
RESULT_LIMIT = 16_384

_ESCAPED_ZERO = rb"\u0000"
#: A zero character as JSON escapes it, not a backslash before the letters `u0000`.
_ZERO = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


def spelled(moment: str) -> str:
    """Return the SQL that writes a moment as people read it."""
    return rf"""to_char({moment} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24\:MI\:SS "UTC"')"""


CLAIM = text("""
    WITH candidates AS (
        SELECT id, state, queue, job, key FROM runs
        WHERE id = ANY(:ids) AND job = ANY(:jobs) AND state IN ('waiting', 'queued') AND due_at <= now()
            AND (expires_at IS NULL OR expires_at > now() OR attempt > 0)
            AND (deadline_at IS NULL OR deadline_at > now())
            AND queue NOT IN (SELECT name FROM queues WHERE paused_at IS NOT NULL)
            AND EXISTS (SELECT 1 FROM processes WHERE id = :process_id AND stopped_at IS NULL)
        ORDER BY id FOR UPDATE
    ), allowed AS (
        SELECT id FROM candidates c
        WHERE NOT EXISTS (
                SELECT 1 FROM pauses p
                WHERE p.paused_at IS NOT NULL AND p.job IN ('', c.job) AND p.key IN ('', coalesce(c.key, '')))
            -- What is limited was counted when it was queued: a run that waits was not.
            AND (c.state = 'queued' OR c.key IS NULL AND NOT EXISTS (SELECT 1 FROM pauses) AND c.queue NOT IN (
                SELECT name FROM queues WHERE concurrency IS NOT NULL OR resumed_at IS NOT NULL))
    )
    UPDATE runs r
    SET state = 'running', attempt = r.attempt + 1, process_id = :process_id, started_at = now(), pushes = 0,
        unique_key = CASE WHEN r.unique_while IN ('unfinished', 'window') THEN r.unique_key END,
        progress = NULL, result = NULL, error = NULL
    FROM allowed a WHERE r.id = a.id
    RETURNING r.id, r.job, r.queue, r.args, r.attempt, r.failures, r.max_attempts, r.slot_at, r.key, r.checkpoint,
        r.followed
""")

# What a chunk may take along: due runs of one job, those on the broker first, whose messages then find them taken. The
# look at waiting ones is bounded, because others' runs may stand before them in the queue.
BESIDE = text("""
    WITH near AS (
        (SELECT id, job, 0 AS level FROM runs WHERE state = 'queued' AND queue = :queue AND key IS NULL
         ORDER BY queued_at LIMIT :look)
        UNION ALL
        SELECT oldest.id, oldest.job, level FROM generate_series(0, 3) AS level CROSS JOIN LATERAL (
            SELECT id, job FROM runs
            WHERE state = 'waiting' AND key IS NULL AND queue = :queue AND priority = level AND due_at <= now()
            ORDER BY due_at, id LIMIT :look
        ) AS oldest
    )
    SELECT r.id FROM near JOIN runs r USING (id)
    WHERE near.job = ANY(:names) AND r.state IN ('waiting', 'queued')
    ORDER BY near.level, r.due_at, r.id LIMIT :most FOR UPDATE OF r SKIP LOCKED
""")
#: Runs of a queue that a chunk looks at to find its like.
LOOK = 1_000

# A retry that would be due after the run's deadline is the end, whether it follows a failure or a snooze.
LATE = "coalesce(e.state = 'waiting' AND now() + e.delay * interval '1 second' >= r.deadline_at, false)"
OUT_OF_TIME = f"'out of time: no attempt begins after ' || {spelled('r.deadline_at')}"
# A retry that somebody cancelled meanwhile ends here. Read from the row itself, so that a cancel which commits while
# this statement waits for the row's lock is seen.
AGAIN = f"(e.state = 'waiting' AND r.cancel_requested_at IS NULL AND NOT {LATE})"

# `held` decides: it locks the runs in the state and attempt that end. From there each carries its ending along and is
# found by its id alone: the planner believes that hardly any run is running, and would pair all of them row by row.
FINISH = text(f"""
    WITH endings AS (
        SELECT * FROM jsonb_to_recordset(CAST(:endings AS jsonb)) AS e(
            run_id bigint, attempt int, state text, delay float8, counts boolean, outcome text,
            error text, error_class text, traceback text, result jsonb)
    ), held AS (
        SELECT r.id, e.* FROM runs r JOIN endings e ON r.id = e.run_id AND r.attempt = e.attempt
        WHERE r.id = ANY(:ids) AND r.state = 'running' ORDER BY r.id FOR UPDATE OF r
    ), moved AS (
        UPDATE runs r
        SET state = CASE WHEN {AGAIN} THEN 'waiting' WHEN e.state <> 'waiting' THEN e.state
                         WHEN r.cancel_requested_at IS NULL THEN 'dead' ELSE 'cancelled' END,
            due_at = CASE WHEN {AGAIN} THEN now() + e.delay * interval '1 second' ELSE r.due_at END,
            finished_at = CASE WHEN {AGAIN} THEN NULL ELSE now() END,
            failures = r.failures + e.counts::int, deaths = 0, queued_at = NULL, cancel_requested_at = NULL,
            unique_key = CASE WHEN r.unique_while = 'window' OR {AGAIN} THEN r.unique_key END,
            error = CASE WHEN {LATE} AND r.cancel_requested_at IS NULL
                         THEN concat_ws('; the last one: ', {OUT_OF_TIME}, e.error) ELSE e.error END,
            checkpoint = CASE WHEN e.state = 'succeeded' THEN NULL ELSE r.checkpoint END, result = e.result
        FROM held e WHERE r.id = e.id
        RETURNING r.id, r.attempt, r.process_id, r.started_at, e.outcome, e.error_class, e.error, e.traceback
    )
    INSERT INTO attempts (run_id, number, process_id, started_at, outcome, error_class, error, traceback)
    SELECT * FROM moved
    RETURNING run_id
""")

# One probe of the index for each queue and priority, so that runs scheduled for later are never read. The lower
# priorities are asked only while there is room: the inner rows are locked as they are pulled. They are found again as
# an array of ids, for joined to them the planner would read the whole table while that is small.
DUE = text("""
    WITH due AS (
        SELECT found.id
        FROM unnest(CAST(:queues AS text[]), CAST(:rooms AS int[])) AS open (name, room) CROSS JOIN LATERAL (
            SELECT oldest.id FROM generate_series(0, 3) AS level CROSS JOIN LATERAL (
                SELECT id FROM runs
                WHERE state = 'waiting' AND key IS NULL AND queue = open.name AND priority = level AND due_at <= now()
                    AND job <> ALL(CAST(:held AS text[])) AND (CAST(:only AS text) IS NULL OR job = :only)
                ORDER BY due_at, id LIMIT open.room FOR UPDATE SKIP LOCKED
            ) AS oldest LIMIT open.room
        ) AS found
    )
    UPDATE runs r SET state = 'queued', queued_at = now(), pushes = r.pushes + 1
    WHERE r.id = ANY(ARRAY(SELECT id FROM due))
    RETURNING r.id, r.job, r.queue, r.pushes, r.priority, r.due_at
""")

# When it was said is known by its age, for the clock of a worker's host may be wrong.
LINES = text("""
    INSERT INTO log_lines (run_id, attempt, at, line, fields)
    SELECT l.run_id, l.attempt, clock_timestamp() - (:now - l.said) * interval '1 second', l.line, l.fields
    FROM jsonb_to_recordset(CAST(:lines AS jsonb)) AS l(
        run_id bigint, attempt int, said float8, line text, fields jsonb)
""")

# A job that has just saved its checkpoint holds the row of its run until it commits: nobody waits for that here.
PROGRESS = text("""
    WITH steps AS (
        SELECT r.id, p.progress
        FROM jsonb_to_recordset(CAST(:steps AS jsonb)) AS p(run_id bigint, attempt int, progress jsonb)
        JOIN runs r ON r.id = p.run_id AND r.attempt = p.attempt AND r.state = 'running'
        ORDER BY r.id FOR NO KEY UPDATE OF r SKIP LOCKED
    )
    UPDATE runs r SET progress = s.progress FROM steps s WHERE r.id = s.id
""")


@dataclass(frozen=True)
class Claim:
    """A run that this process now holds."""

    run_id: int
    job: str
    queue: str
    args: dict[str, Any]
    attempt: int
    failures: int
    max_attempts: int
    slot_at: datetime | None
    key: str | None = None
    #: What an earlier attempt left, see `Context.checkpoint`.
    checkpoint: dict[str, Any] | None = None
    #: Another run waits for its success.
    followed: bool = False


@dataclass(frozen=True)
class Ending:
    """What became of one attempt; see `jobs._policy.Decision` for the meaning of the fields."""

    run_id: int
    attempt: int
    state: str
    outcome: str
    delay: float = 0.0
    counts: bool = False
    error: str | None = None
    error_class: str | None = None
    traceback: str | None = None
    result: dict[str, Any] | None = None
    #: Its run shared limits or others wait for it: whoever decides about the next one should look now.
    limited: bool = False


@dataclass(frozen=True)
class Due:
    """A run that is to be pushed."""

    run_id: int
    job: str
    queue: str
    #: From the second push on, the broker's memory of the id is not trusted.
    pushes: int
    priority: int
    due_at: datetime


def claim(connection: Connection, ids: Sequence[int], process_id: int, jobs: Sequence[str]) -> list[Claim]:
    """Take those of the runs that are due, free and known here.

    Args:
        connection: The claim holds once its transaction commits.
        ids: Runs to take.
        process_id: Who takes them; one that was taken for dead gets nothing until it has a new row.
        jobs: Jobs this process knows; in the middle of a deploy a run may belong to code it does not have.
    """
    rows = connection.execute(CLAIM, {"ids": list(ids), "process_id": process_id, "jobs": list(jobs)})
    return [Claim(*row) for row in rows]


def claim_beside(connection: Connection, queue: str, names: Sequence[str], process_id: int, most: int) -> list[Claim]:
    """Take due runs of one job that nobody holds, for a chunk.

    Args:
        connection: The claims hold once its transaction commits.
        queue: The queue of the chunk's first run.
        names: What the job is and was called.
        process_id: Who takes them.
        most: How many.
    """
    found = connection.execute(BESIDE, {"queue": queue, "names": list(names), "most": most, "look": LOOK}).scalars()
    ids = [int(run_id) for run_id in found]
    return claim(connection, ids, process_id, names) if ids else []


def finish(connection: Connection, endings: Iterable[Ending]) -> int:
    """Record the outcomes of attempts, of several for one attempt the first; return how many were ours to record."""
    first: dict[tuple[int, int], Ending] = {}
    for ending in endings:
        first.setdefault((ending.run_id, ending.attempt), ending)
    values = {"ids": [run_id for run_id, _ in first], "endings": _json([vars(ending) for ending in first.values()])}
    return len(connection.execute(FINISH, values).all())


def take_due(
    connection: Connection, rooms: Mapping[str, int], held: Sequence[str] = (), *, only: str | None = None
) -> list[Due]:
    """Mark due runs without a key as queued, by priority and then the oldest first; push them before the commit.

    Queue by queue, because the backlog of a paused queue would otherwise be read past at every look.

    Args:
        connection: The caller's transaction.
        rooms: How many runs may be taken, by queue.
        held: Jobs that are left alone.
        only: The one job to look for; all when None.
    """
    values = {"queues": list(rooms), "rooms": list(rooms.values()), "held": list(held), "only": only}
    return in_order(Due(*row) for row in connection.execute(DUE, values))


def in_order(due: Iterable[Due]) -> list[Due]:
    """Return runs in the order in which they are pushed."""
    return sorted(due, key=lambda run: (run.priority, run.due_at, run.run_id))


def write_lines(connection: Connection, lines: list[dict[str, Any]]) -> None:
    """Keep log lines: run_id, attempt, said (by this process's monotonic clock), line, fields."""
    connection.execute(LINES, {"lines": _json(lines), "now": time.monotonic()})


def write_progress(connection: Connection, steps: list[dict[str, Any]]) -> None:
    """Keep the latest progress of running attempts: run_id, attempt, progress."""
    connection.execute(PROGRESS, {"steps": _json(steps)})


def _json(value: Any) -> str:
    # Postgres cannot hold a zero character in text: it is shown as the replacement character instead.
    encoded = _encode(value)
    if _ESCAPED_ZERO in encoded:  # the pattern tries every byte, which a large set without one should not pay for
        encoded = _ZERO.sub(rb"\1" + "\ufffd".encode(), encoded)
    return encoded.decode()


def _encode(value: Any) -> bytes:
    """Return any value as JSON: what JSON does not know is shown as text."""
    try:
        return orjson.dumps(value, default=_shown, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # half a surrogate pair, or a whole number beyond 64 bits: rare, and no reason to lose the rest
        return json.dumps(value, default=_shown, ensure_ascii=False, skipkeys=True).encode("utf-8", "replace")


def _shown(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - what cannot be printed is still something
        return f"<{type(value).__name__}>"


def cut(message: str, limit: int = ERROR_LIMIT) -> str:
    """Return the text, shortened in the middle when it is longer than the limit, and valid UTF-8."""
    clean = message.encode("utf-8", "replace").decode()
    if len(clean) <= limit:
        return clean
    half = limit // 2 - 20
    return f"{clean[:half]}\n… {len(clean) - 2 * half} characters left out …\n{clean[-half:]}"


def small(result: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the result as it is kept: a JSON object of at most 16 KiB."""
    if result is None:
        return None
    encoded = _encode(result)
    if len(encoded) > RESULT_LIMIT:
        return {"left_out": f"the result took {len(encoded)} bytes; {RESULT_LIMIT} are kept"}
    kept: dict[str, Any] = json.loads(encoded)
    return kept

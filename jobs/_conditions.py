"""What should not go on: one statement for each kind of alert, read from Postgres alone.

Each condition carries the limit that makes it worth waking somebody, and measures it on what happened, not on how often
it was looked at: a queue is unserved once no worker showed a sign of life there for a minute, whoever looks. A short
stumble is therefore over before it is found. What a person paused is not late; a pause that nobody ended is a finding
of its own.

The statements read by index and stop at a bound, because they are read every minute, also while there is trouble.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, TextClause, text
from sqlalchemy.orm import Session

from models import Kind

#: Seconds after which a fire came too late, or is missing.
LATE_FIRE = 300
#: Seconds that a late fire stays in the news.
NEWS = 3600
#: Seconds that the oldest due run of a queue may wait.
LATE_RUN = 300
#: Seconds without a sign of life from any worker of a queue.
UNSERVED = 60
#: Seconds since the last complete walk of a stream.
STALE = 2 * 3600
#: Seconds that a circuit may be open, and after the time of a probe from which on it is not called open any more: then
#: nothing needs the upstream.
SHUT = 300
#: Seconds that a pause without an end may last.
HELD = 24 * 3600
#: Runs of a queue, or dead runs, that are looked at.
MOST = 10_000

#: A job whose dead runs are told as drift.
LEDGER = "maintenance.check_ledger"


@dataclass(frozen=True)
class Finding:
    """Something that should not go on."""

    kind: Kind
    subject: str
    #: What is the case, and what to do about it.
    sentence: str


MISSED = text("""
    SELECT s.name, extract(epoch FROM now() - s.next_fire_at)::float8 AS overdue, m.fires, m.undone, m.newest
    FROM schedules s LEFT JOIN (
        SELECT schedule, count(*) AS fires, count(*) FILTER (WHERE outcome <> 'caught_up') AS undone,
               max(fire_at) AS newest
        FROM slots
        WHERE outcome IN ('caught_up', 'missed', 'refused') AND recorded_at > now() - make_interval(secs => :news)
          AND (outcome = 'refused' OR recorded_at - fire_at > make_interval(secs => :limit))
        GROUP BY schedule
    ) AS m ON m.schedule = s.name
    WHERE s.retired_at IS NULL
      AND (m.fires > 0 OR s.paused_at IS NULL AND s.next_fire_at < now() - make_interval(secs => :limit))
""")

_HELD_RUN = """
    EXISTS (SELECT 1 FROM pauses p WHERE p.paused_at IS NOT NULL
            AND p.job IN ('', w.job) AND p.key IN ('', coalesce(w.key, '')))
"""
# A run that waits for its turn behind another one of its key, or for room under the limit of its job, is not late: what
# holds it back is at work, and no worker would help.
_IN_TURN = """
    EXISTS (SELECT 1 FROM runs b WHERE b.job = w.job AND b.key = w.key
            AND (b.state IN ('queued', 'running') OR b.state = 'waiting' AND b.attempt > 0))
"""
_OLDEST = f"""
    (SELECT w.due_at FROM (
        SELECT job, key, due_at FROM runs
        WHERE state = 'waiting' AND key IS {{keyed}} AND queue = q.name AND priority = level
        ORDER BY due_at, id LIMIT :most) AS w
     WHERE NOT {_HELD_RUN} AND NOT {_IN_TURN} ORDER BY w.due_at LIMIT 1)
"""
_QUEUES = "SELECT unnest(CAST(:queues AS text[])) AS name UNION SELECT name FROM queues"
LATE = text(f"""
    WITH due AS (
        SELECT q.name, oldest.due_at FROM ({_QUEUES}) AS q
        CROSS JOIN generate_series(0, 3) AS level
        CROSS JOIN LATERAL ({_OLDEST.format(keyed="NULL")} UNION ALL {_OLDEST.format(keyed="NOT NULL")}) AS oldest
        UNION ALL
        SELECT w.queue, min(w.due_at) FROM (SELECT * FROM runs WHERE state = 'queued' LIMIT :most) AS w
        WHERE NOT {_HELD_RUN} GROUP BY w.queue
    ), waits AS (
        SELECT name, now() - greatest(min(due_at), (SELECT resumed_at FROM queues WHERE name = due.name)) AS span
        FROM due WHERE NOT EXISTS (SELECT 1 FROM queues WHERE name = due.name AND paused_at IS NOT NULL) GROUP BY name
    )
    SELECT name, extract(epoch FROM span)::float8 AS seconds FROM waits WHERE span > make_interval(secs => :limit)
""")

UNSERVED_QUEUES = text(f"""
    WITH wanted AS (
        SELECT unnest(CAST(:queues AS text[])) AS name UNION
        SELECT name FROM queues WHERE EXISTS (
            SELECT 1 FROM runs WHERE state = 'waiting' AND key IS NULL AND queue = queues.name
            UNION ALL SELECT 1 FROM runs WHERE state = 'waiting' AND key IS NOT NULL AND queue = queues.name)
    ), served AS (
        SELECT unnest(queues) AS name, max(heartbeat_at) AS last FROM processes WHERE kind = 'worker' GROUP BY 1
    ), looking AS (
        -- A queue that never had a worker is wanted since somebody runs the code that says so.
        SELECT max(p.started_at) AS since FROM runs r JOIN processes p ON p.id = r.process_id WHERE r.id = :run_id
    )
    SELECT name, last, (SELECT count(*) FROM (
        SELECT 1 FROM runs WHERE state = 'waiting' AND key IS NULL AND queue = name
        UNION ALL SELECT 1 FROM runs WHERE state = 'waiting' AND key IS NOT NULL AND queue = name LIMIT {MOST}
    ) AS waiting) AS waiting
    FROM wanted LEFT JOIN served USING (name) CROSS JOIN looking
    WHERE coalesce(last, since, '-infinity') < now() - make_interval(secs => :limit)
""")

STALE_STREAMS = text("""
    SELECT s.upstream, s.name, s.walked_at IS NOT NULL AS read, u.paused_by,
           extract(epoch FROM now() - coalesce(s.walked_at, r.created_at))::float8 AS seconds
    FROM streams s LEFT JOIN runs r ON r.id = s.run_id
    LEFT JOIN upstreams u ON u.name = s.upstream AND u.paused_at IS NOT NULL
    WHERE coalesce(s.walked_at, r.created_at) < now() - make_interval(secs => :limit)
""")

# What came and went by the hand of a person is no news; what alerts themselves left dead would go the way that failed.
DYING_JOBS = text("""
    SELECT job, count(*) AS dead, (array_agg(error ORDER BY finished_at DESC))[1] AS error
    FROM (SELECT job, error, finished_at FROM runs WHERE state = 'dead' ORDER BY id DESC LIMIT :most) AS newest
    WHERE finished_at > now() - make_interval(secs => :news) AND job <> :ledger AND job NOT LIKE 'alerts.%'
    GROUP BY job
""")

DRIFTS = text("""
    SELECT 'search index' AS name, finished_at, NULL AS error,
           coalesce((result ->> 'missing')::bigint, 0) + coalesce((result ->> 'stale')::bigint, 0)
           + coalesce((result ->> 'orphans')::bigint, 0) AS differing
    FROM (SELECT finished_at, result FROM runs
          WHERE job = 'search.verify' AND state = 'succeeded' ORDER BY id DESC LIMIT 1) AS verified
    UNION ALL
    SELECT 'stock ledger', finished_at, error, CASE state WHEN 'dead' THEN 1 ELSE 0 END
    FROM (SELECT finished_at, error, state FROM runs
          WHERE job = :ledger AND state IN ('succeeded', 'dead') ORDER BY id DESC LIMIT 1) AS added_up
    UNION ALL
    SELECT * FROM (
        -- A check may have been of one stream alone.
        SELECT DISTINCT ON (s.key) 'warehouse/' || s.key, finished_at, NULL::text,
               (s.value ->> 'missing')::bigint + (s.value ->> 'stale')::bigint + (s.value ->> 'orphans')::bigint
               - (s.value ->> 'repaired')::bigint
        FROM (SELECT id, finished_at, result FROM runs
              WHERE job = 'warehouse.verify' AND state = 'succeeded' ORDER BY id DESC LIMIT 10) AS compared,
             jsonb_each(result) AS s
        ORDER BY s.key, compared.id DESC
    ) AS streams
""")

SHUT_CIRCUITS = text("""
    SELECT name, circuit_error, extract(epoch FROM now() - circuit_opened_at)::float8 AS seconds
    FROM upstreams
    WHERE circuit_opened_at < now() - make_interval(secs => :limit)
      AND next_probe_at > now() - make_interval(secs => :limit)
""")

_HOLD = "SELECT '{noun}' AS noun, {name} AS name, paused_at, paused_by, reason FROM {table} WHERE {where}"
_FORGOTTEN = "paused_at < now() - make_interval(secs => :limit)"
HELD_THINGS = text(
    " UNION ALL ".join(
        _HOLD.format(noun=noun, name=name, table=table, where=f"{_FORGOTTEN} AND {more}")
        for noun, name, table, more in (
            ("queue", "name", "queues", "paused_until IS NULL"),
            ("job", "job", "pauses", "paused_until IS NULL AND key = ''"),
            ("key", "trim(job || ' ' || key)", "pauses", "paused_until IS NULL AND key <> ''"),
            ("upstream", "name", "upstreams", "true"),
            ("schedule", "name", "schedules", "paused_until IS NULL AND retired_at IS NULL"),
        )
    )
)


def look(session: Session, *, queues: Iterable[str], run_id: int) -> list[Finding]:
    """Return all that should not go on now.

    Args:
        session: The transaction.
        queues: Queues that jobs use.
        run_id: The run that looks.
    """
    known: dict[str, Any] = {
        "queues": sorted(set(queues)),
        "run_id": run_id,
        "ledger": LEDGER,
        "most": MOST,
        "news": NEWS,
    }
    found: list[Finding] = []
    for kind, statement, limit, tell in CONDITIONS:
        rows = session.execute(statement, known | {"limit": limit})
        found += [Finding(kind, *said) for row in rows if (said := tell(row)) is not None]
    return found


Told = tuple[str, str] | None


def _missed(row: Row[Any]) -> Told:
    if not row.fires:
        return row.name, (
            f"The schedule {row.name} should have fired {lasting(row.overdue)} ago and has not: look at the"
            f" scheduler's log, and see `headrace schedules slots {row.name}`."
        )
    became = f"{row.undone} of them made up for by nothing" if row.undone else "all made up for"
    return row.name, (
        f"{counted(row.fires, 'fire')} of {row.name} came more than {lasting(LATE_FIRE)} too late or could not run, the"
        f" last planned for {row.newest:%Y-%m-%d %H:%M:%S} UTC, {became}: see `headrace schedules slots {row.name}`."
    )


def _late(row: Row[Any]) -> Told:
    return row.name, (
        f"The oldest due run of the queue {row.name} waits for {lasting(row.seconds)}, limit {lasting(LATE_RUN)}: add"
        f" workers, or see `headrace runs list --queue {row.name} --state waiting`."
    )


def _unserved(row: Row[Any]) -> Told:
    since = f"since {row.last:%Y-%m-%d %H:%M:%S} UTC" if row.last else "and none ever did"
    return row.name, (
        f"No worker serves the queue {row.name} {since}, {counted(row.waiting, 'run')} there cannot go on: start"
        f" `python -m workers.worker --queues {row.name}`."
    )


def _stale(row: Row[Any]) -> Told:
    name = f"{row.upstream}/{row.name}"
    read = f"was last read {lasting(row.seconds)} ago" if row.read else "was never read to its end"
    held = f" ({row.paused_by} paused {row.upstream})" if row.paused_by else ""
    return name, (
        f"The stream {name} {read}, limit {lasting(STALE)}{held}: see `headrace streams show {name}` and whether"
        f" {row.upstream} answers."
    )


def _dying(row: Row[Any]) -> Told:
    return row.job, (
        f"{counted(row.dead, 'run')} of {row.job} died within the last {lasting(NEWS)} ({row.error or 'no error'}):"
        f" see `headrace runs list --state dead --job {row.job}`, repair the cause, then retry or discard."
    )


def _drift(row: Row[Any]) -> Told:
    if not row.differing:
        return None
    if row.error:
        return row.name, f"The check of the {row.name} did not end well: {row.error}; `headrace run {LEDGER} --wait`."
    if row.name.startswith("warehouse/"):
        return row.name, (
            f"The last check found {counted(row.differing, 'item')} of {row.name} not the same here and there: see"
            f" the log of its run, then `headrace streams repair {row.name}`."
        )
    return row.name, (
        f"The last check found {counted(row.differing, 'product')} not the same in Postgres and the search index:"
        " run `headrace search repair`, then `headrace search verify`."
    )


def _shut(row: Row[Any]) -> Told:
    why = (row.circuit_error or "no error").rstrip(".")
    return row.name, (
        f"The circuit of {row.name} is open for {lasting(row.seconds)}, limit {lasting(SHUT)} ({why}): what needs it"
        f" waits and goes on by itself; ask the people of {row.name}, see `headrace upstreams list`."
    )


def _held(row: Row[Any]) -> Told:
    why = f" ({row.reason})" if row.reason else ""
    subject = f"{row.noun} {row.name}"
    return subject, (
        f"{row.paused_by or 'Somebody'} paused the {subject} at {row.paused_at:%Y-%m-%d %H:%M} UTC{why} and nobody has"
        f" resumed it: `headrace {row.noun}s resume` lets it go on."
    )


#: What is looked for, with its limit in seconds, and how a row of it is told.
CONDITIONS: Sequence[tuple[Kind, TextClause, int | None, Callable[[Row[Any]], Told]]] = (
    (Kind.MISSED, MISSED, LATE_FIRE, _missed),
    (Kind.LATE, LATE, LATE_RUN, _late),
    (Kind.UNSERVED, UNSERVED_QUEUES, UNSERVED, _unserved),
    (Kind.STALE, STALE_STREAMS, STALE, _stale),
    (Kind.DYING, DYING_JOBS, None, _dying),
    (Kind.DRIFT, DRIFTS, None, _drift),
    (Kind.CIRCUIT, SHUT_CIRCUITS, SHUT, _shut),
    (Kind.HELD, HELD_THINGS, HELD, _held),
)


def lasting(seconds: float) -> str:
    """Say how long, in the largest unit of which there are at least two: `90 s`, `5 min`, `3 h`."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def counted(number: int, noun: str) -> str:
    """Say how many."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

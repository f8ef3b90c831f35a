"""Writing the runs of many fires: any jobs, one statement.

Ten thousand schedules may be due in the same second. Runs that could meet another one by their unique key are few, and
are written one by one, as everywhere.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from jobs._job import Job

INSERT = text("""
    WITH given AS (
        SELECT *, greatest(clock_timestamp(), due_at) AS first_due
        FROM jsonb_to_recordset(CAST(:fires AS jsonb)) AS f(
            place int, job text, queue text, priority int, key text, args jsonb, max_attempts int, due_at timestamptz,
            schedule text, slot_at timestamptz, expires float8, retry_for float8)
    )
    INSERT INTO runs (job, queue, priority, key, args, max_attempts, due_at, schedule, slot_at, expires_at, deadline_at)
    SELECT job, queue, priority, key, args, max_attempts, first_due, schedule, slot_at,
        first_due + expires * interval '1 second', first_due + retry_for * interval '1 second'
    FROM given ORDER BY place
    RETURNING schedule, slot_at, id
""")


class Fire(NamedTuple):
    """A planned fire that wants a run."""

    schedule: str
    moment: datetime
    job: Job[Any]
    #: As the job accepted them.
    args: dict[str, Any]
    #: When the run is due, if not at once.
    due_at: datetime | None = None


def enqueue_fires(connection: Connection, fires: Sequence[Fire]) -> dict[tuple[str, datetime], int]:
    """Write a run for each fire in the caller's transaction; return the runs by schedule and moment."""
    alone = [fire for fire in fires if fire.job.unique is not None]
    written = {(fire.schedule, fire.moment): _ordered(fire).insert(connection, fire.args) for fire in alone}
    together = [_values(place, fire) for place, fire in enumerate(fires) if fire.job.unique is None]
    if together:
        rows = connection.execute(INSERT, {"fires": json.dumps(together)})
        written |= {(row.schedule, row.slot_at): int(row.id) for row in rows}
    return written


def _ordered(fire: Fire) -> Job[Any]:
    return fire.job.options(slot=(fire.schedule, fire.moment), due_at=fire.due_at)


def _values(place: int, fire: Fire) -> dict[str, Any]:
    job = fire.job
    return {
        "place": place,
        "job": job.name,
        "queue": job.queue,
        "priority": int(job.priority),
        "key": job.key_of(fire.args),
        "args": fire.args,
        "max_attempts": job.max_attempts,
        "due_at": fire.due_at.isoformat() if fire.due_at else None,
        "schedule": fire.schedule,
        "slot_at": fire.moment.isoformat(),
        "expires": job.lifetime.expires,
        "retry_for": job.lifetime.retry_for,
    }

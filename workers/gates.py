"""What operators hold and limit: which queues, jobs and keys are open, and how far.

A pause is a row with who, why and perhaps until when. When its time is over the relay lifts it; whoever resumes may ask
for a ramp, and then the gate opens slowly: one run at a time at first, twice as many every tenth of the ramp, so that
the backlog of a pause does not hit an upstream at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

#: Doublings within one ramp.
DOUBLINGS = 10

QUEUES = text("""
    SELECT name, concurrency, extract(epoch FROM now() - resumed_at)::float8 AS since, ramp_seconds
    FROM queues WHERE paused_at IS NULL ORDER BY name
""")
PAUSES = text("""
    SELECT job, key, paused_at IS NOT NULL AS held, ramp_seconds,
        extract(epoch FROM now() - resumed_at)::float8 AS since
    FROM pauses
""")
KEYED = text("SELECT EXISTS (SELECT 1 FROM runs WHERE state = 'waiting' AND key IS NOT NULL)")
LIFT = [
    text(f"""
        WITH lifted AS (
            UPDATE {table} SET paused_at = NULL, paused_by = NULL, reason = NULL, paused_until = NULL,
                resumed_at = CASE WHEN ramp_seconds IS NOT NULL THEN now() END
            WHERE paused_at IS NOT NULL AND paused_until <= now() RETURNING {name} AS name
        )
        INSERT INTO audit (actor, action, target, count)
        SELECT 'the clock', '{table} resume', name, 1 FROM lifted
    """)
    for table, name in (("queues", "name"), ("pauses", "trim(job || ' ' || key)"))
]
OVER = "resumed_at + ramp_seconds * interval '1 second' <= now()"
SETTLE = [
    text(f"UPDATE queues SET resumed_at = NULL, ramp_seconds = NULL WHERE {OVER}"),
    text(f"DELETE FROM pauses WHERE paused_at IS NULL AND (resumed_at IS NULL OR {OVER})"),
]


@dataclass(frozen=True)
class Gates:
    """What is open now."""

    #: Open queues, with how many of their runs may be under way; None for no limit.
    queues: dict[str, int | None]
    #: What is held: jobs, keys of any job, and single keys of single jobs.
    jobs: Sequence[str]
    keys: Sequence[str]
    lanes: Sequence[tuple[str, str]]
    #: How many runs of a job and key may be under way while its ramp lasts; an empty name stands for all.
    ramps: dict[tuple[str, str], int]
    #: Whether any run waits that shares limits.
    keyed: bool

    @property
    def limited(self) -> list[str]:
        """Open queues that have a limit."""
        return [name for name, most in self.queues.items() if most is not None]


def read(connection: Connection) -> Gates:
    """Return what is open now."""
    queues = {row.name: _most(row.concurrency, row.since, row.ramp_seconds) for row in connection.execute(QUEUES)}
    pauses = connection.execute(PAUSES).all()
    held = [(row.job, row.key) for row in pauses if row.held]
    ramps = {
        (row.job, row.key): ramp(row.since, row.ramp_seconds) for row in pauses if row.ramp_seconds and not row.held
    }
    return Gates(
        queues,
        [job for job, key in held if not key],
        [key for job, key in held if not job],
        [(job, key) for job, key in held if job and key],
        ramps,
        bool(connection.execute(KEYED).scalar()),
    )


def lift(connection: Connection) -> None:
    """End the pauses whose time is over, and forget the ramps that have been climbed."""
    for statement in (*LIFT, *SETTLE):
        connection.execute(statement)


def ramp(since: float, seconds: int) -> int:
    """Return how many runs may be under way so many seconds after a resume with a ramp of that length."""
    return math.floor(2 ** (DOUBLINGS * min(1.0, max(0.0, since) / seconds)))


def _most(concurrency: int | None, since: float | None, seconds: int | None) -> int | None:
    if since is None or not seconds:
        return concurrency
    return min(ramp(since, seconds), concurrency or math.inf)  # type: ignore[return-value]

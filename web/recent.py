"""What moved lately: the newest stock movements, the pace of attempts, and the runs that died.

Only the pages ask for these. Like the census, each is one query that stops at a bound.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from workers.census import CAP

#: Minutes that the pace covers.
MINUTES = 60


@dataclass(frozen=True, slots=True)
class MovementView:
    """One change of stock, as a shopkeeper would tell it."""

    id: int
    occurred_at: datetime
    sku: str
    product: str
    location: str
    kind: str
    delta: int
    quantity_after: int


@dataclass(frozen=True, slots=True)
class MinuteView:
    """Attempts that ended within one minute."""

    minute: datetime
    succeeded: int
    #: Failures, time-outs and lost workers; a snooze or a shutdown is none.
    failed: int


@dataclass(frozen=True, slots=True)
class DeadView:
    """The runs that died within the last 24 hours."""

    count: int
    #: The newest of them.
    job: str | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class RetryingView:
    """Runs of one job that failed at least twice and wait to try again."""

    job: str
    count: int
    #: When the oldest of them was enqueued, and what the newest failure said.
    since: datetime
    error: str | None


RETRYING = text("""
    SELECT job, count(*) AS count, min(created_at) AS since, (array_agg(error ORDER BY due_at DESC))[1] AS error
    FROM (SELECT job, created_at, error, due_at FROM runs
          WHERE state IN ('waiting', 'queued') AND failures >= 2 LIMIT :cap) AS failing
    GROUP BY job ORDER BY count(*) DESC, job LIMIT 10
""")

MOVEMENTS = text("""
    SELECT m.id, m.occurred_at, p.sku, p.name AS product, l.name AS location, m.kind, m.delta, m.quantity_after
    FROM (SELECT * FROM stock_movements ORDER BY id DESC LIMIT :limit) AS m
    JOIN stock_levels s ON s.id = m.level_id
    JOIN products p ON p.id = s.product_id
    JOIN locations l ON l.id = s.location_id
    ORDER BY m.id DESC
""")

PACE = text("""
    WITH ended AS (
        SELECT date_trunc('minute', finished_at) AS minute, outcome FROM attempts
        WHERE finished_at > now() - make_interval(mins => :minutes) ORDER BY finished_at DESC LIMIT :cap
    )
    SELECT minute,
           count(outcome) FILTER (WHERE outcome = 'succeeded') AS succeeded,
           count(outcome) FILTER (WHERE outcome IN ('failed', 'timed_out', 'lost')) AS failed
    FROM generate_series(date_trunc('minute', now()) - make_interval(mins => :minutes - 1),
                         date_trunc('minute', now()), interval '1 minute') AS minute
    LEFT JOIN ended USING (minute)
    GROUP BY minute ORDER BY minute
""")

DEAD = text("""
    SELECT count(*) AS count, (array_agg(job ORDER BY finished_at DESC))[1] AS job, max(finished_at) AS finished_at
    FROM (SELECT job, finished_at FROM runs WHERE state = 'dead' ORDER BY id DESC LIMIT :cap) AS newest
    WHERE finished_at > now() - interval '24 hours'
""")


def movements(connection: Connection, limit: int = 12) -> list[MovementView]:
    """Return the newest stock movements, newest first."""
    return [MovementView(**row) for row in connection.execute(MOVEMENTS, {"limit": limit}).mappings()]


def pace(connection: Connection) -> list[MinuteView]:
    """Return the last `MINUTES` minutes, oldest first; the newest `CAP` attempts are counted."""
    values = {"minutes": MINUTES, "cap": CAP}
    return [MinuteView(**row) for row in connection.execute(PACE, values).mappings()]


def dead(connection: Connection) -> DeadView:
    """Return what died within the last 24 hours, among the newest `CAP` dead runs."""
    return DeadView(**connection.execute(DEAD, {"cap": CAP}).mappings().one())


def retrying(connection: Connection) -> list[RetryingView]:
    """Return the jobs whose runs keep failing, most first."""
    return [RetryingView(**row) for row in connection.execute(RETRYING, {"cap": CAP}).mappings()]

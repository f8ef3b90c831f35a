"""Running dead runs again with care: some first, then so many a second, and an end when too many fail again.

A redrive is a row that an operator wrote; the runs it took stay dead. At every rescue a relay looks at the open
redrives and takes each a step further, in one transaction that holds its row: it counts what the moved runs came to,
judges whether to stop, and moves the next ones, their `due_at` spread by the rate. So it does not matter who dies: the
operator's terminal only watches, and the next step is done by whichever relay lives. Without one nothing is moved, and
nothing is delivered either.

A run that was moved keeps its old error until it starts. When a redrive stops, those that have not started are put
back: dead as before, with that error. The first attempt is the verdict: a run that fails again goes on by the rules
of its job, which may take hours, and nobody should have to wait that long to learn that the cause was not repaired.
"""

import math
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

#: Runs that are moved and have no verdict yet, at most.
WINDOW = 5_000
#: Seconds for which runs are moved ahead under a rate; more than lies between two steps.
AHEAD = 5.0
#: Tried runs below which a share says little: it is reckoned as if so many had been tried.
SAMPLE = 20

OPEN = text("SELECT id FROM redrives WHERE ended_at IS NULL ORDER BY id")

LOCK = text("SELECT id FROM redrives WHERE id = :id AND ended_at IS NULL FOR UPDATE SKIP LOCKED")

SETTLE = text("""
    WITH judged AS (
        SELECT m.run_id, CASE
            WHEN r.id IS NULL OR r.state = 'cancelled' OR (r.state = 'dead' AND r.attempt = m.attempt) THEN 'gone'
            WHEN r.state = 'succeeded' THEN 'succeeded'
            WHEN r.attempt > m.attempt AND (r.state = 'dead' OR r.failures > 0) THEN 'failed' END AS fate
        FROM redriven m LEFT JOIN runs r ON r.id = m.run_id
        WHERE m.redrive_id = :id AND m.fate IS NULL AND m.moved_at IS NOT NULL
    ), settled AS (
        UPDATE redriven m SET fate = j.fate FROM judged j
        WHERE m.redrive_id = :id AND m.run_id = j.run_id AND j.fate IS NOT NULL
        RETURNING m.fate
    ), found AS (
        SELECT count(*) FILTER (WHERE fate = 'succeeded') AS succeeded,
            count(*) FILTER (WHERE fate = 'failed') AS failed, count(*) FILTER (WHERE fate = 'gone') AS gone
        FROM settled
    )
    UPDATE redrives d
    SET succeeded = d.succeeded + f.succeeded, failed = d.failed + f.failed, gone = d.gone + f.gone
    FROM found f WHERE d.id = :id
    RETURNING d.total, d.moved, d.succeeded, d.failed, d.gone, d.canary, d.rate, d.stop_at,
        d.stopped_at IS NOT NULL AS stopped,
        greatest(extract(epoch FROM d.next_due_at - now()), 0)::float8 AS ahead
""")

STOP = text("UPDATE redrives SET stopped_at = now(), why = :why WHERE id = :id AND stopped_at IS NULL RETURNING id")

PUT_BACK = text("""
    WITH unstarted AS (
        SELECT r.id, m.failures, m.deaths, m.finished_at
        FROM redriven m JOIN runs r ON r.id = m.run_id
        WHERE m.redrive_id = :id AND m.fate IS NULL AND m.moved_at IS NOT NULL
            AND r.state IN ('waiting', 'queued') AND r.attempt = m.attempt
        ORDER BY r.id FOR UPDATE OF r
    ), returned AS (
        UPDATE runs r
        SET state = 'dead', failures = u.failures, deaths = u.deaths, finished_at = u.finished_at, queued_at = NULL
        FROM unstarted u WHERE r.id = u.id
        RETURNING r.id
    ), kept AS (
        UPDATE redriven m SET fate = 'kept'
        WHERE m.redrive_id = :id AND m.fate IS NULL
            AND (m.moved_at IS NULL OR m.run_id IN (SELECT id FROM returned))
        RETURNING m.moved_at
    )
    UPDATE redrives SET kept = kept + (SELECT count(*) FROM kept), moved = moved - (SELECT count(moved_at) FROM kept)
    WHERE id = :id
""")

# `next` and what is dead of it: a run that somebody moved by hand meanwhile is passed over.
RELEASE = text("""
    WITH next AS (
        SELECT run_id FROM redriven WHERE redrive_id = :id AND fate IS NULL AND moved_at IS NULL
        ORDER BY run_id LIMIT :room
    ), dead AS (
        SELECT r.id, r.attempt, r.failures, r.deaths, r.finished_at FROM runs r
        WHERE r.id IN (SELECT run_id FROM next) AND r.state = 'dead' ORDER BY r.id FOR UPDATE
    ), placed AS (
        SELECT *, now() + (:ahead + :gap * (row_number() OVER (ORDER BY id) - 1)) * interval '1 second' AS due_at
        FROM dead
    ), moved AS (
        UPDATE runs r
        SET state = 'waiting', failures = 0, deaths = 0, pushes = 0, due_at = p.due_at, queued_at = NULL,
            finished_at = NULL, cancel_requested_at = NULL, progress = NULL, result = NULL,
            checkpoint = NULL, expires_at = NULL, deadline_at = NULL
        FROM placed p WHERE r.id = p.id
    ), noted AS (
        UPDATE redriven m
        SET moved_at = CASE WHEN p.id IS NOT NULL THEN now() END,
            fate = CASE WHEN p.id IS NULL THEN 'passed' END,
            attempt = p.attempt, failures = p.failures, deaths = p.deaths, finished_at = p.finished_at
        FROM next n LEFT JOIN placed p ON p.id = n.run_id
        WHERE m.redrive_id = :id AND m.run_id = n.run_id
        RETURNING m.moved_at
    ), found AS (SELECT count(moved_at) AS moved, count(*) - count(moved_at) AS passed FROM noted)
    UPDATE redrives d
    SET moved = d.moved + f.moved, passed = d.passed + f.passed,
        next_due_at = now() + (:ahead + :gap * f.moved) * interval '1 second'
    FROM found f WHERE d.id = :id
""")

END = text("""
    UPDATE redrives SET ended_at = now(), why = coalesce(why, 'every run was tried')
    WHERE id = :id AND total = succeeded + failed + gone + passed + kept
""")


@dataclass(frozen=True)
class Standing:
    """How a redrive stands: its limits and what has come of it."""

    total: int
    moved: int
    succeeded: int
    failed: int
    gone: int
    canary: int | None
    rate: float | None
    stop_at: int
    stopped: bool
    #: Seconds until the next run may become due.
    ahead: float

    @property
    def open(self) -> int:
        """Runs that were moved and have no verdict yet."""
        return self.moved - self.succeeded - self.failed - self.gone

    @property
    def trying(self) -> bool:
        """Whether the canary is still out."""
        return self.canary is not None and (self.moved < self.canary or (self.moved == self.canary and self.open > 0))


def judge(now: Standing) -> str | None:
    """Return why it must stop, or None."""
    tried = now.succeeded + now.failed
    alone = now.canary is not None and now.moved <= now.canary
    sample = min(now.canary if alone and now.canary else SAMPLE, now.total)
    if now.failed * 100 <= now.stop_at * max(tried, sample):
        return None
    return f"{now.failed} of {tried} tried runs failed again, more than {now.stop_at} % allow"


def room(now: Standing) -> int:
    """Return how many runs may be moved now."""
    free = max(WINDOW - now.open, 0)
    if now.trying and now.canary is not None:
        free = min(free, now.canary - now.moved)
    if now.rate is None:
        return free
    return min(free, max(math.ceil((AHEAD - now.ahead) * now.rate), 0))


def advance(engine: Engine) -> None:
    """Take every open redrive one step further."""
    with engine.begin() as connection:
        ids = list(connection.execute(OPEN).scalars())
    for number in ids:
        with engine.begin() as connection:
            if connection.execute(LOCK, {"id": number}).scalar() is not None:
                step(connection, number)


def step(connection: Connection, number: int) -> None:
    """Count, judge, move; the caller holds the redrive's row."""
    now = Standing(*connection.execute(SETTLE, {"id": number}).one())
    why = None if now.stopped else judge(now)
    if why is not None:
        connection.execute(STOP, {"id": number, "why": why})
    if why is not None or now.stopped:
        connection.execute(PUT_BACK, {"id": number})
    elif free := room(now):
        gap = 1 / now.rate if now.rate else 0.0
        connection.execute(RELEASE, {"id": number, "room": free, "ahead": now.ahead, "gap": gap})
    connection.execute(END, {"id": number})


def stop(connection: Connection, number: int, why: str) -> bool:
    """Stop a redrive by hand and put back what has not started; return False if it has stopped or ended before."""
    held = text("SELECT id FROM redrives WHERE id = :id AND ended_at IS NULL FOR UPDATE")
    if connection.execute(held, {"id": number}).scalar() is None:
        return False
    stopped = connection.execute(STOP, {"id": number, "why": why}).scalar() is not None
    step(connection, number)
    return stopped

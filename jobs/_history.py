"""Old runs are forgotten: page by page from the oldest, each page in a short transaction of its own.

No index is kept for this, because every run would pay for it. Ids grow with time, so the walk follows them from the
beginning, reads a page, removes what is old enough, and ends at the first page on which everything is young. What it
reads in vain is what stays: dead runs, and cancelled ones of the last months. Attempts and log lines go with their run.
The size of a page follows the clock: a run with a thousand log lines weighs more than one with none.
"""

import time

from sqlalchemy import text

from jobs._context import Context

#: Runs on the first page and on the largest, and seconds that one page should take at most.
FIRST = 500
LARGEST = 5_000
SECONDS = 0.5

# A run that was discarded is as old as its discarding. What somebody is moving right now is left for the next night.
PAGE = text("""
    WITH page AS (
        SELECT id, created_at FROM runs WHERE id > :after ORDER BY id LIMIT :size
    ), old AS (
        SELECT r.id FROM runs r
        WHERE r.id IN (SELECT id FROM page) AND (
            r.state = 'succeeded' AND r.finished_at < now() - :succeeded * interval '1 day'
            OR r.state = 'cancelled'
                AND coalesce(r.discarded_at, r.finished_at) < now() - :cancelled * interval '1 day')
        ORDER BY r.id FOR UPDATE SKIP LOCKED
    ), gone AS (DELETE FROM runs WHERE id IN (SELECT id FROM old) RETURNING id)
    SELECT max(id), (SELECT count(*) FROM gone),
        coalesce(bool_and(created_at > now() - least(:succeeded, :cancelled) * interval '1 day'), true)
    FROM page
""")


def forget_runs(context: Context, *, succeeded: int, cancelled: int) -> int:
    """Remove runs that succeeded or were cancelled so many days ago; return how many."""
    after, size, removed, young = 0, FIRST, 0, False
    while not young:
        context.check()
        began = time.monotonic()
        values = {"after": after, "size": size, "succeeded": succeeded, "cancelled": cancelled}
        with context.transaction() as session:
            last, gone, young = session.execute(PAGE, values).one()
        after, removed = last or after, removed + gone
        size = next_size(size, time.monotonic() - began)
        context.progress(done=removed, note=f"runs, up to {after}")
    return removed


def next_size(size: int, seconds: float) -> int:
    """Return how many runs the next page has: half after a slow one, twice as many after a quick one."""
    if seconds > SECONDS:
        return max(size // 2, 1)
    return min(size * 2, LARGEST) if seconds < SECONDS / 4 else size

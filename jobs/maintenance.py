"""The house is kept: the ledger is added up every day, and what nobody will ask for again is thrown away.

Nothing that failed is ever thrown away, canaries aside. Dead runs stay until a person deals with them, and so do their
webhooks, because "run again" needs the bytes. Runs are thrown away in `jobs/_history.py`.
"""

from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import TextClause, text

from jobs import Context, cron, job
from jobs._canary import PREFIX
from jobs._history import forget_runs

#: Rows removed in one transaction.
TOGETHER = 5_000
#: Levels named in the error of a ledger that does not add up.
NAMED = 5

# One statement sees one moment, so movements written meanwhile cannot look like a difference.
LEDGER = text("""
    WITH ledger AS (SELECT level_id, sum(delta) AS total FROM stock_movements GROUP BY level_id),
    wrong AS (
        SELECT l.id, l.source_id, l.on_hand, coalesce(m.total, 0) AS total
        FROM stock_levels l LEFT JOIN ledger m ON m.level_id = l.id WHERE l.on_hand <> coalesce(m.total, 0)
    )
    SELECT (SELECT count(*) FROM stock_levels), (SELECT count(*) FROM wrong),
           (SELECT string_agg(source_id || ' (' || on_hand || ' on hand, ' || total || ' by its movements)', ', ')
            FROM (SELECT * FROM wrong ORDER BY id LIMIT :named) AS first_few)
""")

EXPIRED = {
    "processes": text("""
        DELETE FROM processes WHERE id IN (
            SELECT id FROM processes WHERE stopped_at < now() - :days * interval '1 day' ORDER BY id LIMIT :together)
    """),
    "slots": text("""
        DELETE FROM slots WHERE id IN (
            SELECT s.id FROM slots s
            WHERE s.recorded_at < now() - :days * interval '1 day'
              AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = s.run_id AND r.finished_at IS NULL)
            ORDER BY s.id LIMIT :together)
    """),
    "canaries": text(f"""
        DELETE FROM runs WHERE id IN (
            SELECT r.id FROM schedules c JOIN runs r ON r.job = c.name
            WHERE starts_with(c.name, '{PREFIX}') AND r.finished_at < now() - :days * interval '1 day'
            ORDER BY r.id LIMIT :together FOR UPDATE OF r SKIP LOCKED)
    """),
    "canary_slots": text(f"""
        DELETE FROM slots WHERE id IN (
            SELECT s.id FROM schedules c JOIN slots s ON s.schedule = c.name
            WHERE starts_with(c.name, '{PREFIX}') AND s.recorded_at < now() - :days * interval '1 day'
              AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = s.run_id AND r.finished_at IS NULL)
            ORDER BY s.id LIMIT :together)
    """),
    "events": text("""
        DELETE FROM events WHERE id IN (
            SELECT e.id FROM events e
            WHERE e.received_at < now() - :days * interval '1 day'
              AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = e.run_id)
            ORDER BY e.id LIMIT :together)
    """),
    "rejected": text("""
        DELETE FROM events WHERE id IN (
            SELECT id FROM events
            WHERE verdict = 'rejected' AND received_at < now() - :days * interval '1 day'
            ORDER BY received_at LIMIT :together)
    """),
    "batches": text("""
        DELETE FROM batches WHERE id IN (
            SELECT b.id FROM batches b
            WHERE b.finished_at < now() - :days * interval '1 day'
              AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.batch_id = b.id)
            ORDER BY b.id LIMIT :together)
    """),
    "alerts": text("""
        DELETE FROM alerts WHERE id IN (
            SELECT id FROM alerts WHERE resolved_at < now() - :days * interval '1 day' ORDER BY id LIMIT :together)
    """),
    "silences": text("""
        DELETE FROM silences WHERE (kind, subject) IN (
            SELECT kind, subject FROM silences WHERE until < now() - :days * interval '1 day' LIMIT :together)
    """),
    "sign_ins": text("""
        DELETE FROM sign_ins WHERE digest IN (
            SELECT digest FROM sign_ins WHERE expires_at < now() - :days * interval '1 day' LIMIT :together)
    """),
    "wrong_passwords": text("""
        DELETE FROM wrong_passwords WHERE (name, address) IN (
            SELECT name, address FROM wrong_passwords WHERE since < now() - :days * interval '1 day' LIMIT :together)
    """),
    # Uploads that broke off and were not given again; what a run was asked for stays, whatever became of it.
    "stock_files": text("""
        DELETE FROM stock_files WHERE id IN (
            SELECT f.id FROM stock_files f
            WHERE f.finished_at IS NULL AND f.lines = 0 AND f.counted_at < now() - :days * interval '1 day'
              AND NOT EXISTS (SELECT 1 FROM runs r
                              WHERE r.job = 'imports.stock' AND r.args ->> 'file_id' = CAST(f.id AS text))
            ORDER BY f.id LIMIT :together)
    """),
    "redrives": text("""
        DELETE FROM redrives WHERE id IN (
            SELECT id FROM redrives WHERE ended_at < now() - :days * interval '1 day' ORDER BY id LIMIT 10)
    """),
}
#: An age in days.
Days = Annotated[int, Field(ge=1, le=36_500)]


class LedgerWrong(Exception):  # noqa: N818 - says what is the case
    """The movements of some levels do not add up to what is on hand."""


@job(queue="maintenance", max_attempts=2, time_limit=1_800, schedule=cron("10 4 * * *"))
def check_ledger(context: Context) -> dict[str, Any]:
    """Add up the movements of every level and compare with its `on_hand`.

    Raises:
        LedgerWrong: They differ somewhere.
    """
    with context.transaction() as session:
        levels, wrong, first_few = session.execute(LEDGER, {"named": NAMED}).one()
    if wrong:
        raise LedgerWrong(
            f"the movements of {wrong} of {levels} levels do not add up to what is on hand: {first_few};"
            " somebody wrote past the ledger: find the writer, then correct with a movement"
        )
    return {"levels": levels, "wrong": 0}


@job(queue="maintenance", time_limit=3_600, schedule=cron("40 4 * * *"))
def prune(
    context: Context,
    *,
    succeeded: Days = 30,
    cancelled: Days = 90,
    processes: Days = 7,
    slots: Days = 90,
    events: Days = 90,
    rejected: Days = 7,
    batches: Days = 90,
    redrives: Days = 90,
    alerts: Days = 90,
    canaries: Days = 2,
) -> dict[str, Any]:
    """Remove what ended so many days ago: runs that succeeded or were cancelled, and what is kept beside them.

    Dead runs are never removed, except canaries: of those nothing is kept for long. A pruning that was interrupted
    begins again and finds only what is left.
    """
    ages = {"processes": processes, "slots": slots, "events": events, "batches": batches, "redrives": redrives}
    ages |= {"alerts": alerts, "silences": alerts, "rejected": rejected}
    ages |= {"canaries": canaries, "canary_slots": canaries}
    ages |= {"stock_files": 7}
    ages |= {"sign_ins": 1, "wrong_passwords": 1}  # they mean nothing any more after minutes or hours
    removed = {"runs": forget_runs(context, succeeded=succeeded, cancelled=cancelled)}
    return removed | {table: _remove(context, table, EXPIRED[table], days) for table, days in ages.items()}


def _remove(context: Context, table: str, statement: TextClause, days: int) -> int:
    removed, batch = 0, {"together": TOGETHER, "days": days}
    while True:
        context.check()
        with context.transaction() as session:
            count = len(session.execute(text(f"{statement.text} RETURNING 1"), batch).all())
        removed += count
        context.progress(done=removed, note=table)
        if not count:
            return removed

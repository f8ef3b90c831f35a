"""The house is kept: the ledger is added up every day, and what nobody will ask for again is thrown away.

Nothing that failed is ever thrown away. Dead runs stay until a person deals with them, and so do their webhooks,
because "run again" needs the bytes.
"""

from typing import Any

from sqlalchemy import TextClause, text

from jobs import Context, cron, job

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
    "runs": text("""
        DELETE FROM runs WHERE id IN (
            SELECT id FROM runs WHERE state = 'succeeded' AND finished_at < now() - interval '30 days'
            ORDER BY id LIMIT :together)
    """),
    "processes": text("""
        DELETE FROM processes WHERE id IN (
            SELECT id FROM processes WHERE stopped_at < now() - interval '7 days' ORDER BY id LIMIT :together)
    """),
    "slots": text("""
        DELETE FROM slots WHERE id IN (
            SELECT s.id FROM slots s
            WHERE s.recorded_at < now() - interval '90 days'
              AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = s.run_id AND r.finished_at IS NULL)
            ORDER BY s.id LIMIT :together)
    """),
    "events": text("""
        DELETE FROM events WHERE id IN (
            SELECT e.id FROM events e
            WHERE e.received_at < now() - interval '90 days'
              AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = e.run_id)
            ORDER BY e.id LIMIT :together)
    """),
}


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
def prune(context: Context) -> dict[str, Any]:
    """Remove succeeded runs after 30 days, stopped processes after 7, slots and events after 90."""
    return {table: _remove(context, table, statement) for table, statement in EXPIRED.items()}


def _remove(context: Context, table: str, statement: TextClause) -> int:
    removed = 0
    while True:
        context.check()
        with context.transaction() as session:
            count = len(session.execute(text(f"{statement.text} RETURNING 1"), {"together": TOGETHER}).all())
        removed += count
        context.progress(done=removed, note=table)
        if count < TOGETHER:
            return removed

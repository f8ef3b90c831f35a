"""The sweep: what becomes of items that a complete walk through everything did not meet.

An upstream should leave a tombstone; some forget. So each full walk notes whom it met, and who is missing twice in a
row is taken for gone. Once is not enough, because lists have holes; an upstream that can be asked by id is asked about
who is missing, and its word is enough. And when very many are missing at once it is more likely that the list is broken
than that the shop closed: then nothing is removed, and the number waits on the stream for a person to look.
"""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from jobs._context import Context
from jobs._signals import Cancel
from jobs._stock import BY_FILE
from models import Stream

#: Full walks in a row that must miss an item.
MISSES = 2
#: Share of the live rows above which deletions are held.
HELD_SHARE = 0.1

NAMELESS_SEEN = text("""
    SELECT count(*) FROM quarantine q JOIN sightings s ON s.stream_id = q.stream_id AND s.source_id = q.fingerprint
    WHERE q.stream_id = :stream_id AND q.external_id IS NULL AND q.resolved_at IS NULL
""")
# A nameless item that no longer comes has a name by now, or is gone.
CLOSE_NAMELESS = text("""
    UPDATE quarantine q SET resolved_at = now()
    WHERE q.stream_id = :stream_id AND q.external_id IS NULL AND q.resolved_at IS NULL
      AND NOT EXISTS (SELECT 1 FROM sightings s WHERE s.stream_id = q.stream_id AND s.source_id = q.fingerprint)
""")
# Two upstreams share the table of levels, and each speaks for its own locations only. What a file brought was never on
# anybody's list, so nobody's list can miss it.
SCOPE = {
    "products": "true",
    "stock_levels": f"""
        location_id IN (SELECT id FROM locations WHERE upstream = :upstream) AND NOT starts_with(source_id, '{BY_FILE}')
    """,
}
MET = """EXISTS (SELECT 1 FROM sightings s WHERE s.stream_id = :stream_id AND s.source_id = t.source_id)"""
FORGIVE = f"UPDATE {{table}} t SET misses = 0 WHERE misses > 0 AND {MET}"
# What changed after the walk began may have passed behind its back.
MISS = f"""
    UPDATE {{table}} t SET misses = least(misses + 1, 1000)
    WHERE deleted_at IS NULL AND source_updated_at <= :started AND NOT {MET} AND {{scope}}
"""
TALLY = """
    SELECT count(*) FILTER (WHERE misses >= :misses), count(*),
           :sighted OR EXISTS (SELECT 1 FROM sightings WHERE stream_id = :stream_id)
    FROM {table} WHERE deleted_at IS NULL AND {scope}
"""
GONE = """
    SELECT id FROM {table} WHERE deleted_at IS NULL AND misses >= :misses AND {scope}
    ORDER BY source_id FOR NO KEY UPDATE
"""
SUSPECTS = """
    SELECT source_id FROM {table} WHERE deleted_at IS NULL AND misses > 0 AND {scope} ORDER BY source_id LIMIT :most
"""
JUDGED = """
    UPDATE {table} SET misses = CASE WHEN source_id = ANY(CAST(:gone AS text[])) THEN :misses ELSE 0 END
    WHERE deleted_at IS NULL AND source_id = ANY(CAST(:asked AS text[])) AND misses > 0
"""
REMOVE = {
    "products": f"""
        UPDATE products SET deleted_at = now(), updated_at = now(), misses = 0
        WHERE id IN ({GONE.format(table="products", scope=SCOPE["products"])}) RETURNING id
    """,
    "stock_levels": f"""
        WITH gone AS (
            UPDATE stock_levels SET deleted_at = now(), updated_at = now(), misses = 0, version = version + 1,
                                    on_hand = 0, source_reserved = 0, incoming = 0
            WHERE id IN ({GONE.format(table="stock_levels", scope=SCOPE["stock_levels"])})
            RETURNING new.id, old.on_hand AS was, new.version
        ), moved AS (
            INSERT INTO stock_movements (level_id, delta, kind, quantity_after, reason, source_ref, occurred_at, run_id)
            SELECT id, -was, 'removal', 0, CAST(:reason AS text), 'missing ' || version, now(), :run_id
            FROM gone WHERE was <> 0
        ) SELECT id FROM gone
    """,
}


def sweep(session: Session, stream: Stream, table: str, started: datetime, context: Context) -> int:
    """Remove what has been missing long enough, or hold it for a person; return the number of rows removed.

    Args:
        session: The transaction of the walk's last page.
        stream: The stream whose full walk is complete.
        table: The table it fills.
        started: When the walk began, by the upstream's clock.
        context: Told what was held.
    """
    values = _values(stream, context, f"missing from {MISSES} full walks") | {"started": started}
    nameless = int(session.scalar(NAMELESS_SEEN, values) or 0)
    session.execute(CLOSE_NAMELESS, values)
    session.execute(scoped(FORGIVE, table), values)
    removed = 0
    if nameless:
        # Any of them may be the very item that seems to be missing.
        context.log(f"{stream.name}: {nameless} items came without an id, so nothing counts as missing this time")
    else:
        session.execute(scoped(MISS, table), values)
        removed = _remove(session, stream, table, values, context)
    session.execute(text("DELETE FROM sightings WHERE stream_id = :stream_id"), values)
    return removed


def suspects(session: Session, stream: Stream, table: str, most: int) -> list[str]:
    """List ids that the last full walk missed, for an upstream that can be asked about each."""
    return list(session.scalars(scoped(SUSPECTS, table), {"upstream": stream.upstream, "most": most}))


def judge(session: Session, stream: Stream, table: str, gone: Mapping[str, bool], context: Context) -> int:
    """Forgive those that are still there, remove those that are gone; the same share as after a walk is held."""
    values = _values(stream, context, "the upstream says that it is gone")
    lost = [one for one, is_gone in gone.items() if is_gone]
    session.execute(scoped(JUDGED, table), values | {"asked": list(gone), "gone": lost})
    return _remove(session, stream, table, values | {"sighted": True}, context) if lost else 0


def _values(stream: Stream, context: Context, reason: str) -> dict[str, object]:
    own = {"stream_id": stream.id, "upstream": stream.upstream, "run_id": context.run_id, "reason": reason}
    return own | {"misses": MISSES, "sighted": False}


def scoped(statement: str, table: str) -> TextClause:
    """Return a statement about the rows of a table that one upstream speaks for."""
    return text(statement.format(table=table, scope=SCOPE[table]))


def remove_approved(session: Session, stream_id: int, table: str, most: int, context: Context) -> int:
    """Remove what is held, if it is no more than was approved; return the number of rows removed.

    Raises:
        Cancel: Another walk found more missing since, or nothing is held any more.
    """
    stream = session.get_one(Stream, stream_id, with_for_update={"key_share": True})
    values = _values(stream, context, f"missing from {MISSES} full walks")
    missing = session.execute(scoped(TALLY, table), values).one()[0]
    if not stream.held_deletions or missing > most:
        raise Cancel(f"{most} deletions were approved and {missing} are due by now: look at the stream, approve again")
    stream.held_deletions = 0
    return len(session.execute(text(REMOVE[table]), values).all())


def _remove(session: Session, stream: Stream, table: str, values: dict[str, object], context: Context) -> int:
    missing, live, met = session.execute(scoped(TALLY, table), values).one()
    stream.held_deletions = missing if missing > live * HELD_SHARE or not met else 0
    if stream.held_deletions:
        context.log(
            f"{stream.name}: {missing} of {live} items are missing upstream, too many to believe: none was removed,"
            " look at the upstream's list, then `headrace streams approve` if it is right"
        )
        return 0
    return len(session.execute(text(REMOVE[table]), values).all()) if missing else 0

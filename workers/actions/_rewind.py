"""Rewinding a stream: the next sync reads again what the upstream changed since an earlier moment.

Reading twice is harmless, because only newer states are written. A walk under way is ended by the rewind, for it would
set the mark forward again at its end: the fencing number grows, and its next page is refused.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, null, select, text, update

from integrations.warehouse import LARGEST_PAGE
from jobs._walk import OVERLAP
from models import Stream, StreamMove
from workers.actions._audit import Refused, record, require_known

#: The unfinished walk, and what would let the upstream answer that nothing changed.
_WALK = (
    "walk_full",
    "walk_since",
    "walk_cursor",
    "walk_started",
    "walk_max_seen",
    "etag",
    "etag_since",
)


#: Rows of what a stream fills, by the stream's name.
COUNT = {
    table: text(
        f"SELECT count(*) FROM {table} WHERE source_updated_at >= coalesce(CAST(:since AS timestamptz), '-infinity')"
    )
    for table in ("products", "stock_levels")
}
PACE = text("""
    SELECT avg(milliseconds) / 1000 FROM calls c JOIN streams s ON s.run_id = c.run_id
    WHERE s.id = :id AND c.upstream = :upstream AND c.method = 'GET' AND c.milliseconds IS NOT NULL
""")


@dataclass(frozen=True)
class Mark:
    """A stream and how far it was read."""

    id: int
    name: str
    high_water: datetime | None


@dataclass(frozen=True)
class Estimate:
    """What reading again takes."""

    rows: int
    calls: int
    #: By the calls of the stream's last walk; None if it made none that are kept.
    seconds: float | None


def find_stream(connection: Connection, name: str) -> Mark:
    """Return a stream by `upstream/name`, or by its name where only one upstream has it, locked for the transaction.

    Raises:
        Refused: If there is none, or more than one.
    """
    rows = connection.execute(select(Stream.id, Stream.upstream, Stream.name)).all()
    full = {f"{row.upstream}/{row.name}": row.id for row in rows}
    short = [f"{row.upstream}/{row.name}" for row in rows if row.name == name]
    if len(short) > 1:
        raise Refused(f"more than one upstream has a stream {name!r}: write {' or '.join(sorted(short))}")
    wanted = short[0] if short else name
    require_known("stream", wanted, set(full))
    held = select(Stream.high_water).where(Stream.id == full[wanted]).with_for_update()
    return Mark(full[wanted], wanted, connection.execute(held).scalar())


def check_rewind(connection: Connection, name: str, to: datetime | None) -> Mark:
    """Return where a stream's mark is, if it may be set back to this moment.

    Raises:
        Refused: If there is no such stream, or the moment is not before its mark.
    """
    mark = find_stream(connection, name)
    if to is not None and (mark.high_water is None or to >= mark.high_water):
        at = f"its mark is at {mark.high_water.isoformat()}" if mark.high_water else "it was never read to its end"
        raise Refused(f"stream {mark.name} cannot be rewound to {to.isoformat()}: {at}")
    return mark


def estimate(connection: Connection, mark: Mark, to: datetime | None) -> Estimate | None:
    """Say what reading a stream again from a moment takes; None if nobody knows what it fills.

    Rows are those that we hold of that time: what the upstream has besides is not known before it is read.
    """
    upstream, _, name = mark.name.partition("/")
    if name not in COUNT:
        return None
    rows = connection.execute(COUNT[name], {"since": to and to - OVERLAP}).scalar_one()
    pace = connection.execute(PACE, {"id": mark.id, "upstream": upstream}).scalar()
    calls = max(1, -(-rows // LARGEST_PAGE))
    return Estimate(rows, calls, calls * float(pace) if pace is not None else None)


def rewind(connection: Connection, name: str, to: datetime | None, *, by: str, reason: str | None = None) -> Mark:
    """Set a stream's high-water mark back and return where it was.

    Args:
        connection: The transaction.
        name: `upstream/name`, or the name alone.
        to: The new mark; None reads everything again.
        by: Who asks.
        reason: Why, for the stream's history.

    Raises:
        Refused: As `check_rewind`.
    """
    mark = check_rewind(connection, name, to)
    values = {"high_water": to, "fence": Stream.fence + 1} | {name: null() for name in _WALK}
    connection.execute(update(Stream).where(Stream.id == mark.id).values(**values))
    why = f"rewound by {by}" + (f": {reason}" if reason else "")
    history = {"stream_id": mark.id, "moved_from": mark.high_water, "moved_to": to, "reason": why}
    connection.execute(insert(StreamMove).values(**history))
    details = {"from": _iso(mark.high_water), "to": _iso(to), "reason": reason}
    record(connection, by=by, action="streams rewind", target=mark.name, details=details)
    return mark


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None

"""Quarantine: what would not validate, kept as it came until a later look at it is good.

One row an item, however often it comes. An item with an id can be fetched again by it. One without can only be met
again on a list: its fingerprint is a digest of what came, and a full walk that no longer meets it closes the row.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from integrations.warehouse import Reject
from jobs._stock import Misfit

#: Characters kept of an item.
LONGEST = 10_000

#: How often an item without an id makes the next walk read everything in the hope of meeting it whole.
MOST_RELISTS = 5

SET_ASIDE = text("""
    INSERT INTO quarantine AS q (stream_id, external_id, fingerprint, reason, raw)
    SELECT :stream_id, * FROM unnest(CAST(:external_id AS text[]), CAST(:fingerprint AS text[]),
                                     CAST(:reason AS text[]), CAST(:raw AS text[]))
        AS i(external_id, fingerprint, reason, raw)
    ORDER BY fingerprint
    ON CONFLICT (stream_id, fingerprint) DO UPDATE SET
        reason = excluded.reason, raw = excluded.raw, times = q.times + 1, last_seen_at = now(), resolved_at = NULL
""")
RESOLVE = text("""
    UPDATE quarantine SET resolved_at = now()
    WHERE stream_id = :stream_id AND fingerprint = ANY(CAST(:ids AS text[])) AND resolved_at IS NULL
""")
OPEN = text("""
    SELECT external_id FROM quarantine
    WHERE stream_id = :stream_id AND resolved_at IS NULL AND external_id IS NOT NULL
    ORDER BY last_seen_at, id LIMIT :most
""")
NAMELESS = text("""
    SELECT count(*) FROM quarantine
    WHERE stream_id = :stream_id AND resolved_at IS NULL AND external_id IS NULL AND times <= :most
""")


@dataclass(frozen=True)
class SetAside:
    """An item on its way into the quarantine."""

    external_id: str | None
    fingerprint: str
    reason: str
    raw: str


def from_reject(reject: Reject) -> SetAside:
    """Make one of an item that the client refused."""
    raw = reject.raw if isinstance(reject.raw, str) else orjson.dumps(reject.raw, option=orjson.OPT_SORT_KEYS).decode()
    return set_aside(reject.external_id, reject.reason, raw)


def from_misfit(misfit: Misfit) -> SetAside:
    """Make one of an item that had no place."""
    return set_aside(misfit.external_id, misfit.reason, misfit.raw)


def set_aside(external_id: str | None, reason: str, raw: str) -> SetAside:
    """Make one of what came; without an id a digest of it stands in."""
    digest = "sha256:" + hashlib.sha256(raw.encode(errors="replace")).hexdigest()
    return SetAside(external_id, external_id or digest, reason, raw.replace("\0", "�")[:LONGEST])


def keep(session: Session, stream_id: int, items: Iterable[SetAside]) -> None:
    """Open or reopen a row for each item."""
    rows = {item.fingerprint: item for item in items}
    if rows:
        values = {
            name: [getattr(row, name) for row in rows.values()]
            for name in ("external_id", "fingerprint", "reason", "raw")
        }
        session.execute(SET_ASIDE, values | {"stream_id": stream_id})


def resolve(session: Session, stream_id: int, ids: Sequence[str]) -> None:
    """Close the rows of items that are good now, or gone."""
    if ids:
        session.execute(RESOLVE, {"stream_id": stream_id, "ids": ids})


def open_ids(session: Session, stream_id: int, most: int) -> list[str]:
    """List ids of open rows, those that were looked at longest ago first."""
    return list(session.scalars(OPEN, {"stream_id": stream_id, "most": most}))


def nameless(session: Session, stream_id: int) -> int:
    """Count the open rows without an id that another full walk might still close."""
    return int(session.scalar(NAMELESS, {"stream_id": stream_id, "most": MOST_RELISTS}) or 0)

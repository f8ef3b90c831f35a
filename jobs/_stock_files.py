"""A file of counted stock on its way into the ledger: kept in pieces, read a page at a time, never twice.

What people count is true for the moment at which they gave it to us: each row is a state of that moment, and a later
row of a file is later by a millionth of a second. So it goes through the same guard as the news of upstreams: what an
upstream tells of later stays, and what it said before gives way. Of a level we only take the figure; whose level it is
and what the upstream's version of it was remain, so that its next news still fits.

A page of rows and the number of the line that it reaches are one transaction. Whoever goes on after a crash reads the
file from its beginning, which costs nothing but time, and writes nothing before that line.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.orm import Session

from integrations.warehouse import LevelItem
from jobs import _quarantine, _walk
from jobs._quarantine import SetAside
from jobs._stock import BY_FILE, News, apply_levels
from jobs._stock_csv import Row
from models import FILE

#: Rows that are written together.
PAGE = 500
COUNTS = ("seen", "changed", "unchanged", "older", "quarantined")

# A location goes by its id, or by its name if only one is called so.
PLACE = text("""
    SELECT coalesce(l.source_id, i.location) AS location, t.source_id AS id, t.on_hand, t.source_reserved, t.incoming,
           t.source_version AS version, t.deleted_at IS NULL AS live,
           CASE WHEN p.id IS NULL THEN 'there is no product with sku ' || i.sku
                WHEN l.id IS NULL THEN 'there is no location ' || i.location END AS problem
    FROM unnest(CAST(:sku AS text[]), CAST(:location AS text[])) WITH ORDINALITY AS i(sku, location, place)
    LEFT JOIN products p ON p.sku = i.sku AND p.deleted_at IS NULL
    LEFT JOIN locations l ON l.deleted_at IS NULL AND l.source_id = coalesce(
        (SELECT source_id FROM locations WHERE source_id = i.location AND deleted_at IS NULL),
        (SELECT min(source_id) FROM locations WHERE name = i.location AND deleted_at IS NULL HAVING count(*) = 1))
    LEFT JOIN stock_levels t ON t.product_id = p.id AND t.location_id = l.id
    ORDER BY place
""")


@dataclass(frozen=True)
class Judged:
    """What a page of rows means: levels that change, how many rows change nothing, and what has no place."""

    items: list[LevelItem]
    unchanged: int
    aside: list[SetAside]
    #: Rows that are good now, whatever was said of them before.
    good: list[str]


def pages(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Cut rows into pages."""
    left = iter(rows)
    while page := list(islice(left, PAGE)):
        yield page


def malformed(row: Row) -> str | None:
    """Return what is wrong with a row by itself, or None."""
    try:
        _item(row, row.location, {}, datetime.fromisoformat("2000-01-01T00:00:00+00:00"))
    except ValidationError as error:
        return _explained(row, error)
    return None


def judge(session: Session, rows: Sequence[Row], counted_at: datetime) -> Judged:
    """Compare a page of rows with what we hold; of rows about one place the last one counts."""
    found = session.execute(PLACE, {"sku": [r.sku for r in rows], "location": [r.location for r in rows]}).mappings()
    last: dict[tuple[str, str], tuple[Row, Any]] = {}
    aside: list[SetAside] = []
    for row, held in zip(rows, found, strict=True):
        problem = malformed(row) or held["problem"]
        if problem:
            aside.append(_quarantine.set_aside(_name(row), problem, f"line {row.line}: {row}"))
        else:
            last[row.sku, held["location"]] = row, held
    items = [_item(row, held["location"], held, counted_at) for row, held in last.values()]
    news = [item for item, (_, held) in zip(items, last.values(), strict=True) if not _holds(held, item)]
    return Judged(news, len(rows) - len(aside) - len(news), aside, [_name(row) for row, _ in last.values()])


def write(session: Session, rows: Sequence[Row], counted_at: datetime, run_id: int) -> dict[str, int]:
    """Write a page of rows and return what became of them."""
    judged = judge(session, rows, counted_at)
    applied = apply_levels(session, judged.items, News("import", run_id))
    aside = judged.aside + [_quarantine.from_misfit(one) for one in applied.misfits]
    stream_id = _walk.ensure(session, "stock_levels", FILE)
    _quarantine.resolve(session, stream_id, judged.good)
    _quarantine.keep(session, stream_id, aside)
    older = len(judged.items) - applied.changed - len(applied.misfits)
    counts = (len(rows), applied.changed, judged.unchanged, older, len(aside))
    return dict(zip(COUNTS, counts, strict=True))


def _item(row: Row, location: str, held: Any, counted_at: datetime) -> LevelItem:
    digest = hashlib.sha256(f"{location}\0{row.sku}".encode(errors="replace")).hexdigest()
    return LevelItem.model_validate({
        "id": held.get("id") or f"{BY_FILE}{digest[:32]}",
        "sku": row.sku,
        "location_id": location,
        "on_hand": row.on_hand,
        "reserved": held.get("source_reserved") or 0,
        "incoming": held.get("incoming") or 0,
        "version": held.get("version") or 0,
        "updated_at": (counted_at + timedelta(microseconds=row.line)).isoformat(),
    })  # fmt: skip


def _holds(held: Any, item: LevelItem) -> bool:
    return bool(held["id"] is not None and held["live"] and held["on_hand"] == item.on_hand)


def _name(row: Row) -> str:
    return f"{row.sku[:90]} at {row.location[:90]}"


def _explained(row: Row, error: ValidationError) -> str:
    problems = [
        f"{str(one['loc'][0]).removesuffix('_id')} {one['msg'].removeprefix('Value error, ')}" for one in error.errors()
    ]
    return f"line {row.line}: {'; '.join(problems)}"

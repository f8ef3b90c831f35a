"""A partner's stock becomes ours by the same walk, ledger and quarantine as the warehouse's.

    LEVELS = partner(Corner)

    @job(queue="corner", schedule=every(minutes=15), needs=[Corner])
    def sync(context: Context, *, full: bool = False) -> dict[str, Any]:
        return sync_partner(context, Corner, full=full)

A level belongs to the product with its sku, which the warehouse has told us of, and to a location that is the
partner's own; a sku that we do not know waits in quarantine. Partners without a number for the state of a level send
the same state again and again: what says what we hold already is left out before anything is written.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from integrations import NotFound, Rejected, StockPartner
from integrations.warehouse import LevelItem, LocationItem
from jobs import _stock, _sweep, _walk
from jobs._context import Context
from jobs._refetch import refetch
from jobs._stock import Applied, News
from jobs._walk import Flow
from models import Stream

#: Levels that one full walk missed and that are asked about, one by one.
MOST_SUSPECTS = 500

HELD = text("""
    SELECT i.source_id FROM unnest(CAST(:id AS text[]), CAST(:sku AS text[]), CAST(:location AS text[]),
                                   CAST(:on_hand AS bigint[]), CAST(:reserved AS bigint[]), CAST(:incoming AS bigint[]),
                                   CAST(:updated_at AS timestamptz[]), CAST(:deleted AS bool[]))
        AS i(source_id, sku, location, on_hand, reserved, incoming, updated_at, deleted)
    JOIN stock_levels t USING (source_id)
    JOIN products p ON p.id = t.product_id
    JOIN locations l ON l.id = t.location_id
    WHERE t.source_updated_at >= i.updated_at AND (t.deleted_at IS NOT NULL) = i.deleted
      AND (i.deleted OR (p.sku, p.deleted_at IS NULL, l.source_id, t.on_hand, t.source_reserved, t.incoming)
                        = (i.sku, true, i.location, i.on_hand, i.reserved, i.incoming))
""")


def partner(kind: type[StockPartner]) -> Flow[LevelItem]:
    """Return the stream of a partner's stock levels."""

    def apply(session: Session, items: Sequence[LevelItem], news: News) -> Applied:
        if kind.places is None:
            _stock.apply_locations(session, _mentioned(kind, items), kind.name)
        return _stock.apply_levels(session, unknown(session, items), news)

    ascending = kind.stock.order == "asc"
    return Flow("stock_levels", "stock_levels", kind.page, kind.level, apply, kind, ascending)


def sync_partner(context: Context, kind: type[StockPartner], *, full: bool = False) -> dict[str, Any]:
    """Read a partner's locations and what changed of its stock levels; with `full`, everything.

    A partner that cannot say what changed is always read whole.

    Raises:
        IntegrationError: See `integrations._errors`; the next run goes on at the last page.
    """
    flow = partner(kind)
    full = full or not kind.stock.since
    locations = context.use(kind).locations()
    with context.transaction() as session:
        _stock.apply_locations(session, locations, kind.name)
    result: dict[str, Any] = {flow.name: _walk.walk(context, flow, full=full)}
    if kind.item:
        result[flow.name]["refetched"] = refetch(context, flow)["applied"]
    if kind.deletion == "404":
        result[flow.name]["deleted"] += _ask_about_missing(context, flow)
    return result


def unknown(session: Session, items: Sequence[LevelItem]) -> list[LevelItem]:
    """Return the items that say something else than what we hold, or something later."""
    columns: dict[str, list[Any]] = {
        "id": [item.id for item in items],
        "sku": [item.sku for item in items],
        "location": [item.location_id for item in items],
        "on_hand": [item.on_hand for item in items],
        "reserved": [item.reserved for item in items],
        "incoming": [item.incoming for item in items],
        "updated_at": [item.updated_at for item in items],
        "deleted": [item.deleted for item in items],
    }
    held = set(session.scalars(HELD, columns)) if items else set()
    return [item for item in items if item.id not in held]


def _mentioned(kind: type[StockPartner], items: Sequence[LevelItem]) -> list[LocationItem]:
    ids = sorted({item.location_id for item in items})
    return [LocationItem(id=one, name=one.removeprefix(f"{kind.name}/")) for one in ids]


def _ask_about_missing(context: Context, flow: Flow[LevelItem]) -> int:
    with context.transaction() as session:
        stream = session.get_one(Stream, _walk.ensure(session, flow.name, flow.upstream))
        asked = _sweep.suspects(session, stream, flow.table, MOST_SUSPECTS)
    gone = {one: _is_gone(context, flow, one) for one in asked}
    if not gone:
        return 0
    with context.transaction() as session:
        stream = session.get_one(Stream, stream.id, with_for_update={"key_share": True})
        return _sweep.judge(session, stream, flow.table, gone, context)


def _is_gone(context: Context, flow: Flow[LevelItem], level_id: str) -> bool:
    context.check()
    try:
        flow.fetch(context.use(flow.kind), level_id)
    except NotFound:
        return True
    except Rejected as error:
        if error.code != "malformed_item":
            raise
    return False

"""The warehouse's truth becomes ours: hourly what changed, nightly everything, at once what a webhook tells.

The walks make sure that nothing is missed, the webhooks that nobody waits an hour. Both write through the same
guarded statements, so they may overtake each other and repeat themselves; the later state of the upstream stays. What
would not validate is set aside and fetched again by its id, because a list is often wrong where the item is right.

The other way round the warehouse is told what our orders take, give back and have shipped (`jobs/_adjustments.py`).
"""

from typing import Any, TypeVar

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session

from integrations import BadDelivery
from integrations.warehouse import LevelItem, ProductItem, Warehouse
from jobs import (
    Cancel,
    Context,
    RowId,
    Unique,
    _adjustments,
    _quarantine,
    _stock,
    _stock_differences,
    _sweep,
    _walk,
    answered,
    cron,
    every,
    job,
)
from jobs._policy import Backoff
from jobs._refetch import refetch
from jobs._stock import Applied, News
from jobs._walk import Flow
from models import Event, Location

T = TypeVar("T", ProductItem, LevelItem)

PRODUCTS = Flow("products", "products", Warehouse.products, Warehouse.product, _stock.apply_products)
LEVELS = Flow("stock_levels", "stock_levels", Warehouse.levels, Warehouse.level, _stock.apply_levels)

#: Seconds that a walk through everything may take.
LONG = 7_200
SOON = Backoff(first=2.0, longest=600.0)

EVENTS = ("inventory_level.updated", "inventory_level.deleted", "product.updated", "product.deleted")


@job(
    queue="warehouse",
    max_attempts=10,
    time_limit=LONG,
    backoff=SOON,
    schedule=every(hours=1),
    needs=[Warehouse],
)
def sync(context: Context, *, full: bool = False) -> dict[str, Any]:
    """Read locations, then what changed of products and stock levels; with `full`, everything."""
    return _read(context, full=full)


@job(
    queue="warehouse",
    max_attempts=10,
    time_limit=LONG,
    backoff=SOON,
    schedule=cron("30 3 * * *"),
    needs=[Warehouse],
)
def walk(context: Context) -> dict[str, Any]:
    """Read everything, and notice what is no longer there."""
    return _read(context, full=True)


@job(
    queue="warehouse",
    max_attempts=3,
    time_limit=LONG,
    backoff=SOON,
    schedule=cron("10 5 * * *"),
    needs=[Warehouse],
)
def verify(context: Context, *, stream: str | None = None, repair: bool = False) -> dict[str, Any]:
    """Read everything and count where it is not what we hold.

    Args:
        context: The running job.
        stream: `products` or `stock_levels`; both without it.
        repair: Whether to write what the warehouse says wherever nothing explains the difference.
    """
    result: dict[str, Any] = {}
    if stream in {None, PRODUCTS.name}:
        result[PRODUCTS.name] = _stock_differences.compare(context, PRODUCTS, repair=repair).summary()
    if stream in {None, LEVELS.name}:
        result[LEVELS.name] = _stock_differences.compare(context, LEVELS, repair=repair).summary()
    return result


@job(queue="warehouse")
def remove_missing(context: Context, *, stream: str, most: int) -> dict[str, Any]:
    """Remove what two full walks did not meet, after a person has looked at so many and approved."""
    table = {PRODUCTS.name: PRODUCTS.table, LEVELS.name: LEVELS.table}[stream]
    with context.transaction() as session:
        return {"removed": _sweep.remove_approved(session, _walk.ensure(session, stream), table, most, context)}


@job(queue="warehouse", time_limit=1_800, backoff=SOON, needs=[Warehouse])
def refetch_quarantined(context: Context) -> dict[str, Any]:
    """Fetch quarantined items again by their ids, and write those that are good now."""
    return {PRODUCTS.name: refetch(context, PRODUCTS), LEVELS.name: refetch(context, LEVELS)}


@job(
    queue="warehouse",
    backoff=SOON,
    on=[Warehouse.event(name) for name in EVENTS],
    needs=[Warehouse],
    entity="data.sku",
    unique=Unique(),
)
def apply_event(context: Context, *, event_id: RowId) -> dict[str, Any]:
    """Write the items that webhooks of one SKU carry, unless we know later states of them."""
    with context.transaction() as session:
        events = answered(session, context.run_id, event_id)
    if not events:
        raise Cancel(f"event {event_id} is no longer kept: the next walk reads what it was about")
    warehouse = context.use(Warehouse)
    read = [(event, _read_event(warehouse, event)) for event in events]
    items = [found for _, found in read if not isinstance(found, BadDelivery)]
    counts = [
        *(_keep_unreadable(context, event, str(found)) for event, found in read if isinstance(found, BadDelivery)),
        # A level hangs on its product, which may be new.
        _apply(context, PRODUCTS, [item for item in items if isinstance(item, ProductItem)]),
        _apply_levels(context, warehouse, [item for item in items if isinstance(item, LevelItem)]),
    ]
    return _summed(counts) | ({"events": len(events)} if len(events) > 1 else {})


def _read_event(warehouse: Warehouse, event: Event) -> ProductItem | LevelItem | BadDelivery:
    try:
        _, item = warehouse.parse_event(event.body)
    except BadDelivery as error:
        return error
    return item.model_copy(update={"deleted": True}) if event.type.endswith(".deleted") else item


def _summed(counts: list[dict[str, Any]]) -> dict[str, Any]:
    notes = [count["note"] for count in counts if "note" in count]
    summed = {name: sum(count.get(name, 0) for count in counts) for name in ("changed", "quarantined")}
    return summed | ({"note": notes[0]} if notes else {})


@job(queue="warehouse", key="level_id", ordered=True, unique=Unique(), max_attempts=30, backoff=SOON, needs=[Warehouse])
def write_back(context: Context, *, level_id: RowId) -> dict[str, Any]:
    """Tell the warehouse what our orders take, give back and have shipped of one level."""
    return _adjustments.tell(context, level_id)


def _read(context: Context, *, full: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"locations": _read_locations(context, context.use(Warehouse))}
    # Levels hang on products, so the products are made whole first.
    result[PRODUCTS.name] = _walk.walk(context, PRODUCTS, full=full)
    result[PRODUCTS.name]["refetched"] = refetch(context, PRODUCTS)["applied"]
    result[LEVELS.name] = _walk.walk(context, LEVELS, full=full)
    result[LEVELS.name]["refetched"] = refetch(context, LEVELS)["applied"]
    return result


def _read_locations(context: Context, warehouse: Warehouse) -> int:
    locations = warehouse.locations()
    with context.transaction() as session:
        _stock.apply_locations(session, locations)
    return len(locations)


def _apply_levels(context: Context, warehouse: Warehouse, items: list[LevelItem]) -> dict[str, Any]:
    """Write levels; when a location is new to us, the locations are read again first.

    A new product cannot be fetched, as the warehouse knows products by id and a level names only a sku. The level
    waits in quarantine for the product's own webhook or the next walk.
    """
    places = {item.location_id for item in items}
    with context.transaction() as session:
        known = set(session.scalars(select(Location.source_id).where(Location.source_id.in_(places))))
    if places - known:
        _read_locations(context, warehouse)
    return _apply(context, LEVELS, items)


def _apply(context: Context, flow: Flow[T], items: list[T]) -> dict[str, Any]:
    def attempt(session: Session) -> Applied:
        applied = flow.apply(session, items, News("event", context.run_id))
        if applied.misfits:
            stream_id = _walk.ensure(session, flow.name)
            _quarantine.keep(session, stream_id, [_quarantine.from_misfit(one) for one in applied.misfits])
        return applied

    if not items:
        return {}
    applied = _stock.twice(context, attempt)
    for one in applied.misfits:
        context.log(f"{flow.name}: {one.external_id} is quarantined: {one.reason}")
    return {"changed": applied.changed, "quarantined": len(applied.misfits)}


def _keep_unreadable(context: Context, event: Event, reason: str) -> dict[str, Any]:
    name = PRODUCTS.name if event.type.startswith("product.") else LEVELS.name
    with context.transaction() as session:
        row = _quarantine.set_aside(_item_id(event.body), reason, event.body.decode(errors="replace"))
        _quarantine.keep(session, _walk.ensure(session, name), [row])
    context.log(f"event {event.id} is quarantined: {reason}")
    return {"changed": 0, "quarantined": 1, "note": reason}


def _item_id(body: bytes) -> str | None:
    try:
        found = orjson.loads(body)["data"]["id"]
    except (ValueError, TypeError, LookupError):
        return None
    return found if isinstance(found, str) and 0 < len(found) <= 200 and found.isprintable() else None  # noqa: PLR2004

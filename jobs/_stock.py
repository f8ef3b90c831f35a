"""How news of products and stock levels enters our tables: many items, one statement.

News arrives twice and in any order: by the hourly walk, by webhooks, by a second walk after a crash. So every write is
guarded: a state of the upstream replaces ours only if its pair of time and version is later, and whoever comes second
with the same state changes nothing. What we hold already is sorted out before anything is locked; the rest is written
in the order of its ids, so two writers never wait for each other in a circle.

A level's `on_hand` never moves alone. The statement that changes it writes the difference between the figure that was
really there (the row is locked by then) and the new one as a movement, so the ledger adds up whatever the order.

An item that cannot have a place (its product is unknown, its sku belongs to somebody else) is a misfit: it is
returned with the reason, and the others are written.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

from sqlalchemy import TextClause, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from integrations.warehouse import LevelItem, LocationItem, ProductItem, Warehouse
from jobs._context import Context
from models import FILE

T = TypeVar("T", ProductItem, LevelItem)
Written = TypeVar("Written")


@dataclass(frozen=True)
class News:
    """Where items come from.

    `sync` items were read from the upstream just now. `event` items are what it said some time ago: they may not
    bring back, with a state we already had, what a full walk found missing since. Nor may an `answer`, which is what
    the upstream made of an adjustment of ours, perhaps some time ago. `import` items were counted by people.
    """

    kind: Literal["sync", "event", "answer", "import"]
    run_id: int
    #: A repair: whatever state we hold from this moment or before may be replaced by any other, also by an older one.
    settled: datetime | None = None


@dataclass(frozen=True)
class Misfit:
    """An item that validates and yet cannot be written."""

    external_id: str
    reason: str
    raw: str


@dataclass(frozen=True)
class Applied:
    """What a batch did: rows written, how many of them became tombstones, and what had no place."""

    changed: int
    deleted: int
    misfits: list[Misfit]


#: What the ids of levels begin with that no upstream has told us of.
BY_FILE = f"{FILE}/"

# The item's state is later than ours; or a walk meets again, unchanged, what we had taken for gone.
FRESH = """
    (t.id IS NULL OR t.source_updated_at <= CAST(:settled AS timestamptz)
     OR (i.source_updated_at, i.source_version) > (t.source_updated_at, t.source_version)
     OR (:current AND NOT i.deleted AND t.deleted_at IS NOT NULL
         AND (i.source_updated_at, i.source_version) = (t.source_updated_at, t.source_version)))
"""
GUARD = """
    t.source_updated_at <= CAST(:settled AS timestamptz)
    OR (excluded.source_updated_at, excluded.source_version) > (t.source_updated_at, t.source_version)
    OR (:current AND excluded.deleted_at IS NULL AND t.deleted_at IS NOT NULL
        AND (excluded.source_updated_at, excluded.source_version) = (t.source_updated_at, t.source_version))
"""
OUTCOME = """
    SELECT (SELECT count(*) FROM written) AS changed,
           (SELECT count(*) FROM written WHERE deleted_at IS NOT NULL) AS deleted,
           (SELECT coalesce(jsonb_object_agg(source_id, problem), '{}')
            FROM judged WHERE problem IS NOT NULL) AS problems
"""

PRODUCTS = text(f"""
    WITH item AS (
        SELECT * FROM unnest(CAST(:id AS text[]), CAST(:sku AS text[]), CAST(:name AS text[]), CAST(:brand AS text[]),
                             CAST(:category AS text[]), CAST(:price AS bigint[]), CAST(:currency AS text[]),
                             CAST(:version AS bigint[]), CAST(:updated_at AS timestamptz[]), CAST(:deleted AS bool[]))
        AS i(source_id, sku, name, brand, category, price, currency, source_version, source_updated_at, deleted)
    ), judged AS MATERIALIZED (
        SELECT i.*, CASE WHEN holder.id IS NOT NULL
                         THEN 'sku ' || i.sku || ' belongs to product ' || holder.source_id END AS problem
        FROM item i
        LEFT JOIN products t ON t.source_id = i.source_id
        LEFT JOIN products holder ON holder.sku = i.sku AND holder.deleted_at IS NULL
                                 AND holder.source_id <> i.source_id AND NOT i.deleted
        WHERE {FRESH}
    ), written AS (
        INSERT INTO products AS t (source_id, sku, name, brand, category, price, currency, source_version,
                                   source_updated_at, deleted_at)
        SELECT source_id, sku, coalesce(name, sku), brand, category, price, currency, source_version,
               source_updated_at, CASE WHEN deleted THEN now() END
        FROM judged WHERE problem IS NULL ORDER BY source_id
        ON CONFLICT (source_id) DO UPDATE SET
            sku = excluded.sku, brand = excluded.brand, category = excluded.category,
            -- A tombstone may have lost its name; ours is still the better one.
            name = CASE WHEN excluded.deleted_at IS NULL THEN excluded.name ELSE t.name END,
            price = excluded.price, currency = excluded.currency, source_version = excluded.source_version,
            source_updated_at = excluded.source_updated_at, deleted_at = excluded.deleted_at, updated_at = now()
        WHERE {GUARD}
        RETURNING t.source_id, t.deleted_at
    ) {OUTCOME}
""")

LEVELS = text(f"""
    WITH item AS (
        SELECT * FROM unnest(CAST(:id AS text[]), CAST(:sku AS text[]), CAST(:location AS text[]),
                             CAST(:on_hand AS bigint[]), CAST(:reserved AS bigint[]), CAST(:incoming AS bigint[]),
                             CAST(:version AS bigint[]), CAST(:updated_at AS timestamptz[]), CAST(:deleted AS bool[]))
        AS i(source_id, sku, location, on_hand, source_reserved, incoming, source_version, source_updated_at, deleted)
    ), placed AS MATERIALIZED (
        -- The tombstone of a level whose product is gone as well stays where the level was.
        SELECT i.*, CASE WHEN i.deleted THEN coalesce(t.product_id, p.id) ELSE p.id END AS product_id,
               CASE WHEN i.deleted THEN coalesce(t.location_id, l.id) ELSE l.id END AS location_id
        FROM item i
        LEFT JOIN stock_levels t ON t.source_id = i.source_id
        LEFT JOIN products p ON p.sku = i.sku AND p.deleted_at IS NULL
        LEFT JOIN locations l ON l.source_id = i.location
        WHERE {FRESH}
    ), judged AS MATERIALIZED (
        SELECT i.*, CASE
            WHEN i.deleted THEN NULL
            WHEN i.product_id IS NULL THEN 'there is no product with sku ' || i.sku
            WHEN i.location_id IS NULL THEN 'there is no location ' || i.location
            WHEN holder.id IS NOT NULL THEN 'the stock of ' || i.sku || ' at ' || i.location || ' is level '
                                            || holder.source_id END AS problem
        FROM placed i
        LEFT JOIN stock_levels holder ON holder.product_id = i.product_id AND holder.location_id = i.location_id
                                     AND holder.source_id <> i.source_id
        -- A tombstone of what we never had, or of a place that another level took over, removes nothing.
        WHERE NOT i.deleted OR (i.product_id IS NOT NULL AND i.location_id IS NOT NULL AND holder.id IS NULL)
    ), written AS (
        INSERT INTO stock_levels AS t (source_id, product_id, location_id, on_hand, source_reserved, incoming,
                                       source_version, source_updated_at, deleted_at)
        SELECT source_id, product_id, location_id, CASE WHEN deleted THEN 0 ELSE on_hand END,
               CASE WHEN deleted THEN 0 ELSE source_reserved END, CASE WHEN deleted THEN 0 ELSE incoming END,
               source_version, source_updated_at, CASE WHEN deleted THEN now() END
        FROM judged WHERE problem IS NULL ORDER BY source_id
        ON CONFLICT (source_id) DO UPDATE SET
            product_id = excluded.product_id, location_id = excluded.location_id, on_hand = excluded.on_hand,
            source_reserved = excluded.source_reserved, incoming = excluded.incoming,
            source_version = excluded.source_version, source_updated_at = excluded.source_updated_at,
            deleted_at = excluded.deleted_at, version = t.version + 1, updated_at = now()
        WHERE {GUARD}
        RETURNING WITH (OLD AS o, NEW AS n)
            n.id, n.source_id, n.deleted_at, n.on_hand, n.on_hand - coalesce(o.on_hand, 0) AS delta,
            n.source_version, n.source_updated_at, n.version,
            (o.source_updated_at, o.source_version) >= (n.source_updated_at, n.source_version) AS again
    ), moved AS (
        INSERT INTO stock_movements (level_id, delta, kind, quantity_after, source_ref, occurred_at, run_id)
        SELECT id, delta, CASE WHEN deleted_at IS NULL THEN :kind ELSE 'removal' END, on_hand,
               -- The state itself is the cause, so a walk and a webhook name it alike.
               'v' || source_version || '@' || extract(epoch FROM source_updated_at)
                   || CASE WHEN again THEN ' back ' || version ELSE '' END,
               source_updated_at, :run_id
        FROM written WHERE delta <> 0
    ) {OUTCOME}
""")

# A warehouse may take a level away and open another one for the same place, or open one where a file was first: our row
# goes on under the new id.
ADOPT = text("""
    UPDATE stock_levels t SET source_id = i.source_id
    FROM unnest(CAST(:id AS text[]), CAST(:sku AS text[]), CAST(:location AS text[]),
                CAST(:updated_at AS timestamptz[]))
        AS i(source_id, sku, location, updated_at)
    JOIN products p ON p.sku = i.sku AND p.deleted_at IS NULL
    JOIN locations l ON l.source_id = i.location
    WHERE t.product_id = p.id AND t.location_id = l.id
      AND (t.deleted_at IS NOT NULL AND i.updated_at > t.source_updated_at OR starts_with(t.source_id, :by_file))
      AND NOT EXISTS (SELECT 1 FROM stock_levels other WHERE other.source_id = i.source_id)
""")

LOCATIONS = text("""
    INSERT INTO locations AS t (source_id, name, upstream)
    SELECT source_id, name, :upstream
    FROM unnest(CAST(:id AS text[]), CAST(:name AS text[])) AS i(source_id, name) ORDER BY source_id
    ON CONFLICT (source_id) DO UPDATE SET name = excluded.name, deleted_at = NULL, updated_at = now()
    WHERE t.upstream = excluded.upstream AND (t.name <> excluded.name OR t.deleted_at IS NOT NULL)
""")


def apply_products(session: Session, items: Sequence[ProductItem], news: News) -> Applied:
    """Write what is newer than what we hold; at most one item per id and per live sku of a batch is written."""
    values = {"current": news.kind == "sync", "settled": news.settled}

    def write(some: Sequence[ProductItem]) -> Applied:
        return _write(session, PRODUCTS, some, values)

    chosen, misfits = choose(items, lambda item: item.sku)
    return _with_second_look(chosen, misfits, write)


def apply_levels(session: Session, items: Sequence[LevelItem], news: News) -> Applied:
    """Write what is newer than what we hold, and the movements that explain it."""
    values = {"current": news.kind == "sync", "settled": news.settled, "kind": news.kind, "run_id": news.run_id}

    def write(some: Sequence[LevelItem]) -> Applied:
        return _write(session, LEVELS, some, values)

    def adopt(some: Sequence[LevelItem]) -> Applied:
        places = columns_of(some)
        named = {name: places[name] for name in ("id", "sku", "location", "updated_at")}
        session.execute(ADOPT, named | {"by_file": BY_FILE})
        return write(some)

    chosen, misfits = choose(items, lambda item: (item.sku, item.location_id))
    return _with_second_look(chosen, misfits, write, adopt)


def columns_of(items: Sequence[ProductItem | LevelItem]) -> dict[str, list[Any]]:
    """Return items of one kind as the columns of a statement."""
    columns: dict[str, list[Any]] = {
        name: [getattr(item, name) for item in items] for name in ("id", "sku", "version", "updated_at", "deleted")
    }
    products = [item for item in items if isinstance(item, ProductItem)]
    levels = [item for item in items if isinstance(item, LevelItem)]
    return columns | _product_columns(products) | _level_columns(levels)


def _product_columns(items: Sequence[ProductItem]) -> dict[str, list[Any]]:
    prices = [item.price if item.price and item.price.amount is not None else None for item in items]
    return {
        "name": [item.name for item in items],
        "brand": [item.brand for item in items],
        "category": [item.category for item in items],
        "price": [price and price.amount for price in prices],
        "currency": [price and price.currency for price in prices],
    }


def _level_columns(items: Sequence[LevelItem]) -> dict[str, list[Any]]:
    return {
        "location": [item.location_id for item in items],
        "on_hand": [item.on_hand for item in items],
        "reserved": [item.reserved for item in items],
        "incoming": [item.incoming for item in items],
    }


def _with_second_look(
    items: Sequence[T],
    misfits: list[Misfit],
    write: Callable[[Sequence[T]], Applied],
    again: Callable[[Sequence[T]], Applied] | None = None,
) -> Applied:
    """Write items; those without a place once more, for what held it may just have been written out of the way."""
    first = write(items)
    without = {one.external_id for one in first.misfits}
    second = (again or write)([item for item in items if item.id in without])
    return Applied(first.changed + second.changed, first.deleted + second.deleted, misfits + second.misfits)


def apply_locations(session: Session, items: Iterable[LocationItem], upstream: str = Warehouse.name) -> None:
    """Write new and renamed locations of an upstream."""
    names = {item.id: item.name for item in items}
    session.execute(LOCATIONS, {"id": list(names), "name": list(names.values()), "upstream": upstream})


def twice(context: Context, write: Callable[[Session], Written]) -> Written:
    """Write in a transaction of its own, and once more if another writer made the same new row at the same moment.

    Postgres settles such a race for one unique key of a row, and our rows have two. The second time it is there to see.
    """
    try:
        with context.transaction() as session:
            return write(session)
    except IntegrityError:
        with context.transaction() as session:
            return write(session)


def choose(items: Sequence[T], place: Callable[[T], Any]) -> tuple[list[T], list[Misfit]]:
    """Keep the newest state of each id, and of live items that claim the same place the newest."""
    newest: dict[str, T] = {}
    for item in items:
        if item.id not in newest or _state(newest[item.id]) < _state(item):
            newest[item.id] = item
    holders: dict[Any, T] = {}
    misfits: list[Misfit] = []
    for item in sorted(newest.values(), key=_state, reverse=True):
        holder = item if item.deleted else holders.setdefault(place(item), item)
        if holder is not item:
            misfits.append(misfit(item, f"{holder.id} claims the same place in the same page"))
    out = {one.external_id for one in misfits}
    return [item for item in newest.values() if item.id not in out], misfits


def misfit(item: ProductItem | LevelItem, reason: str) -> Misfit:
    """Return an item as one that cannot be written."""
    return Misfit(item.id, reason, item.model_dump_json())


def _state(item: ProductItem | LevelItem) -> tuple[Any, ...]:
    return item.updated_at, item.version, item.id


def _write(session: Session, statement: TextClause, items: Sequence[T], values: dict[str, Any]) -> Applied:
    if not items:
        return Applied(0, 0, [])
    changed, deleted, problems = session.execute(statement, columns_of(items) | values).one()
    return Applied(changed, deleted, [misfit(item, problems[item.id]) for item in items if item.id in problems])

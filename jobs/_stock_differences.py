"""Where the warehouse and our tables disagree.

The warehouse has nothing but its listing, so it is read to its end and each page is compared with what we hold, in one
statement and without writing. What is here and no longer there is not on any page: the ids of both sides are summed up
in buckets, how many and the sum of their digests, and only buckets that differ are looked at id by id.

What either side changed after `settled` (the stream's mark, less the overlap of its walks) is on its way and is not
judged. An item in quarantine is known. What is left is drift: nothing explains it, and no sync would notice it, because
a sync believes the versions.
"""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import TextClause, select, text
from sqlalchemy.orm import Session

from integrations import CursorExpired
from integrations.warehouse import Page, Warehouse
from jobs._context import Context
from jobs._signals import Cancel
from jobs._stock import News, columns_of, twice
from jobs._sweep import scoped
from jobs._walk import OVERLAP, Flow, Guards, T, expired
from models import Stream

#: A power of two: ids are spread over so many buckets.
BUCKETS = 1_024
#: Ids of each kind that are told.
MOST_TOLD = 20

_KNOWN = """EXISTS (SELECT 1 FROM quarantine q WHERE q.stream_id = :stream_id AND q.fingerprint = i.source_id
                    AND q.resolved_at IS NULL)"""
_KINDS = f"""
    SELECT source_id, CASE
        WHEN greatest(held_at, updated_at) > :settled THEN 'on_its_way'
        WHEN {_KNOWN} THEN 'quarantined'
        WHEN deleted THEN 'orphans'
        WHEN held_at IS NULL OR gone THEN 'missing'
        ELSE 'stale' END AS kind
    FROM compared i
    WHERE CASE WHEN deleted THEN held_at IS NOT NULL AND NOT gone ELSE held_at IS NULL OR gone OR NOT same END
"""
PRODUCTS = text(f"""
    WITH compared AS (
        SELECT i.source_id, i.updated_at, i.deleted, t.source_updated_at AS held_at, t.deleted_at IS NOT NULL AS gone,
               (t.sku, t.name, t.brand, t.category, t.price, t.currency)
                   IS NOT DISTINCT FROM (i.sku, i.name, i.brand, i.category, i.price, i.currency) AS same
        FROM unnest(CAST(:id AS text[]), CAST(:sku AS text[]), CAST(:name AS text[]), CAST(:brand AS text[]),
                    CAST(:category AS text[]), CAST(:price AS bigint[]), CAST(:currency AS text[]),
                    CAST(:updated_at AS timestamptz[]), CAST(:deleted AS bool[]))
            AS i(source_id, sku, name, brand, category, price, currency, updated_at, deleted)
        LEFT JOIN products t ON t.source_id = i.source_id
    ) {_KINDS}
""")
LEVELS = text(f"""
    WITH compared AS (
        SELECT i.source_id, i.updated_at, i.deleted, t.source_updated_at AS held_at, t.deleted_at IS NOT NULL AS gone,
               (p.sku, l.source_id, t.on_hand, t.source_reserved, t.incoming)
                   IS NOT DISTINCT FROM (i.sku, i.location, i.on_hand, i.reserved, i.incoming) AS same
        FROM unnest(CAST(:id AS text[]), CAST(:sku AS text[]), CAST(:location AS text[]), CAST(:on_hand AS bigint[]),
                    CAST(:reserved AS bigint[]), CAST(:incoming AS bigint[]),
                    CAST(:updated_at AS timestamptz[]), CAST(:deleted AS bool[]))
            AS i(source_id, sku, location, on_hand, reserved, incoming, updated_at, deleted)
        LEFT JOIN stock_levels t ON t.source_id = i.source_id
        LEFT JOIN products p ON p.id = t.product_id LEFT JOIN locations l ON l.id = t.location_id
    ) {_KINDS}
""")
COMPARE: dict[str, TextClause] = {"products": PRODUCTS, "stock_levels": LEVELS}

# Sixty bits of a digest; `digest_of` says the same in Python.
_DIGESTS = """
    SELECT source_id, source_updated_at, ('x' || left(md5(source_id), 15))::bit(60)::bigint AS digest
    FROM {table} WHERE deleted_at IS NULL AND {scope}
"""
SUMS = f"""
    SELECT digest & {BUCKETS - 1} AS bucket, count(*) AS live, sum(digest) AS total FROM ({_DIGESTS}) AS held GROUP BY 1
"""
HELD = f"""
    SELECT source_id, digest FROM ({_DIGESTS}) AS held
    WHERE digest & {BUCKETS - 1} = ANY(:buckets) AND source_updated_at <= :settled ORDER BY source_id
"""


@dataclass
class Seen:
    """The ids that the warehouse listed as alive, as digests in buckets: eight bytes for each."""

    buckets: list["array[int]"] = field(default_factory=lambda: [array("q") for _ in range(BUCKETS)])
    #: Listed as deleted after they had been listed as alive.
    gone: set[int] = field(default_factory=set)
    #: Items without an id: any of them may be the one that seems to be missing.
    nameless: int = 0

    def pass_page(self, page: Page[Any]) -> None:
        """Note who is on a page."""
        self.nameless += sum(reject.external_id is None for reject in page.rejects)
        alive = {item.id: not item.deleted for item in page.items}
        alive |= {reject.external_id: True for reject in page.rejects if reject.external_id}
        for item_id, lives in alive.items():
            digest = digest_of(item_id)
            if lives:
                self.buckets[digest % BUCKETS].append(digest)
                self.gone.discard(digest)
            else:
                self.gone.add(digest)

    def bucket(self, number: int) -> set[int]:
        """Return the digests of a bucket, each once: what moved while it was read is listed twice."""
        return set(self.buckets[number]) - self.gone


@dataclass
class Differences:
    """How many items differ, by what is wrong with them."""

    #: Live items there and here.
    source: int = 0
    ours: int = 0
    #: Of 1,024.
    buckets_differing: int = 0
    missing: int = 0
    stale: int = 0
    orphans: int = 0
    on_its_way: int = 0
    quarantined: int = 0
    repaired: int = 0
    told: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, item_id: str) -> None:
        """Count an item."""
        setattr(self, kind, getattr(self, kind) + 1)
        examples = self.told.setdefault(kind, [])
        if len(examples) < MOST_TOLD:
            examples.append(item_id)

    def summary(self) -> dict[str, int]:
        """Return the numbers."""
        return {name: number for name, number in vars(self).items() if name != "told"}


def digest_of(item_id: str) -> int:
    """Return the sixty bits that stand for an id."""
    return int(hashlib.md5(item_id.encode(), usedforsecurity=False).hexdigest()[:15], 16)


def compare(context: Context, flow: Flow[T], *, repair: bool) -> Differences:
    """Compare a stream with the table it fills, and with `repair` write what the warehouse says.

    Raises:
        Cancel: The stream was never read to its end, so everything would differ.
        IntegrationError: See `integrations._errors`.
    """
    stream_id, settled = _settled(context, flow.name)
    found, seen = Differences(), Seen()
    for page in _pages(context, flow):
        kinds = _compared(context, flow, page, {"stream_id": stream_id, "settled": settled})
        for item_id, kind in kinds.items():
            found.add(kind, item_id)
        wrong = [item for item in page.items if kinds.get(item.id) in {"missing", "stale", "orphans"}]
        if repair and wrong:
            found.repaired += _repair(context, flow, wrong, settled)
        seen.pass_page(page)
        context.progress(done=sum(map(len, seen.buckets)), note=f"{flow.name}: compared")
    _find_orphans(context, flow, found, seen, settled)
    for kind, ids in found.told.items():
        context.log(f"{flow.name}: {kind} are {', '.join(ids)}{'...' if len(ids) == MOST_TOLD else ''}")
    return found


def _settled(context: Context, name: str) -> tuple[int, datetime]:
    with context.transaction() as session:
        wanted = select(Stream).where(Stream.upstream == Warehouse.name, Stream.name == name)
        stream = session.scalar(wanted)
    if stream is None or stream.high_water is None:
        raise Cancel(f"{name} was not read to its end yet: `headrace run warehouse.sync --wait` first")
    return stream.id, stream.high_water - OVERLAP


def _pages(context: Context, flow: Flow[T]) -> Iterator[Page[T]]:
    guards, since, cursor = Guards(), None, None
    latest: datetime | None = None
    while True:
        context.check()
        try:
            page = flow.page(context.use(Warehouse), updated_since=since, cursor=cursor, etag=None)
        except CursorExpired:
            expired(guards, flow, cursor)
            since, cursor = latest and latest - OVERLAP, None
            continue
        guards.pass_page(flow, page)
        yield page
        if not page.has_more:
            return
        cursor, latest = page.next_cursor, max((item.updated_at for item in page.items), default=latest)


def _compared(context: Context, flow: Flow[T], page: Page[T], values: dict[str, Any]) -> dict[str, str]:
    # Of an item that is on the page twice, the later state.
    items = list({item.id: item for item in sorted(page.items, key=lambda item: item.updated_at)}.values())
    with context.transaction() as session:
        rows = session.execute(COMPARE[flow.table], columns_of(items) | values)
        return {row.source_id: row.kind for row in rows}


def _repair(context: Context, flow: Flow[T], items: Sequence[T], settled: datetime) -> int:
    def write(session: Session) -> int:
        applied = flow.apply(session, items, News("sync", context.run_id, settled))
        for misfit in applied.misfits:
            context.log(f"{flow.name}: {misfit.external_id} cannot be written: {misfit.reason}")
        return applied.changed

    return twice(context, write)


def _find_orphans(context: Context, flow: Flow[T], found: Differences, seen: Seen, settled: datetime) -> None:
    with context.transaction() as session:
        summed = session.execute(scoped(SUMS, flow.table), {"upstream": flow.upstream})
        ours = {row.bucket: (row.live, int(row.total)) for row in summed}
        theirs = {number: seen.bucket(number) for number in range(BUCKETS)}
        sums = {number: (len(ids), sum(ids)) for number, ids in theirs.items() if ids}
        found.source, found.ours = sum(n for n, _ in sums.values()), sum(n for n, _ in ours.values())
        differing = [number for number in theirs if sums.get(number) != ours.get(number)]
        found.buckets_differing = len(differing)
        if seen.nameless:
            context.log(f"{flow.name}: {seen.nameless} items came without an id, so nothing counts as gone there")
        elif differing:
            values = {"upstream": flow.upstream, "buckets": differing, "settled": settled}
            held = session.execute(scoped(HELD, flow.table), values)
            for row in held:
                if row.digest not in theirs[row.digest % BUCKETS]:
                    found.add("orphans", row.source_id)

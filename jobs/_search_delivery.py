"""Bringing the present state of some products into some generations.

The order of things is what makes it right without a lock: first a number is drawn (the read ordinal), then the
products are read, then they are sent with that number as external version. Whoever draws later reads later, so the
index, which keeps the highest number, keeps the newest state however many batches race. Draw and read are two
transactions: a snapshot taken before the draw would give old news a high number.

A line that the index cannot take now is handed back to the caller. One that it will never take is set aside alone
(`search_rejects`), and forgotten as soon as a later delivery of the same product goes through.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from sqlalchemy import text

from integrations import Rejected
from integrations.elasticsearch import BulkOutcome, Elasticsearch
from jobs._context import Context
from jobs._documents import BULK
from jobs._generations import write_alias
from models import Generation

#: Seconds after which what was read is old news: with tombstones gone it could raise the dead.
STALE_AFTER = 10.0
#: Bytes of one request; the flat part of the curve ends here, and servers refuse a hundred megabytes.
LARGEST = 8_000_000
#: Refusals of a request as a whole that a smaller request may escape.
_DIVISIBLE = frozenset({400, 413})

ORDINAL = text("SELECT nextval('search_versions')")
_ONE_RAISES = text("SELECT pg_advisory_xact_lock(7205, 3)")
_RAISE = text("""
    SELECT setval('search_versions', clock.ms)
    FROM search_versions, (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms) clock
    WHERE clock.ms > last_value + 1000
""")
_FORGET = text("""
    DELETE FROM search_rejects
    WHERE generation_id = ANY(:generations) AND product_id = ANY(:products) AND version < :version
""")
_REJECT = text("""
    INSERT INTO search_rejects AS r (generation_id, product_id, version, reason, status)
    VALUES (:generation, :product, :version, :reason, :status)
    ON CONFLICT (generation_id, product_id) DO UPDATE
    SET version = excluded.version, reason = excluded.reason, status = excluded.status, at = now()
    WHERE r.version <= excluded.version
""")


@dataclass
class Delivered:
    """What became of the products of a delivery."""

    #: Products that at least one generation could not take now.
    retry: set[int] = field(default_factory=set)
    #: Products that at least one generation will never take as they are.
    rejected: set[int] = field(default_factory=set)

    def __add__(self, other: "Delivered") -> "Delivered":
        return Delivered(self.retry | other.retry, self.rejected | other.rejected)


def raise_ordinals(context: Context) -> None:
    """Bring the read ordinals up to the clock, in milliseconds.

    We draw far fewer than a thousand a second, so they never overtake it. After Postgres was restored to an earlier
    moment, new ordinals are thus above all that the index has seen, or its documents would count as newer for ever.
    """
    with context.transaction() as session:
        session.execute(_ONE_RAISES)  # two at once could set it back by a step
        session.execute(_RAISE)


def deliver(context: Context, products: Sequence[int], targets: Sequence[Generation]) -> Delivered:
    """Write these products, or their absence, into every target.

    Args:
        context: The running job.
        products: Distinct ids, at most a few thousand.
        targets: Generations to write to; none is fine.

    Raises:
        Unavailable: Nothing is known about any of them; delivering all of them again is right.
    """
    if not products or not targets:
        return Delivered()
    products = sorted(products)
    version, body, age = _read(context, products, targets)
    if len(products) > 1 and (len(body) > LARGEST or age > STALE_AFTER):
        return _deliver_halves(context, products, targets)
    try:
        outcome = context.use(Elasticsearch).bulk(body, require_alias=True)
    except Rejected as refusal:
        if refusal.status not in _DIVISIBLE:
            raise
        if len(products) > 1:
            return _deliver_halves(context, products, targets)
        outcome = _all_refused(refusal, len(targets))
    return _record(context, products, targets, version, outcome)


def _deliver_halves(context: Context, products: Sequence[int], targets: Sequence[Generation]) -> Delivered:
    middle = len(products) // 2
    return deliver(context, products[:middle], targets) + deliver(context, products[middle:], targets)


def _read(context: Context, products: Sequence[int], targets: Sequence[Generation]) -> tuple[int, bytes, float]:
    """Return the ordinal, the bulk request, and how many seconds passed between the two."""
    with context.transaction() as session:
        version = session.execute(ORDINAL).scalar_one()
    drawn = monotonic()
    names = [write_alias(target.index) for target in targets]
    with context.transaction() as session:
        lines = session.execute(BULK, {"ids": products, "targets": names, "version": version}).scalar_one()
    return version, lines.encode(), monotonic() - drawn


def _all_refused(refusal: Rejected, lines: int) -> BulkOutcome:
    return BulkOutcome([refusal.status] * lines, poison=dict.fromkeys(range(lines), str(refusal)))


def _record(
    context: Context, products: Sequence[int], targets: Sequence[Generation], version: int, outcome: BulkOutcome
) -> Delivered:
    size = len(products)
    refused: list[dict[str, Any]] = [
        {
            "generation": targets[position // size].id,
            "product": products[position % size],
            "version": version,
            "reason": reason,
            "status": outcome.statuses[position],
        }
        for position, reason in outcome.poison.items()
    ]
    with context.transaction() as session:
        generations = [target.id for target in targets]
        session.execute(_FORGET, {"generations": generations, "products": products, "version": version})
        if refused:
            session.execute(_REJECT, refused)
    for line in refused:
        context.log(f"the index refused product {line['product']}: {line['reason']}", status=line["status"])
    # Whatever is neither in nor refused goes again: busy, its index gone, or no answer about it at all.
    again = set(range(size * len(targets))) - set(outcome.ok) - outcome.poison.keys()
    return Delivered({products[position % size] for position in again}, {line["product"] for line in refused})

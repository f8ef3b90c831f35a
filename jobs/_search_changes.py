"""Telling the index what changed: marks are claimed in sets, delivered, and deleted.

A claim is a lease: the marks of a batch that dies with its worker come due again, and delivering twice is harmless.
The generations to write to are read after the claim, so a change that was committed before is either sent to a new
generation from here or read by the rebuild that fills it. No mark is deleted before every generation has the news
or has refused it for good.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from jobs._context import Context
from jobs._generations import fenced, write_set
from jobs._search_delivery import Delivered, deliver, raise_ordinals

#: Products one batch takes; the embedded server is at its best around a thousand documents.
BATCH = 1_000
#: Marks among which they are chosen: a sync marks a product once for every store.
WINDOW = 20_000

_NOW = text("SELECT clock_timestamp()")
# All marks of a product in the window are taken together, so that a batch sends each product once. A minute is longer
# than reading and sending may take together.
_CLAIM = text("""
    WITH seen AS (
        SELECT id, product_id, due_at FROM search_changes WHERE due_at <= :until
        ORDER BY due_at LIMIT :window FOR UPDATE SKIP LOCKED
    ), chosen AS (
        SELECT product_id FROM seen GROUP BY product_id ORDER BY min(due_at), product_id LIMIT :most
    ), due AS (
        SELECT id FROM seen JOIN chosen USING (product_id)
    ), claimed AS (
        UPDATE search_changes c SET due_at = clock_timestamp() + interval '60 seconds' FROM due WHERE c.id = due.id
        RETURNING c.id, c.product_id
    )
    SELECT coalesce(array_agg(id), '{}') AS marks, coalesce(array_agg(DISTINCT product_id), '{}') AS products
    FROM claimed
""")
_RELEASE = text("UPDATE search_changes SET due_at = now() WHERE id = ANY(:marks)")
# The pause grows with the age of the mark: twice as old at each try, at most a minute.
_POSTPONE = text("""
    UPDATE search_changes
    SET due_at = now() + (0.5 + random() / 2) * least(interval '1 minute',
                                                     greatest(interval '1 second', now() - created_at))
    WHERE id = ANY(:marks) AND product_id = ANY(:retry)
""")
# Marks that a batch holds are left to it.
_FORGET = text("""
    DELETE FROM search_changes WHERE id IN (SELECT id FROM search_changes FOR UPDATE SKIP LOCKED)
""")
_DELETE = text("DELETE FROM search_changes WHERE id = ANY(:marks) AND NOT product_id = ANY(:retry)")


@dataclass
class Drained:
    """What a drain did."""

    marks: int = 0
    products: int = 0
    postponed: int = 0
    rejected: int = 0


def drain(context: Context) -> Drained:
    """Deliver every mark that is due now.

    Raises:
        Unavailable: Elasticsearch is away; the marks of the failed batch are due again at once.
    """
    done = Drained()
    raise_ordinals(context)
    with context.transaction() as session:
        until = session.execute(_NOW).scalar_one()
    while _batch(context, until, done):
        context.check()
    return done


def forget(context: Context) -> None:
    """Drop the marks there are: right only when everything is about to be read anyway, into the only generation."""
    with context.transaction() as session:
        session.execute(_FORGET)


def _batch(context: Context, until: datetime, done: Drained) -> bool:
    """Deliver one batch and count it; return False when nothing was due."""
    with fenced(context):
        marks, products = _claim(context, until)
        if not marks:
            return False
        try:
            delivered = deliver(context, products, write_set(context))
        except BaseException:
            _release(context, marks)
            raise
        _settle(context, marks, delivered)
    done.marks += len(marks)
    done.products += len(products)
    done.postponed += len(delivered.retry)
    done.rejected += len(delivered.rejected)
    return True


def _claim(context: Context, until: datetime) -> tuple[list[int], list[int]]:
    with context.transaction() as session:
        row = session.execute(_CLAIM, {"until": until, "most": BATCH, "window": WINDOW}).one()
    return row.marks, row.products


def _release(context: Context, marks: Sequence[int]) -> None:
    with context.transaction() as session:
        session.execute(_RELEASE, {"marks": marks})


def _settle(context: Context, marks: Sequence[int], delivered: Delivered) -> None:
    values = {"marks": marks, "retry": list(delivered.retry)}
    with context.transaction() as session:
        if delivered.retry:
            session.execute(_POSTPONE, values)
        session.execute(_DELETE, values)

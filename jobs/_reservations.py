"""Stock that is kept for an order: taken once, given back once, and never more of it than there is.

Who takes stock locks the levels first, in the order in which a sync writes them, so that nobody waits for another in a
circle; behind the lock the figures are the present ones. All lines of an order are kept or none is. A line that no
level can serve alone is spread over several, the fullest first.

What becomes of the stock follows from the order's state, here as in `jobs/_order_state.py`: each statement names the
state that it leaves, so doing it twice changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from models import StockState

# The rows are locked in the order of the inner query; what is read of them is their state behind the lock.
LOCK = text("""
    SELECT l.id, p.sku, l.available
    FROM products p JOIN stock_levels l ON l.product_id = p.id
    WHERE p.sku = ANY(:skus) AND p.deleted_at IS NULL AND l.deleted_at IS NULL AND l.available > 0
    ORDER BY l.source_id FOR NO KEY UPDATE OF l
""")
TAKE = text("""
    UPDATE stock_levels l SET reserved = l.reserved + t.quantity, version = l.version + 1, updated_at = now()
    FROM unnest(CAST(:levels AS bigint[]), CAST(:quantities AS bigint[])) AS t (level_id, quantity)
    WHERE l.id = t.level_id AND l.available >= t.quantity
""")
_OF_ORDER = "r.order_line_id IN (SELECT id FROM order_lines WHERE order_id = :order_id)"
STATES = text(f"SELECT DISTINCT state FROM reservations r WHERE {_OF_ORDER}")
COMMIT = text(f"""
    UPDATE reservations r SET state = 'committed', updated_at = now() WHERE r.state = 'held' AND {_OF_ORDER}
""")
_LOCKED = f"""
    locked AS MATERIALIZED (
        SELECT l.id FROM stock_levels l
        WHERE l.id IN (SELECT level_id FROM reservations r WHERE {_OF_ORDER})
        ORDER BY l.source_id FOR NO KEY UPDATE
    )
"""
RELEASE = text(f"""
    WITH {_LOCKED}, released AS (
        UPDATE reservations r SET state = 'released', updated_at = now()
        WHERE r.state IN ('held', 'committed') AND {_OF_ORDER} AND r.level_id IN (SELECT id FROM locked)
        RETURNING r.level_id, r.quantity
    ), given AS (SELECT level_id, sum(quantity) AS quantity FROM released GROUP BY level_id)
    UPDATE stock_levels l SET reserved = l.reserved - g.quantity, version = l.version + 1, updated_at = now()
    FROM given g WHERE l.id = g.level_id
""")
LOCK_AGAIN = text(f"WITH {_LOCKED} SELECT count(*) FROM locked")
TAKE_AGAIN = text(f"""
    WITH wanted AS (
        SELECT r.level_id, sum(r.quantity) AS quantity FROM reservations r
        WHERE r.state = 'released' AND {_OF_ORDER} GROUP BY r.level_id
    ), taken AS (
        UPDATE stock_levels l SET reserved = l.reserved + w.quantity, version = l.version + 1, updated_at = now()
        FROM wanted w
        WHERE l.id = w.level_id AND l.deleted_at IS NULL
          AND NOT EXISTS (SELECT 1 FROM wanted x JOIN stock_levels s ON s.id = x.level_id
                          WHERE s.available < x.quantity OR s.deleted_at IS NOT NULL)
        RETURNING l.id
    )
    UPDATE reservations r SET state = 'committed', updated_at = now()
    WHERE r.state = 'released' AND {_OF_ORDER} AND r.level_id IN (SELECT id FROM taken)
""")


class OutOfStock(Exception):  # noqa: N818 - says what is the case
    """There is less of a product than somebody wants to buy.

    Args:
        sku: What is short.
        wanted: Pieces that were asked for.
        available: Pieces that there are.
    """

    def __init__(self, sku: str, wanted: int, available: int) -> None:
        super().__init__(f"{sku}: {wanted} were asked for and {available} can be sold: offer the buyer what there is")
        self.sku = sku
        self.wanted = wanted
        self.available = available


@dataclass(frozen=True)
class Share:
    """Pieces of one level that serve a sku."""

    sku: str
    level_id: int
    quantity: int


def take(session: Session, wanted: Mapping[str, int]) -> list[Share]:
    """Keep so many pieces of each sku in the caller's transaction, and say of which levels.

    Raises:
        OutOfStock: There are not enough of one; then nothing was taken.
    """
    shares = share(wanted, [tuple(row) for row in session.execute(LOCK, {"skus": list(wanted)})])
    values = {"levels": [one.level_id for one in shares], "quantities": [one.quantity for one in shares]}
    taken: Any = session.execute(TAKE, values)
    if taken.rowcount != len(shares):
        raise RuntimeError("stock moved behind its lock: roll the transaction back")
    return shares


def share(wanted: Mapping[str, int], levels: Sequence[tuple[Any, ...]]) -> list[Share]:
    """Spread what is wanted over levels of `(id, sku, available)`.

    Raises:
        OutOfStock: They do not hold enough.
    """
    shares: list[Share] = []
    for sku, quantity in wanted.items():
        there = sorted((level for level in levels if level[1] == sku), key=lambda level: (-level[2], level[0]))
        missing = quantity
        for level_id, _, available in there:
            part = min(missing, available)
            if part:
                shares.append(Share(sku, level_id, part))
                missing -= part
        if missing:
            raise OutOfStock(sku, quantity, quantity - missing)
    return shares


def settle(session: Session, order_id: int, wanted: StockState) -> bool:
    """Bring the stock of an order to a state, under the lock of its row.

    Returns:
        False if stock that was given back is wanted again and is no longer there.
    """
    order = {"order_id": order_id}
    if wanted is StockState.RELEASED:
        session.execute(RELEASE, order)
        return True
    states = set(session.scalars(STATES, order))
    if StockState.RELEASED in states:
        session.execute(LOCK_AGAIN, order)
        session.execute(TAKE_AGAIN, order)
        states = set(session.scalars(STATES, order))
    if wanted is StockState.COMMITTED and StockState.HELD in states:
        session.execute(COMMIT, order)
    return StockState.RELEASED not in states

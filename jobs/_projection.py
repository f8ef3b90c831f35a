"""An order is brought up to date: Stripe's objects in, state, stock and fulfilment out, in one transaction.

The order's row is locked first and everything is read behind the lock, so of two that come at once the second sees what
the first has written. Nothing here knows which event or which look was the cause. A fulfilment is opened once, by its
primary key; the run that performs it is enqueued in the same transaction, by whoever calls.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from jobs import _reservations
from jobs._order_state import Facts, Judged, Money, SessionFacts, is_shipped, judge, stock_of
from models import OrderState

#: Why an order whose stock is gone is held.
STOCK_GONE = "paid after its stock had been given back, and there is no more: refund it, or find stock"

# Not FOR UPDATE: a snapshot that is being written points at the order, and the two must not wait for each other.
LOCK = text("""
    SELECT id, amount, currency, state, given_up_at IS NOT NULL AS given_up FROM orders
    WHERE id = :id FOR NO KEY UPDATE
""")
HANDED = text("SELECT handed_at IS NOT NULL FROM fulfilments WHERE order_id = :id")
SEEN = text("""
    WITH paid AS (
        SELECT source_id FROM payments WHERE order_id = :id
        UNION SELECT payment FROM checkout_sessions WHERE order_id = :id AND payment IS NOT NULL
    )
    SELECT 'session' AS kind, status, amount, currency, payment_status, intent_status FROM checkout_sessions
    WHERE order_id = :id AND deleted_at IS NULL
    UNION ALL SELECT 'payment', status, amount_received, currency, NULL, NULL FROM payments
    WHERE source_id IN (TABLE paid) AND deleted_at IS NULL
    UNION ALL SELECT 'refund', status, amount, currency, NULL, NULL FROM refunds
    WHERE payment IN (TABLE paid) AND deleted_at IS NULL
    UNION ALL SELECT 'dispute', status, amount, currency, NULL, NULL FROM disputes
    WHERE payment IN (TABLE paid) AND deleted_at IS NULL
""")
WRITE = text("""
    UPDATE orders SET state = :state, reason = :reason, received = :received, refunded = :refunded, updated_at = now()
    WHERE id = :id AND (state, reason, received, refunded) IS DISTINCT FROM (:state, :reason, :received, :refunded)
""")
OPEN_FULFILMENT = text("""
    INSERT INTO fulfilments AS f (order_id) VALUES (:id)
    ON CONFLICT (order_id) DO UPDATE SET deleted_at = NULL, updated_at = now() WHERE f.deleted_at IS NOT NULL
    RETURNING order_id
""")
AFFECTED = text("""
    WITH about AS (
        SELECT CAST(:object_id AS text) AS payment
        UNION SELECT payment FROM checkout_sessions WHERE source_id = :object_id
        UNION SELECT payment FROM refunds WHERE source_id = :object_id
        UNION SELECT payment FROM disputes WHERE source_id = :object_id
    )
    SELECT order_id FROM payments JOIN about ON payment = source_id WHERE order_id IS NOT NULL
    UNION SELECT order_id FROM checkout_sessions JOIN about USING (payment) WHERE order_id IS NOT NULL
    UNION SELECT order_id FROM checkout_sessions WHERE source_id = :object_id AND order_id IS NOT NULL
    ORDER BY order_id
""")


def affected(session: Session, object_id: str) -> list[int]:
    """Return the orders that an object of Stripe's, or the payment it belongs to, says something about."""
    return list(session.scalars(AFFECTED, {"object_id": object_id}))


def lock(session: Session, order_id: int) -> Row[Any]:
    """Return an order behind its lock: nobody brings it up to date meanwhile."""
    return session.execute(LOCK, {"id": order_id}).one()


def project(session: Session, order_id: int) -> bool:
    """Bring an order up to date.

    Returns:
        Whether a fulfilment was opened: its run is to be enqueued in this transaction.
    """
    order = lock(session, order_id)
    judged = judge(_facts(session, order))
    handed = bool(session.scalar(HANDED, {"id": order_id}))
    there = _reservations.settle(session, order_id, stock_of(judged.state, handed=handed))
    if not there and is_shipped(judged.state):
        judged = Judged(OrderState.HELD, judged.received, judged.refunded, STOCK_GONE)
    values = {"state": judged.state, "reason": judged.reason, "received": judged.received, "refunded": judged.refunded}
    session.execute(WRITE, values | {"id": order_id})
    return is_shipped(judged.state) and session.execute(OPEN_FULFILMENT, {"id": order_id}).first() is not None


def _facts(session: Session, order: Row[Any]) -> Facts:
    rows = session.execute(SEEN, {"id": order.id}).all()
    return Facts(
        order.amount,
        order.currency,
        sessions=[SessionFacts(*row[1:]) for row in rows if row.kind == "session"],
        payments=_money(rows, "payment"),
        refunds=_money(rows, "refund"),
        disputes=_money(rows, "dispute"),
        given_up=order.given_up,
    )


def _money(rows: Sequence[Row[Any]], kind: str) -> list[Money]:
    return [Money(row.status, row.amount, row.currency) for row in rows if row.kind == kind]

"""Orders: from a cart to a page on which the buyer pays, and from the money to whoever packs it.

`checkout` is called by the shop in a transaction of its own: the order, the stock that is kept for it and the run that
opens the page at Stripe exist together or not at all. From there on nobody moves an order by hand: its state follows
from what Stripe shows (`jobs/_projection.py`).

Stock is given back only once nobody can pay any more. When the buyer's time is up the page is closed at Stripe first,
and what Stripe answers decides: somebody may have paid in that very second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from integrations import Rejected, Unavailable
from integrations.stripe import Checkout, CheckoutLine, Stripe
from jobs import Cancel, Context, RowId, Unique, cron, every, job
from jobs import _adjustments as adjustments
from jobs import _projection as projection
from jobs import _reservations as reservations
from jobs import _snapshots as snapshots
from jobs._policy import Backoff
from jobs._reservations import OutOfStock
from jobs._snapshots import SeenSession
from jobs.warehouse import write_back
from models import Order, OrderLine, OrderState, Product, Reservation

__all__ = ["BadCart", "Cart", "OutOfStock", "checkout", "settle"]

#: How long a buyer may pay; Stripe allows half an hour to a day.
TIME_TO_PAY = timedelta(hours=1)
#: How long Stripe has to tell us itself that the time is up.
GRACE = timedelta(minutes=5)
#: An attempt to open a page is over for certain after so long; its time limit is far below. Clocks may differ by it.
OPENING = timedelta(minutes=15)
#: Orders closed in one sweep.
TOGETHER = 1_000
SOON = Backoff(first=2.0, longest=300.0)

# Whoever gives up excludes whoever opens, by the row.
BEGIN_OPENING = text("""
    UPDATE orders SET opening_at = now()
    WHERE id = :id AND state = 'pending' AND given_up_at IS NULL AND checkout_url IS NULL RETURNING id
""")
SHOW_PAGE = text("UPDATE orders SET checkout_url = :url, updated_at = now() WHERE id = :id AND checkout_url IS NULL")
SESSION_OF = text("SELECT source_id FROM checkout_sessions WHERE order_id = :id AND deleted_at IS NULL ORDER BY id")
GIVE_UP = text("""
    UPDATE orders SET given_up_at = now()
    WHERE id = :id AND given_up_at IS NULL AND (opening_at IS NULL OR opening_at < now() - :opening) RETURNING id
""")
LATE = text("""
    SELECT id FROM orders WHERE state = 'pending' AND expires_at < now() - :grace ORDER BY expires_at LIMIT :together
""")
HAND_OVER = text("""
    UPDATE fulfilments SET handed_at = now(), updated_at = now()
    WHERE order_id = :id AND handed_at IS NULL AND deleted_at IS NULL RETURNING order_id
""")
WITHDRAW = text("""
    UPDATE fulfilments SET deleted_at = now(), updated_at = now() WHERE order_id = :id AND handed_at IS NULL
""")
PICKS = text("""
    SELECT o.sku, p.source_id AS location, r.quantity
    FROM order_lines o JOIN reservations r ON r.order_line_id = o.id JOIN stock_levels l ON l.id = r.level_id
    JOIN locations p ON p.id = l.location_id
    WHERE o.order_id = :id AND r.state = 'committed' ORDER BY o.sku, p.source_id
""")
# One statement sees one moment.
RESERVED = text("""
    WITH kept AS (
        SELECT level_id, sum(quantity) AS total FROM reservations WHERE state IN ('held', 'committed') GROUP BY level_id
    )
    SELECT count(*), count(*) FILTER (WHERE l.reserved <> coalesce(k.total, 0)),
           min(l.source_id) FILTER (WHERE l.reserved <> coalesce(k.total, 0))
    FROM stock_levels l LEFT JOIN kept k ON k.level_id = l.id
""")


class BadCart(ValueError):  # noqa: N818 - says what is the case
    """A cart that cannot be ordered; the message says why."""


class ReservationsWrong(Exception):  # noqa: N818 - says what is the case
    """The reservations of some levels do not add up to what they say is reserved."""


@dataclass(frozen=True)
class Cart:
    """What somebody wants to buy.

    Args:
        lines: Pieces by sku.
        success_url: Where the buyer comes back to after paying.
        cancel_url: Where the buyer comes back to without.
    """

    lines: Mapping[str, int]
    success_url: str
    cancel_url: str | None = None


def checkout(session: Session, cart: Cart) -> Order:
    """Write an order in the caller's transaction, keep its stock, and enqueue the opening of its page at Stripe.

    Raises:
        BadCart: It is empty, names a product that there is not, or cannot be paid with one price.
        OutOfStock: There is not enough; nothing was written, and the caller may go on.
    """
    products = _products(session, cart)
    currency = _currency(products)
    shares = reservations.take(session, cart.lines)
    order = _order(cart, products, currency)
    session.add(order)
    session.flush()
    lines = {product.sku: _line(order, product, cart.lines[product.sku]) for product in products}
    session.add_all(lines.values())
    session.flush()
    session.add_all(
        Reservation(order_line_id=lines[one.sku].id, level_id=one.level_id, quantity=one.quantity) for one in shares
    )
    session.flush()
    open_checkout.enqueue(session, order_id=order.id)
    _tell_warehouse(session, order.id)
    return order


def settle(session: Session, order_id: int) -> None:
    """Bring an order up to date with what Stripe shows, and have it packed once it is paid."""
    if projection.project(session, order_id):
        fulfil.enqueue(session, order_id=order_id)
    _tell_warehouse(session, order_id)


@job(queue="stripe", time_limit=120, backoff=SOON, needs=[Stripe], unique=Unique(during="unfinished"))
def open_checkout(context: Context, *, order_id: RowId) -> dict[str, Any]:
    """Open the page on which the buyer pays, once, whatever happens to the answer."""
    with context.transaction() as session:
        if session.execute(BEGIN_OPENING, {"id": order_id}).first() is None:
            return {"order": order_id, "note": "there is nothing to open: it has a page, or nobody may pay any more"}
        asked, since = _asked(session, order_id)
    stripe, observation = context.use(Stripe), snapshots.draw(context)
    try:
        opened = stripe.open_checkout(asked)
    except Unavailable as error:
        # Stripe keeps its first answer to a key, a failure too, though the session may be there.
        found = stripe.find_checkout(asked.reference, since=since)
        if found is None:
            raise
        context.log(f"the page had been opened although: {error}")
        opened = found
    _keep_session(context, order_id, opened, observation)
    return {"order": order_id, "session": opened["id"]}


@job(queue="stripe", time_limit=120, backoff=SOON, needs=[Stripe], unique=Unique(during="unfinished"))
def close(context: Context, *, order_id: RowId) -> dict[str, Any]:
    """Close the page of an order whose time is up, and believe what Stripe says of it then."""
    stripe = context.use(Stripe)
    with context.transaction() as session:
        order = session.get_one(Order, order_id)
        known = session.scalar(SESSION_OF, {"id": order_id})
    observation = snapshots.draw(context)
    seen = stripe.fetch("checkout.session", known, expand=["payment_intent"]) if known else None
    seen = seen or stripe.find_checkout(order.reference, since=order.created_at - OPENING)
    if seen is None:
        return {"order": order_id, "given_up": _give_up(context, order_id)}
    if seen["status"] == "open":
        seen = _expired(stripe, seen["id"])
    _keep_session(context, order_id, seen, observation)
    return {"order": order_id, "session": seen["id"], "status": seen["status"]}


@job(queue="stripe", schedule=every(minutes=5))
def close_late(context: Context) -> dict[str, int]:
    """Have the pages closed of orders whose time is up and of which Stripe has not told us the end."""
    with context.transaction() as session:
        ids = session.scalars(LATE, {"grace": GRACE, "together": TOGETHER}).all()
        close.enqueue_many(session, [{"order_id": order_id} for order_id in ids])
    return {"late": len(ids)}


@job(queue="stripe")
def fulfil(context: Context, *, order_id: RowId) -> dict[str, Any]:
    """Hand an order over to be packed: the result is what is to be taken from where.

    Raises:
        Cancel: It is not to be sent out any more, or was handed over already.
    """
    with context.transaction() as session:
        state = projection.lock(session, order_id).state
        if state in {OrderState.PAID, OrderState.PARTIALLY_REFUNDED}:
            fresh = session.execute(HAND_OVER, {"id": order_id}).first() is not None
        else:
            fresh = False
            session.execute(WITHDRAW, {"id": order_id})
        picks = [dict(row) for row in session.execute(PICKS, {"id": order_id}).mappings()]
        _tell_warehouse(session, order_id)
    if not fresh:
        raise Cancel(f"order {order_id} is {state}: it is not handed over (again)")
    return {"order": order_id, "picks": picks}


@job(queue="maintenance", max_attempts=2, schedule=cron("20 4 * * *"))
def check_reservations(context: Context) -> dict[str, Any]:
    """Add up the open reservations of every level and compare with its `reserved`.

    Raises:
        ReservationsWrong: They differ somewhere.
    """
    with context.transaction() as session:
        levels, wrong, first = session.execute(RESERVED).one()
    if wrong:
        raise ReservationsWrong(
            f"the reservations of {wrong} of {levels} levels do not add up to what is reserved, the first is {first}:"
            " somebody wrote past them: find the writer, then correct `stock_levels.reserved`"
        )
    return {"levels": levels, "wrong": 0}


def _tell_warehouse(session: Session, order_id: int) -> None:
    """Have the warehouse told what it does not know of an order yet, a run for each level."""
    for level_id in adjustments.note(session, order_id):
        write_back.enqueue(session, level_id=level_id)


def _products(session: Session, cart: Cart) -> Sequence[Product]:
    if not cart.lines or min(cart.lines.values()) < 1:
        raise BadCart("a cart has at least one product, and at least one piece of each: leave the others out")
    wanted = select(Product).where(Product.sku.in_(cart.lines), Product.deleted_at.is_(None)).order_by(Product.sku)
    products = session.scalars(wanted).all()
    if missing := sorted(set(cart.lines) - {product.sku for product in products}):
        raise BadCart(f"there is no product with sku {missing[0]}: take it out of the cart")
    return products


def _currency(products: Sequence[Product]) -> str:
    """Return the one currency of all prices."""
    for product in products:
        if product.currency is None:
            raise BadCart(f"{product.sku} has no price: take it out of the cart")
    currencies = sorted({str(product.currency) for product in products})
    if len(currencies) > 1:
        raise BadCart(f"the prices are in {' and '.join(currencies)}: make an order for each currency")
    return currencies[0]


def _order(cart: Cart, products: Sequence[Product], currency: str) -> Order:
    reference = uuid4().hex
    return Order(
        reference=reference,
        state=OrderState.PENDING,
        amount=sum((product.price or 0) * cart.lines[product.sku] for product in products),
        currency=currency,
        success_url=cart.success_url,
        cancel_url=cart.cancel_url,
        checkout_key=f"order:{reference}:checkout",
        expires_at=func.date_trunc("second", func.now()) + TIME_TO_PAY,
    )


def _line(order: Order, product: Product, quantity: int) -> OrderLine:
    return OrderLine(
        order_id=order.id,
        product_id=product.id,
        sku=product.sku,
        name=product.name,
        price=product.price or 0,
        quantity=quantity,
    )


def _asked(session: Session, order_id: int) -> tuple[Checkout, datetime]:
    order = session.get_one(Order, order_id)
    lines = session.scalars(select(OrderLine).where(OrderLine.order_id == order_id).order_by(OrderLine.id))
    asked = Checkout(
        key=order.checkout_key,
        reference=order.reference,
        currency=order.currency,
        lines=[CheckoutLine(line.name, line.sku, line.price, line.quantity) for line in lines],
        expires_at=order.expires_at,
        success_url=order.success_url,
        cancel_url=order.cancel_url,
    )
    return asked, order.created_at - OPENING


def _keep_session(context: Context, order_id: int, seen: Mapping[str, Any], observation: int) -> None:
    snapshot = snapshots.read(SeenSession.kind, seen)
    with context.transaction() as session:
        snapshots.keep(session, snapshot, observation)
        if isinstance(snapshot, SeenSession) and snapshot.url is not None:
            session.execute(SHOW_PAGE, {"id": order_id, "url": snapshot.url})
        settle(session, order_id)


def _expired(stripe: Stripe, session_id: str) -> dict[str, Any]:
    try:
        return stripe.expire_checkout(session_id)
    except Rejected:  # somebody paid, or it has expired by itself: then that is what it shows
        return stripe.fetch("checkout.session", session_id, expand=["payment_intent"])


def _give_up(context: Context, order_id: int) -> bool:
    with context.transaction() as session:
        given_up = session.execute(GIVE_UP, {"id": order_id, "opening": OPENING}).first() is not None
        settle(session, order_id)
    return given_up

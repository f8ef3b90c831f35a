"""An order: what somebody wants to buy, the stock that is kept for it, and what has become of it.

Its state is never moved by hand. It is worked out from what Stripe shows (`models/payment.py`), each time anew, so the
order in which news arrives does not matter; `docs/orders.md` has the table. The stock of an order is *held* while the
buyer may still pay, *committed* once that is done, and *released* when it will not be.
"""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CHAR, BigInteger, CheckConstraint, ForeignKey, Identity, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base, Kept


class OrderState(StrEnum):
    """What Stripe's objects say about an order."""

    PENDING = "pending"
    AWAITING_PAYMENT = "awaiting_payment"
    PAID = "paid"
    HELD = "held"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"
    DISPUTED = "disputed"
    DISPUTE_LOST = "dispute_lost"
    PAYMENT_FAILED = "payment_failed"
    CANCELED = "canceled"
    EXPIRED = "expired"


class StockState(StrEnum):
    """What becomes of the stock of an order."""

    HELD = "held"
    COMMITTED = "committed"
    RELEASED = "released"
    #: The warehouse knows that it has left.
    SHIPPED = "shipped"


def _among(column: str, kind: type[StrEnum]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(str(word)) for word in kind)})", column)


class Order(Kept, Base):
    """One order."""

    __tablename__ = "orders"
    __table_args__ = (
        _among("state", OrderState),
        CheckConstraint("amount >= 0", "amount_not_negative"),
        # Orders whose time is up are looked for every few minutes.
        Index("orders_open", "expires_at", postgresql_where=text("state = 'pending'")),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: The name Stripe knows it by. Drawn at random: a database that was restored to an earlier moment, or somebody
    #: else who uses the same account, cannot come to the same one.
    reference: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str] = mapped_column(server_default="pending")
    #: Why it is held; empty otherwise.
    reason: Mapped[str | None]
    #: What is to be paid, in minor units of `currency`.
    amount: Mapped[int]
    currency: Mapped[str] = mapped_column(CHAR(3))
    #: What was received and what was given back of it, by Stripe's account.
    received: Mapped[int] = mapped_column(server_default="0")
    refunded: Mapped[int] = mapped_column(server_default="0")
    #: Where the buyer comes back to.
    success_url: Mapped[str]
    cancel_url: Mapped[str | None]
    #: Sent as `Idempotency-Key` with every attempt to open the checkout, so that there is one at most.
    checkout_key: Mapped[str] = mapped_column(unique=True)
    #: Where the buyer pays; empty until Stripe has opened the checkout.
    checkout_url: Mapped[str | None]
    #: When an attempt to open the checkout began last.
    opening_at: Mapped[datetime | None]
    #: Until when the buyer may pay; whole seconds, as Stripe keeps it.
    expires_at: Mapped[datetime]
    #: When we gave up on it because Stripe never had a checkout for it.
    given_up_at: Mapped[datetime | None]


class OrderLine(Kept, Base):
    """So many pieces of one product."""

    __tablename__ = "order_lines"
    __table_args__ = (UniqueConstraint("order_id", "product_id"), CheckConstraint("quantity > 0", "quantity"))

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"))
    #: As they were when it was ordered.
    sku: Mapped[str]
    name: Mapped[str]
    #: Of one piece, in minor units of the order's currency.
    price: Mapped[int]
    quantity: Mapped[int]


class Reservation(Kept, Base):
    """Pieces of a stock level that are kept for a line; the open ones of a level add up to its `reserved`."""

    __tablename__ = "reservations"
    __table_args__ = (
        UniqueConstraint("order_line_id", "level_id"),
        _among("state", StockState),
        CheckConstraint("quantity > 0", "quantity"),
        Index("reservations_open", "level_id", postgresql_where=text("state IN ('held', 'committed')")),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    order_line_id: Mapped[int] = mapped_column(ForeignKey("order_lines.id"))
    level_id: Mapped[int] = mapped_column(ForeignKey("stock_levels.id"))
    quantity: Mapped[int]
    state: Mapped[str] = mapped_column(server_default="held")


class Fulfilment(Kept, Base):
    """An order is to be shipped. The primary key is what makes that happen once.

    One that is withdrawn before it was handed over carries `deleted_at`, and comes back if the order is paid after all.
    """

    __tablename__ = "fulfilments"

    order_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("orders.id"), primary_key=True)
    #: When it was handed to whoever packs it: from here on its stock is theirs.
    handed_at: Mapped[datetime | None]

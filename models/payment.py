"""What Stripe last showed of each object that an order depends on.

An event is only a hint: the object is fetched, and the snapshot with the higher observation number stays. The number
is drawn from the database before the fetch, so no clock is compared and the order of delivery does not matter.
"""

from datetime import datetime

from sqlalchemy import CHAR, ForeignKey, Identity, Sequence
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base, Kept

#: Drawn before each fetch; gaps are harmless.
OBSERVATIONS = Sequence("observations", metadata=Base.metadata)


class Observed:
    """The columns of every snapshot."""

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: Stripe's id, `pi_...`.
    source_id: Mapped[str] = mapped_column(unique=True)
    status: Mapped[str]
    #: In minor units of `currency`.
    amount: Mapped[int]
    currency: Mapped[str] = mapped_column(CHAR(3))
    #: Number of the observation this snapshot came from.
    observation: Mapped[int]
    observed_at: Mapped[datetime]


class CheckoutSession(Observed, Kept, Base):
    """The page on which the buyer of one order pays."""

    __tablename__ = "checkout_sessions"

    #: Whether it is `paid`, `unpaid` or needs no payment; a session that is complete need not be paid.
    payment_status: Mapped[str]
    #: The status of its payment intent in the same look, for the two say more together than each by itself.
    intent_status: Mapped[str | None]
    #: The payment intent, once there is one.
    payment: Mapped[str | None] = mapped_column(index=True)
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"), index=True)


class Payment(Observed, Kept, Base):
    """One payment intent."""

    __tablename__ = "payments"

    amount_received: Mapped[int]
    #: Empty for one that is no order's of ours.
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"), index=True)


class Refund(Observed, Kept, Base):
    """Money that goes back; it may still fail after it succeeded."""

    __tablename__ = "refunds"

    #: The payment intent it belongs to.
    payment: Mapped[str | None] = mapped_column(index=True)


class Dispute(Observed, Kept, Base):
    """Money that the buyer's bank wants back."""

    __tablename__ = "disputes"

    payment: Mapped[str | None] = mapped_column(index=True)


class EventMark(Base):
    """How far the events of a source were read that no endpoint of ours had accepted."""

    __tablename__ = "event_marks"

    source: Mapped[str] = mapped_column(primary_key=True)
    #: Everything older than this event has been looked at.
    external_id: Mapped[str]
    moved_at: Mapped[datetime]

"""What an order is, given what Stripe shows: one pure function, and a second one for its stock.

The state is never moved from one to the next by news: news comes twice, late and in any order. It is worked out anew
from all snapshots each time one of them changed, so whatever way they came, the same snapshots make the same order.
`docs/orders.md` has the table that `judge` reads from top to bottom, and a test compares the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from models import OrderState, StockState

#: Disputes that are over, and not to our loss. A status that we do not know counts as open: better to look once more.
OVER = frozenset({"won", "warning_closed", "prevented"})
LOST = "lost"
#: Refunds whose money has gone back or is on its way.
GOING_BACK = frozenset({"pending", "succeeded"})
WANTS_A_CARD = "requires_payment_method"
PAID_SESSIONS = frozenset({"paid", "no_payment_required"})


@dataclass(frozen=True)
class Money:
    """So much of a currency, in minor units, in a status."""

    status: str
    amount: int
    currency: str


@dataclass(frozen=True)
class SessionFacts(Money):
    """What a checkout session shows."""

    payment_status: str
    #: Of its payment in the same look.
    intent_status: str | None = None


@dataclass(frozen=True)
class Facts:
    """An order, and all that Stripe shows of it."""

    amount: int
    currency: str
    sessions: Sequence[SessionFacts] = ()
    #: With what was received of each as its amount.
    payments: Sequence[Money] = ()
    refunds: Sequence[Money] = ()
    disputes: Sequence[Money] = ()
    #: Stripe never had a checkout for it, and its time is up.
    given_up: bool = False


@dataclass(frozen=True)
class Judged:
    """What an order is; the reason says why it is held."""

    state: OrderState
    received: int = 0
    refunded: int = 0
    reason: str | None = None


def judge(facts: Facts) -> Judged:
    """Return what an order is."""
    incoming = _incoming(facts)
    received = sum(money.amount for money in incoming)
    refunded = sum(refund.amount for refund in facts.refunds if refund.status in GOING_BACK)
    complaint = _complaint(facts, incoming, received, refunded) if incoming else None
    state = _state(facts, received, refunded, complaint)
    return Judged(state, received, refunded, complaint if state is OrderState.HELD else None)


def stock_of(state: OrderState, *, handed: bool) -> StockState:
    """Return what becomes of the stock of an order in this state.

    Args:
        state: What the order is.
        handed: Whether it was handed over to be packed.
    """
    if state in {OrderState.PENDING, OrderState.AWAITING_PAYMENT}:
        return StockState.HELD
    if state in {OrderState.PAYMENT_FAILED, OrderState.CANCELED, OrderState.EXPIRED}:
        return StockState.RELEASED
    if state is OrderState.REFUNDED and not handed:
        return StockState.RELEASED
    return StockState.COMMITTED


def is_shipped(state: OrderState) -> bool:
    """Whether an order in this state is to be sent out."""
    return state in {OrderState.PAID, OrderState.PARTIALLY_REFUNDED}


def _state(facts: Facts, received: int, refunded: int, complaint: str | None) -> OrderState:
    disputes = {dispute.status for dispute in facts.disputes} - OVER
    if disputes - {LOST}:
        return OrderState.DISPUTED
    if disputes:
        return OrderState.DISPUTE_LOST
    if not _is_paid(facts):
        return _unpaid(facts)
    if 0 < received <= refunded:
        return OrderState.REFUNDED
    if complaint is not None:
        return OrderState.HELD
    return OrderState.PARTIALLY_REFUNDED if refunded else OrderState.PAID


def _unpaid(facts: Facts) -> OrderState:
    payments = {payment.status for payment in facts.payments}
    sessions = {session.status for session in facts.sessions}
    # A completed session is not open to another card: if its payment wants one, it has failed for good.
    if any(one.status == "complete" and one.intent_status == WANTS_A_CARD for one in facts.sessions):
        return OrderState.PAYMENT_FAILED
    if "expired" in sessions:  # and its payment, if it had one, is canceled with it
        return OrderState.EXPIRED
    if "canceled" in payments:
        return OrderState.CANCELED
    if "complete" in sessions:
        return OrderState.AWAITING_PAYMENT
    if facts.given_up and not sessions:
        return OrderState.EXPIRED
    return OrderState.PENDING


def _is_paid(facts: Facts) -> bool:
    return bool(_incoming(facts))


def _incoming(facts: Facts) -> Sequence[Money]:
    """Return what was paid: the payments if they say so, or else the session, which may be the first to know."""
    return [payment for payment in facts.payments if payment.status == "succeeded"] or [
        session for session in facts.sessions if session.payment_status in PAID_SESSIONS
    ]


def _complaint(facts: Facts, incoming: Sequence[Money], received: int, refunded: int) -> str | None:
    currencies = sorted({money.currency for money in incoming} - {facts.currency})
    if currencies:
        return f"paid in {' and '.join(currencies)} instead of {facts.currency}: compare with Stripe, then refund it"
    # Too much that was sent back is settled.
    if facts.amount not in {received, received - refunded}:
        return f"{received} was received and {facts.amount} was due: compare with Stripe, then refund what is too much"
    return None

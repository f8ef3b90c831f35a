"""One Stripe account in memory: payments and what belongs to them, and the events that tell of them.

As with the real one an event is a photograph: rendered when something happened and never changed, while the object
moves on. `created` counts whole seconds, so that distinct events share it and nobody can order by it.
"""

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

Item = dict[str, Any]

API_VERSION = "2026-10-28.endive"
DECLINED = "pm_card_chargeDeclined"

_KINDS = {
    "pi": "payment_intents",
    "ch": "charges",
    "re": "refunds",
    "cs": "checkout_sessions",
    "dp": "disputes",
}


class StripeError(Exception):
    """A request Stripe refuses, in its own words: HTTP status, error type, code and sentence."""

    def __init__(self, status: int, kind: str, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.document = {"error": {"type": kind, "code": code, "message": message}}


class StripeAccount:
    """Objects by kind, and the events in the order they happened; `listener` hears of each event."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Item]] = {kind: {} for kind in _KINDS.values()}
        self.events: dict[str, Item] = {}
        self.listener: Callable[[Item], None] = lambda _event: None

    def get(self, kind: str, object_id: str) -> Item:
        """Fetch an object of a kind such as `refunds`, or of `events`.

        Raises:
            StripeError: 404, there is none.
        """
        found = (self.events if kind == "events" else self.objects[kind]).get(object_id)
        if found is None:
            raise StripeError(404, "invalid_request_error", "resource_missing", f"No such {kind[:-1]}: '{object_id}'")
        return found

    def find(self, object_id: str) -> Item:
        """Fetch an object by its id alone."""
        kind = _KINDS.get(object_id.partition("_")[0])
        if kind is None:
            raise StripeError(404, "invalid_request_error", "resource_missing", f"No such object: '{object_id}'")
        return self.get(kind, object_id)

    def create_payment(self, amount: int, currency: str, metadata: Mapping[str, str]) -> Item:
        """Open a payment intent of `amount` minor units."""
        payment = self.add("pi", "payment_intent", amount, currency, metadata)
        payment |= {
            "amount_received": 0,
            "amount_capturable": 0,
            "status": "requires_payment_method",
            "latest_charge": None,
            "last_payment_error": None,
            "canceled_at": None,
            "cancellation_reason": None,
            "capture_method": "automatic",
            "customer": None,
            "payment_method_types": ["card"],
        }
        self.happened("payment_intent.created", payment)
        return payment

    def process(self, payment: Item) -> None:
        """Let the bank think about it."""
        payment["status"] = "processing"
        self.happened("payment_intent.processing", payment)

    def pay(self, payment: Item) -> None:
        """Charge the card with success."""
        self._open_only(payment)
        charge = self.add("ch", "charge", payment["amount"], payment["currency"], payment["metadata"])
        charge |= {
            "amount_refunded": 0,
            "status": "succeeded",
            "paid": True,
            "captured": True,
            "refunded": False,
            "payment_intent": payment["id"],
        }
        payment |= {
            "status": "succeeded",
            "amount_received": payment["amount"],
            "latest_charge": charge["id"],
            "last_payment_error": None,
        }
        self.happened("charge.succeeded", charge)
        self.happened("payment_intent.succeeded", payment)

    def decline(self, payment: Item) -> None:
        """Have the card declined; the payment may be tried again."""
        self._open_only(payment)
        error = {"type": "card_error", "code": "card_declined", "message": "Your card was declined."}
        payment |= {"status": "requires_payment_method", "last_payment_error": error}
        self.happened("payment_intent.payment_failed", payment)

    def cancel(self, payment: Item, reason: str | None) -> None:
        """Give the payment up."""
        self._open_only(payment)
        payment |= {"status": "canceled", "canceled_at": int(time.time()), "cancellation_reason": reason}
        self.happened("payment_intent.canceled", payment)

    def refund(self, charge: Item, amount: int | None, reason: str | None, metadata: Mapping[str, str]) -> Item:
        """Give back `amount` of a charge, all that is left if None.

        Raises:
            StripeError: 400, more than is left.
        """
        left = charge["amount"] - charge["amount_refunded"]
        amount = left if amount is None else amount
        if not 0 < amount <= left:
            message = f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})"
            raise StripeError(400, "invalid_request_error", "amount_too_large", message)
        refund = self.add("re", "refund", amount, charge["currency"], metadata)
        refund |= {
            "status": "succeeded",
            "charge": charge["id"],
            "payment_intent": charge["payment_intent"],
            "reason": reason,
            "failure_reason": None,
        }
        self._refunded(charge, amount)
        self.happened("refund.created", refund)
        self.happened("charge.refunded", charge)
        return refund

    def fail_refund(self, refund: Item) -> None:
        """Have the bank send a refund back, days after it succeeded."""
        refund |= {"status": "failed", "failure_reason": "lost_or_stolen_card"}
        self._refunded(self.find(refund["charge"]), -refund["amount"])
        self.happened("refund.failed", refund)

    def _refunded(self, charge: Item, amount: int) -> None:
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]

    def _open_only(self, payment: Item) -> None:
        if payment["status"] in {"succeeded", "canceled"}:
            message = f"This PaymentIntent's status is {payment['status']}; it can no longer change."
            raise StripeError(400, "invalid_request_error", "payment_intent_unexpected_state", message)

    def add(self, prefix: str, name: str, amount: int, currency: str, metadata: Mapping[str, str]) -> Item:
        """Make an object of a kind; its maker adds what belongs to it alone."""
        item: Item = {
            "id": _id(prefix),
            "object": name,
            "amount": amount,
            "currency": currency,
            "created": int(time.time()),
            "livemode": False,
            "metadata": dict(metadata),
        }
        self.objects[_KINDS[prefix]][item["id"]] = item
        return item

    def happened(self, kind: str, item: Item) -> None:
        """Take the photograph of an object, and tell of it."""
        event: Item = {
            "id": _id("evt"),
            "object": "event",
            "api_version": API_VERSION,
            "created": int(time.time()),
            "type": kind,
            "livemode": False,
            "pending_webhooks": 1,
            "request": {"id": _id("req"), "idempotency_key": None},
            "data": {"object": copy.deepcopy(item)},
        }
        self.events[event["id"]] = event
        self.listener(event)


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid4().hex[:24]}"

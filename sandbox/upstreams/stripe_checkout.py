"""Buyers on Stripe's own page: they pay, are declined, pay later, let the time run out, and go to their bank.

Each act changes the objects as Stripe would and lets the account tell of it. A payment intent comes into being when the
buyer first tries to pay; until then the session has none.
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from sandbox.upstreams.stripe_account import Item, StripeAccount, StripeError

_INVALID = "invalid_request_error"
_SHORTEST_S, _LONGEST_S = 30 * 60, 24 * 3_600
_LINE = re.compile(r"line_items\[(\d+)\]\[(quantity|price_data\]\[unit_amount|price_data\]\[currency)\]")


class Checkouts:
    """The checkout sessions and disputes of an account. `acts` are what buyers and banks may do, by name."""

    def __init__(self, account: StripeAccount) -> None:
        self._account = account
        self.acts: Mapping[str, Callable[[Item, int | None], Any]] = {
            "pay": self._pay,
            "decline": self._decline,
            "pay_later": self._pay_later,
            "arrive": self._arrive,
            "bounce": self._bounce,
            "expire": lambda session, _: self.expire(session),
            "fail_refund": lambda refund, _: account.fail_refund(refund),
            "dispute": self._dispute,
            "win": lambda dispute, _: self._close(dispute, "won"),
            "lose": lambda dispute, _: self._close(dispute, "lost"),
        }

    def act(self, name: str, object_id: str, amount: int | None) -> Item:
        """Have a buyer or a bank do something; returns the object as it is then.

        Raises:
            StripeError: There is no such object, or it is not in a state for that.
        """
        found = self._account.find(object_id)
        made = self.acts[name](found, amount)
        return made if isinstance(made, dict) else found

    def open(self, parameters: Mapping[str, str], metadata: Mapping[str, str]) -> Item:
        """Open a session.

        Raises:
            StripeError: 400, the request makes no sense.
        """
        amount, currency = _sum(parameters)
        expires_at = int(parameters.get("expires_at", int(time.time()) + _LONGEST_S))
        if not _SHORTEST_S - 5 <= expires_at - time.time() <= _LONGEST_S:
            message = "The `expires_at` timestamp must be between 30 minutes and 24 hours from now."
            raise StripeError(400, _INVALID, "parameter_invalid_integer", message)
        session = self._account.add("cs", "checkout.session", amount, currency, metadata)
        del session["amount"]
        session |= {
            "amount_total": amount,
            "client_reference_id": parameters.get("client_reference_id"),
            "expires_at": expires_at,
            "mode": "payment",
            "payment_intent": None,
            "payment_status": "unpaid",
            "status": "open",
            "success_url": parameters.get("success_url"),
            "cancel_url": parameters.get("cancel_url"),
            "url": f"https://checkout.stripe.example/c/pay/{session['id']}",
        }
        return session

    def expire(self, session: Item) -> Item:
        """Close a session that nobody has paid.

        Raises:
            StripeError: 400, it is not open.
        """
        _only(session, "open")
        session |= {"status": "expired", "url": None}
        if session["payment_intent"] is not None:
            self._account.cancel(self._account.find(session["payment_intent"]), "automatic")
        self._account.happened("checkout.session.expired", session)
        return session

    def _pay(self, session: Item, amount: int | None) -> None:
        _only(session, "open")
        if amount is not None:
            session["amount_total"] = amount
        self._account.pay(self._payment(session))
        self._complete(session, "paid")

    def _decline(self, session: Item, _amount: int | None) -> None:
        _only(session, "open")
        self._account.decline(self._payment(session))

    def _pay_later(self, session: Item, _amount: int | None) -> None:
        _only(session, "open")
        self._account.process(self._payment(session))
        self._complete(session, "unpaid")

    def _arrive(self, session: Item, _amount: int | None) -> None:
        self._account.pay(self._payment(session))
        session["payment_status"] = "paid"
        self._account.happened("checkout.session.async_payment_succeeded", session)

    def _bounce(self, session: Item, _amount: int | None) -> None:
        self._account.decline(self._payment(session))
        self._account.happened("checkout.session.async_payment_failed", session)

    def _dispute(self, about: Item, amount: int | None) -> Item:
        payment = self._account.find(about["payment_intent"]) if about["object"] == "checkout.session" else about
        charge = self._account.find(payment["latest_charge"])
        dispute = self._account.add("dp", "dispute", amount or charge["amount"], charge["currency"], {})
        dispute |= {
            "status": "needs_response",
            "reason": "fraudulent",
            "charge": charge["id"],
            "payment_intent": payment["id"],
        }
        self._account.happened("charge.dispute.created", dispute)
        return dispute

    def _close(self, dispute: Item, status: str) -> None:
        dispute["status"] = status
        self._account.happened("charge.dispute.closed", dispute)

    def _complete(self, session: Item, payment_status: str) -> None:
        session |= {"status": "complete", "payment_status": payment_status, "url": None}
        self._account.happened("checkout.session.completed", session)

    def _payment(self, session: Item) -> Item:
        if session["payment_intent"] is None:
            payment = self._account.create_payment(session["amount_total"], session["currency"], session["metadata"])
            session["payment_intent"] = payment["id"]
        return self._account.find(session["payment_intent"])


def _only(session: Item, status: str) -> None:
    if session["status"] != status:
        message = f"Only Checkout Sessions with a status of `{status}` can do that; this one is {session['status']}."
        raise StripeError(400, _INVALID, "checkout_session_unexpected_state", message)


def _sum(parameters: Mapping[str, str]) -> tuple[int, str]:
    lines: dict[str, dict[str, str]] = {}
    for name, value in parameters.items():
        if found := _LINE.fullmatch(name):
            lines.setdefault(found[1], {})[found[2].rpartition("[")[2]] = value
    try:
        amount = sum(int(line["quantity"]) * int(line["unit_amount"]) for line in lines.values())
        (currency,) = {line["currency"] for line in lines.values()}
    except (KeyError, ValueError):
        raise StripeError(400, _INVALID, "parameter_missing", "Give line_items, all in one currency.") from None
    return amount, currency

"""Customers: payments that are tried, declined, tried again, paid, given up and refunded, many at the same time.

Each payment is a small story. A few are open at once and take turns at random, so that the events of different payments
interleave as they do on a busy day.
"""

import random
from collections.abc import Iterator

from sandbox.upstreams.stripe_account import StripeAccount

_OPEN_STORIES = 6


class StripeLife:
    """Makes things happen on an account."""

    def __init__(self, account: StripeAccount, seed: int) -> None:
        self._account = account
        self._random = random.Random(seed)
        self._stories: list[Iterator[None]] = []
        self._orders = 0

    def happen(self, count: int) -> int:
        """Go on until at least `count` more events exist; tell how many there are."""
        before = len(self._account.events)
        while len(self._account.events) - before < count:
            while len(self._stories) < _OPEN_STORIES:
                self._stories.append(self._story())
            story = self._random.choice(self._stories)
            if next(story, "over") == "over":
                self._stories.remove(story)
        return len(self._account.events) - before

    def _story(self) -> Iterator[None]:
        account, dice = self._account, self._random
        self._orders += 1
        payment = account.create_payment(dice.randint(99, 25_000), "usd", {"order_id": f"order_{self._orders:06d}"})
        yield
        while dice.random() < 1 / 4:
            account.decline(payment)
            yield
        if dice.random() < 1 / 10:
            account.cancel(payment, "abandoned")
            return
        if dice.random() < 1 / 3:
            account.process(payment)
            yield
        account.pay(payment)
        yield
        yield from self._refunds(payment["latest_charge"])

    def _refunds(self, charge_id: str) -> Iterator[None]:
        account, dice = self._account, self._random
        charge = account.find(charge_id)
        while dice.random() < 1 / 4 and not charge["refunded"]:
            left = charge["amount"] - charge["amount_refunded"]
            refund = account.refund(charge, dice.choice([None, dice.randint(1, left)]), "requested_by_customer", {})
            yield
            if dice.random() < 1 / 10:
                account.fail_refund(refund)
                yield

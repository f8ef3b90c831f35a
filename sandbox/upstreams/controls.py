"""The back door from the caller's side: what a test or the demo may do to a running stand-in."""

from collections.abc import Iterator
from typing import Any

import httpx
import orjson

Item = dict[str, Any]

_TIMEOUT_S = 300


class Admin:
    """Switches, sales and truth of the stand-ins at `url`.

    Every call raises `httpx.HTTPStatusError` when the stand-in refuses it, with its reason in the response.
    """

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=_TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def faults(self, **switches: float | bool) -> Item:
        """Move these switches (none: just show all); see `sandbox.upstreams.faults.Faults` for their names."""
        return self._post("/admin/faults", switches)

    def reset_faults(self) -> Item:
        """Put every switch back to rest."""
        return self._post("/admin/faults/reset", {})

    def live(self, rate: float) -> Item:
        """Replay this many sale lines per second from now on; 0 stops."""
        return self._post("/admin/live", {"rate": rate})

    def sell(self, count: int, *, wait_s: float = 0) -> Item:
        """Replay `count` sale lines now and wait up to `wait_s` until their webhooks are accepted.

        Returns:
            `happened` (lines replayed), `messages` (webhooks made of it), `delivered` (all were accepted in time).
        """
        return self._post("/admin/sales", {"count": count, "wait_s": wait_s})

    def stripe_events(self, count: int, *, wait_s: float = 0) -> Item:
        """Let customers pay and return until at least `count` more Stripe events exist; answers as `sell` does."""
        return self._post("/admin/stripe/events", {"count": count, "wait_s": wait_s})

    def stripe_act(self, act: str, object_id: str, *, amount: int | None = None) -> Item:
        """Have a buyer or a bank do something at Stripe; see `sandbox.upstreams.stripe_checkout` for the acts.

        Returns:
            The object as it is then; `dispute` returns the dispute.
        """
        return self._post("/admin/stripe/act", {"act": act, "id": object_id, "amount": amount})

    def change_level(self, level_id: str, **fields: int | bool) -> Item:
        """Set `on_hand`, `reserved`, `incoming` of a level, or `deleted=True`; returns the item."""
        return self._post("/admin/change", {"level": level_id, **fields})

    def change_product(self, product_id: str, **fields: int | str | bool | None) -> Item:
        """Set `name`, `brand`, `category`, `cents` of a product, or `deleted=True`; returns the item."""
        return self._post("/admin/change", {"product": product_id, **fields})

    def send_webhooks_to(self, target: str | None) -> Item:
        """Name the receiver's base URL; None stops sending."""
        return self._post("/admin/webhooks", {"target": target})

    def stats(self) -> Item:
        """Count products, levels, requests, answers and webhooks."""
        return self._answer(self._client.get("/admin/stats"))

    def products(self) -> Iterator[Item]:
        """Stream the truth about every product, tombstones included."""
        return self._lines("/admin/snapshot/products")

    def levels(self) -> Iterator[Item]:
        """Stream the truth about every stock level, tombstones included."""
        return self._lines("/admin/snapshot/levels")

    def _post(self, path: str, body: Item) -> Item:
        return self._answer(self._client.post(path, content=orjson.dumps(body)))

    def _answer(self, response: httpx.Response) -> Item:
        response.raise_for_status()
        document: Item = orjson.loads(response.content)
        return document

    def _lines(self, path: str) -> Iterator[Item]:
        with self._client.stream("GET", path) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                yield orjson.loads(line)

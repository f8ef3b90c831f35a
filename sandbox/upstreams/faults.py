"""The switches that make the warehouse fail on purpose, in every way a partner's system was ever seen to fail.

Everything is off at first. Shares are between 0 and 1 and are drawn from a seeded generator, so a failing test fails
again. Which items are malformed is not drawn but derived from their ids: the same ones on every page of every
walk, and sound when fetched by id, unless `malformed_sticky` says that they are broken at the root.
"""

import random
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Item = dict[str, Any]


class Faults(BaseModel):
    """All switches, with their positions at rest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    error_rate: Share = Field(0, description="share of answers that are 500, 502 or 503")
    latency_ms: Count = Field(0, description="wait before each answer")
    throttle_rate: Share = Field(0, description="share of answers that are 429; Retry-After alternates seconds, date")
    busy_rate: Share = Field(0, description="share of answers that are 503 with Retry-After")
    retry_after_s: Count = Field(1, description="what Retry-After asks for")
    malformed_rate: Share = Field(0, description="share of listed items that would not validate")
    malformed_sticky: bool = Field(default=False, description="malformed items are also malformed when fetched by id")
    malformed_nameless: bool = Field(default=True, description="some malformed items lack even the id to fetch them by")
    page_not_json_rate: Share = Field(0, description="share of list answers that are a page of HTML with status 200")
    duplicate_items: Count = Field(0, description="items of a page that the next page repeats")
    moving_items: Count = Field(0, description="items changed, and so moved to the end, each time a page is served")
    expire_cursors_rate: Share = Field(0, description="share of cursors answered with 410")
    drop_connections_rate: Share = Field(0, description="share of answers cut off in the middle of the body")
    gzip_bomb: bool = Field(default=False, description="answer 64 kB of gzip that decode to 64 MB of zeros")
    clock_skew_s: float = Field(0, description="how far the warehouse's clock is ahead (or behind, if negative)")
    cursor_loop: bool = Field(default=False, description="the next cursor is the one that was sent")
    endless_empty_pages: bool = Field(default=False, description="empty pages that promise more, for ever")
    cross_origin_next: bool = Field(default=False, description="the next link leads to another host")
    fail_after_rate: Share = Field(0, description="share of adjustments that are made and answered with 500")
    rate_limit: int = Field(60_000, ge=1, description="requests per window")
    rate_window_s: float = Field(60, gt=0, description="length of the rate limit's window")
    cursor_lifetime_s: float = Field(3_600, description="age at which a cursor expires")
    webhook_duplicate_rate: Share = Field(0, description="share of webhooks delivered twice under the same id")
    webhook_reorder_rate: Share = Field(0, description="share of webhooks held back so that later ones overtake them")
    webhook_loss_rate: Share = Field(0, description="share of webhooks never sent at all")
    stripe_error_rate: Share = Field(0, description="share of Stripe's answers that are 500")
    stripe_fail_after_rate: Share = Field(0, description="share of Stripe's POSTs that are done and answered with 500")
    stripe_throttle_rate: Share = Field(0, description="share of Stripe's answers that are 429 with Retry-After")
    stripe_latency_ms: Count = Field(0, description="wait before each answer of Stripe's")
    stripe_thin_rate: Share = Field(0, description="share of Stripe's events that are delivered thin")


class Switchboard:
    """The present position of all switches, and the dice they use."""

    def __init__(self, seed: int, resting: Faults | None = None) -> None:
        self.seed = seed
        self.faults = self._resting = resting or Faults()
        self.revision = 0
        self.random = random.Random(seed)

    def update(self, changes: Mapping[str, Any]) -> Faults:
        """Move some switches; the others stay.

        Raises:
            pydantic.ValidationError: no such switch, or no such position.
        """
        return self._set(Faults.model_validate({**self.faults.model_dump(), **changes}))

    def reset(self) -> Faults:
        """Put every switch back to where it was at start."""
        return self._set(self._resting)

    def strikes(self, share: float) -> bool:
        """Draw whether a fault of this share happens now."""
        return share > 0 and self.random.random() < share

    def spoil(self, item: Item, *, by_id: bool = False) -> Any:
        """Return the item, or the broken form of it that this item is fated to have."""
        if not self.faults.malformed_rate or (by_id and not self.faults.malformed_sticky):
            return item
        fate = random.Random(f"{self.seed}:{item['id']}")
        breakages = [*_BREAKAGES, *_NAMELESS] if self.faults.malformed_nameless else _BREAKAGES
        return fate.choice(breakages)(item) if fate.random() < self.faults.malformed_rate else item

    def _set(self, faults: Faults) -> Faults:
        self.faults = faults
        self.revision += 1
        return faults


def _without(item: Item, field: str) -> Item:
    return {name: value for name, value in item.items() if name != field}


def _with_quantity(item: Item, level_field: str, quantity: Any) -> Item:
    if "price" in item:
        return {**item, "price": {"amount": quantity, "currency": "USD"}}
    return {**item, level_field: quantity}


# Negative stock on hand is not among them: an oversold shelf is bad news, not bad data.
_BREAKAGES: list[Callable[[Item], Any]] = [
    lambda item: _without(item, "sku"),
    lambda item: _without(item, "updated_at"),
    lambda item: _with_quantity(item, "reserved", -3),
    lambda item: _with_quantity(item, "on_hand", 1.5),
    lambda item: _with_quantity(item, "on_hand", "a dozen"),
    lambda item: _with_quantity(item, "on_hand", []),
    lambda item: {**item, "sku": ["?"]},
    lambda item: {**item, "updated_at": "yesterday"},
    lambda item: {**item, "version": None},
]
_NAMELESS: list[Callable[[Item], Any]] = [
    lambda item: _without(item, "id"),
    lambda item: [item["id"]],
]

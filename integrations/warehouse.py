"""The warehouse: products, stock levels and locations as the warehouse system knows them.

We ask for what changed since a moment and walk the pages in the warehouse's own order of change; it tells us of
single changes by signed webhook. Nothing that arrives is trusted to be well-formed: every item is checked alone, so
one item without a sku becomes a ``Reject`` beside its page's good items and never hides them. The page around the
items must be right, though: half a page would look like the end of a walk, and the end of a walk is what deletions
are concluded from.

What is accepted on purpose: a negative ``on_hand`` (a warehouse that oversold says so), quantities written as
strings, and fields we do not know. What is not: fractions, booleans, times without a zone, negative reservations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, TypeVar
from urllib.parse import quote

import orjson
from pydantic import BaseModel, Field, ValidationError

from integrations._errors import BadDelivery, CursorExpired, Rejected
from integrations._http import HttpUpstream
from integrations._integration import Integration, signed_by
from integrations._page import Page, Reject, malformed_item, next_links, reject
from integrations._rate import PacedSettings, Rate
from integrations._reply import Reply
from integrations._schemes import STANDARD
from integrations._secrets import Secrets
from integrations._settings import Credential, IntegrationSettings, PartnerAddress
from integrations._source import Body, Source, parse_object, require_label
from integrations._teaching import Teaching
from integrations._warehouse_items import LevelItem, LocationItem, ProductItem, explain, read_moment

__all__ = ["Change", "LevelItem", "LocationItem", "Page", "ProductItem", "Reject", "Warehouse", "WarehouseSettings"]

T = TypeVar("T", bound=BaseModel)

LARGEST_PAGE = 500
_CURSOR_CODES = frozenset({"cursor_expired", "cursor_invalid", "cursor_mismatch"})


class WarehouseSettings(PacedSettings):
    """Where the warehouse system answers, and what proves who is asking."""

    url: PartnerAddress = Field(description="Base address of the warehouse system, https except on this machine.")
    token: Credential = Field(description="Bearer token for the warehouse system.")
    webhook_secrets: Annotated[Secrets, signed_by(STANDARD)] = Field(
        default=(), description="Secrets its webhooks are signed with (whsec_...), comma-separated, newest first."
    )


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one stock level at the warehouse, decided upon one version of it."""

    key: str
    """Sent as ``Idempotency-Key``: whoever asks again with it asks for the same change, which is made once."""
    level_id: str
    on_hand: int
    """Pieces that come in, or leave if negative."""
    reserved: int
    """Pieces that are to be kept for us, or no longer if negative."""
    reason: str
    occurred_at: datetime
    expected_version: int
    """If the warehouse has another one it changes nothing, now and later."""

    def body(self) -> bytes:
        """Return the request's body; the same bytes for the same change."""
        return orjson.dumps(
            {
                "inventory_level_id": self.level_id,
                "delta": self.on_hand,
                "reserved_delta": self.reserved,
                "reason": self.reason,
                "occurred_at": _moment(self.occurred_at),
                "expected_version": self.expected_version,
            }
        )


class Warehouse(Integration):
    """Client of the warehouse system, and judge of its deliveries."""

    name: ClassVar[str] = "warehouse"
    Settings: ClassVar[type[IntegrationSettings]] = WarehouseSettings
    source: ClassVar[Source] = Source(scheme=STANDARD, subject=(Body("data.id"),))
    # It states its own limit, per minute, in each answer: this is what we take of it at most.
    rate: ClassVar[Rate | None] = Rate(calls=100, period=1.0, burst=100, concurrency=32)
    teaching: ClassVar[Teaching] = Teaching(window=60.0)

    def __init__(self, settings: WarehouseSettings) -> None:
        super().__init__(settings)
        self._http = HttpUpstream(self.name, settings.url, settings.token, breaker=self.breaker)

    def close(self) -> None:
        self._http.close()

    def probe(self) -> None:
        self._http.get("/v1/locations")

    def products(
        self,
        *,
        updated_since: datetime | None = None,
        cursor: str | None = None,
        limit: int = LARGEST_PAGE,
        etag: str | None = None,
        include_deleted: bool = True,
    ) -> Page[ProductItem]:
        """List products by time of change, oldest first.

        Args:
            updated_since: Only what changed at or after this moment; None for everything.
            cursor: ``next_cursor`` of the page before, together with the same other arguments.
            limit: Items per page, 1 to 500.
            etag: The ETag of the last answer to this very question.
            include_deleted: Whether deleted products are listed too, marked as such.

        Raises:
            CursorExpired: The cursor is too old or was given for other arguments: walk again from the start.
            IntegrationError: See ``integrations._errors``.
        """
        query = _query(updated_since, cursor, limit, include_deleted=include_deleted)
        return self._page(ProductItem, "/v1/products", query, etag)

    def levels(
        self,
        *,
        updated_since: datetime | None = None,
        cursor: str | None = None,
        limit: int = LARGEST_PAGE,
        etag: str | None = None,
        include_deleted: bool = True,
    ) -> Page[LevelItem]:
        """List stock levels by time of change, oldest first. Arguments and errors as for :meth:`products`."""
        query = _query(updated_since, cursor, limit, include_deleted=include_deleted)
        return self._page(LevelItem, "/v1/inventory-levels", query, etag)

    def product(self, product_id: str) -> ProductItem:
        """Fetch one product.

        Raises:
            NotFound: There is none of this id.
            Rejected: It is still malformed; ``code`` is ``malformed_item``.
            IntegrationError: See ``integrations._errors``.
        """
        return self._item(ProductItem, f"/v1/products/{quote(product_id, safe='')}")

    def level(self, level_id: str) -> LevelItem:
        """Fetch one stock level. Errors as for :meth:`product`."""
        return self._item(LevelItem, f"/v1/inventory-levels/{quote(level_id, safe='')}")

    def adjust(self, change: Change) -> LevelItem:
        """Change a level and return it as it was right after the change.

        Raises:
            NotFound: The warehouse has no such level (any more).
            Rejected: Nothing was changed. ``code`` is ``stale_version`` if the level is at another version by now.
            IntegrationError: See ``integrations._errors``; nobody knows whether it was changed, so ask the same again.
        """
        headers = {"Content-Type": "application/json", "Idempotency-Key": change.key}
        return self._read(LevelItem, self._http.post("/v1/inventory-adjustments", change.body(), headers=headers))

    def locations(self) -> list[LocationItem]:
        """List every location. One that cannot be read makes the list useless, as stock hangs on all of them.

        Raises:
            Unavailable: The answer is no list of locations.
            IntegrationError: See ``integrations._errors``.
        """
        reply = self._http.get("/v1/locations")
        page = _judge_page(LocationItem, reply, _envelope(reply))
        if page.rejects or page.has_more:
            raise reply.odd(page.rejects[0].reason if page.rejects else "only a part of its locations")
        return page.items

    def parse_event(self, body: bytes) -> tuple[str, LevelItem | ProductItem]:
        """Read the body of a verified delivery: its type, and the item after the change.

        Raises:
            BadDelivery: It is of an unknown type, or its item is malformed.
        """
        payload = parse_object(body, upstream=self.name)
        event_type = require_label(payload, "type", upstream=self.name)
        models: dict[str, type[LevelItem | ProductItem]] = {"product": ProductItem, "inventory_level": LevelItem}
        model = models.get(event_type.partition(".")[0])
        if model is None:
            raise BadDelivery(
                f"{self.name} sent an event of the unknown type {event_type}: teach us the type, or unsubscribe.",
                upstream=self.name,
            )
        try:
            return event_type, model.model_validate(payload.get("data"))
        except ValidationError as error:
            raise BadDelivery(
                f"{self.name} sent {event_type} with a malformed item ({explain(error)}): ask the upstream.",
                upstream=self.name,
            ) from None

    def _page(self, model: type[T], path: str, query: Mapping[str, str], etag: str | None) -> Page[T]:
        try:
            reply = self._http.get(path, params=query, headers={"If-None-Match": etag} if etag else None)
        except Rejected as error:
            if error.status == 410 or error.code in _CURSOR_CODES:  # noqa: PLR2004 - HTTP: gone
                raise CursorExpired(
                    f"{self.name} no longer knows the cursor of {path}: the walk starts again from its mark.",
                    upstream=self.name,
                    status=error.status,
                    code=error.code,
                ) from error
            raise
        if reply.status == 304:  # noqa: PLR2004 - HTTP: not modified
            return Page([], [], None, has_more=False, as_of=_as_of(reply, {}), etag=etag, not_modified=True)
        for link in next_links(reply.headers.get("link", "")):
            self._http.require_same_origin(link, asked=reply.asked)
        return _judge_page(model, reply, _envelope(reply))

    def _item(self, model: type[T], path: str) -> T:
        return self._read(model, self._http.get(path))

    def _read(self, model: type[T], reply: Reply) -> T:
        try:
            return model.model_validate(reply.json())
        except ValidationError as error:
            raise malformed_item(reply, explain(error)) from None


def _query(since: datetime | None, cursor: str | None, limit: int, *, include_deleted: bool) -> dict[str, str]:
    query = {"limit": str(limit), "include_deleted": "true" if include_deleted else "false"}
    if since is not None:
        query["updated_since"] = _moment(since)
    if cursor is not None:
        query["cursor"] = cursor
    return query


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _envelope(reply: Reply) -> dict[str, Any]:
    payload = reply.json()
    if not isinstance(payload, dict) or not isinstance(payload.get("data"), list):
        raise reply.odd("a page without a list of items")
    return payload


def _judge_page(model: type[T], reply: Reply, payload: Mapping[str, Any]) -> Page[T]:
    has_more, next_cursor = _continuation(reply, payload)
    items: list[T] = []
    rejects: list[Reject] = []
    for raw in payload["data"]:
        try:
            items.append(model.model_validate(raw))
        except ValidationError as error:
            rejects.append(reject(raw, explain(error)))
    as_of, etag = _as_of(reply, payload), reply.headers.get("etag")
    return Page(items, rejects, next_cursor, has_more=has_more, as_of=as_of, etag=etag, not_modified=False)


def _continuation(reply: Reply, payload: Mapping[str, Any]) -> tuple[bool, str | None]:
    page = payload.get("page")
    has_more = page.get("has_more") if isinstance(page, dict) else None
    cursor = page.get("next_cursor") if isinstance(page, dict) else None
    if not isinstance(has_more, bool):
        raise reply.odd("a page that does not say whether it is the last")
    if not has_more:
        return False, None
    if not isinstance(cursor, str) or not cursor:
        raise reply.odd("a page that has a successor and no cursor to it")
    return True, cursor


def _as_of(reply: Reply, payload: Mapping[str, Any]) -> datetime:
    meta = payload.get("meta")
    stated = meta.get("as_of") if isinstance(meta, dict) else None
    return read_moment(stated) or reply.clock() or datetime.now(UTC)

"""A partner who keeps stock and whose interface is his own: described by a few values, asked by one client.

    class Corner(StockPartner):
        name = "corner"
        stock = Listing(path="/v2/counts", items="counts", since="updated_after", order="desc")
        fields = Fields(id="id", sku="sku", location_id="location", on_hand="quantity", updated_at="counted_at")

What comes out is what comes from the warehouse: pages of checked levels and of refused ones, so the walk, the ledger
and the quarantine are the same. Ids and locations carry the partner's name in front, `corner/main`, because two
systems may number alike; products are known by their sku and are nobody's but the warehouse's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import quote

import orjson
from pydantic import Field, ValidationError

from integrations._errors import CursorExpired, Rejected
from integrations._export import Exports
from integrations._http import HttpUpstream
from integrations._integration import Integration
from integrations._page import Page, Reject, malformed_item, reject
from integrations._paging import Answer, Link
from integrations._partner_options import Deletion, Export, Fields, Listing, Method, Places, Skus
from integrations._path import look
from integrations._rate import PacedSettings
from integrations._reply import Reply
from integrations._settings import Credential, IntegrationSettings, PartnerAddress
from integrations._warehouse_items import LevelItem, LocationItem, explain, read_moment

_EXPIRED = frozenset({400, 404, 410})
"""How an answer to a cursor may say that it is not known any more."""


class PartnerSettings(PacedSettings):
    """Where a partner answers, and what proves who is asking."""

    url: PartnerAddress = Field(description="Base address of the partner, https except on this machine.")
    token: Credential = Field(description="The credential it gave us.")


class StockPartner(Integration):
    """An upstream of stock levels. Subclasses set `name`, `stock`, `fields`, and what else of the below differs."""

    Settings: ClassVar[type[IntegrationSettings]] = PartnerSettings
    stock: ClassVar[Listing | Export]
    fields: ClassVar[Fields]
    deletion: ClassVar[Deletion] = "absent"
    #: Path of one level by its id, such as `/levels/{id}`, and where it lies in the answer; empty when there is none.
    item: ClassVar[str] = ""
    item_at: ClassVar[str] = ""
    skus: ClassVar[Skus | None] = None
    #: Where locations have names; without it a location is called by its id.
    places: ClassVar[Places | None] = None
    #: The header that takes the credential, and what stands before it there.
    authorization: ClassVar[tuple[str, str]] = ("Authorization", "Bearer ")
    #: Sent with each request, such as the version of the interface.
    headers: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "fields" in vars(cls):
            _check(cls)

    def __init__(self, settings: PartnerSettings) -> None:
        super().__init__(settings)
        self._http = HttpUpstream(
            self.name, settings.url, settings.token, breaker=self.breaker, authorization=self.authorization
        )
        self._url = settings.url
        self._exports = Exports(self.name, settings.url, self._ask)

    def close(self) -> None:
        self._http.close()

    def probe(self) -> None:
        self._http.reach()

    def page(self, *, updated_since: datetime | None, cursor: str | None, etag: str | None) -> Page[LevelItem]:
        """List one page of stock levels.

        Raises:
            CursorExpired: The cursor is not known any more: walk again from the start.
            IntegrationError: See ``integrations._errors``.
        """
        if isinstance(self.stock, Export):
            part = self._exports.part(self.stock, cursor)
            return self._page_of(part.raws, part.rejects, part.as_of, part.following)
        try:
            return self._listed(self.stock, updated_since, cursor, etag)
        except Rejected as error:
            if cursor is None or error.status not in _EXPIRED:
                raise
            raise CursorExpired(
                f"{self.name} no longer knows the cursor of {self.stock.path}: the walk starts again.",
                upstream=self.name,
                status=error.status,
                code=error.code,
            ) from error

    def level(self, level_id: str) -> LevelItem:
        """Fetch one stock level by our id of it.

        Raises:
            NotFound: It is gone.
            Rejected: It is still malformed; ``code`` is ``malformed_item``.
            IntegrationError: See ``integrations._errors``.
        """
        native = quote(level_id.removeprefix(f"{self.name}/"), safe="")
        reply = self._http.get(self.item.replace("{id}", native), headers=self.headers)
        payload = reply.json()
        raw = look(payload, self.item_at) if self.item_at else payload
        try:
            return self._read(raw, self._found_skus([raw]))
        except ValidationError as error:
            raise malformed_item(reply, explain(error)) from None

    def locations(self) -> list[LocationItem]:
        """List the partner's locations by our ids; none where it has no list of them.

        Raises:
            Unavailable: The answer is no list of locations.
            IntegrationError: See ``integrations._errors``.
        """
        if self.places is None:
            return []
        reply = self._http.get(self.places.path, headers=self.headers)
        raws = _list(reply, reply.json(), self.places.items)
        try:
            return [self._place(raw, self.places) for raw in raws]
        except ValidationError as error:
            raise reply.odd(f"a malformed location ({explain(error)})") from None

    def _place(self, raw: Any, places: Places) -> LocationItem:
        native = look(raw, places.id)
        return LocationItem(id=self._ours(str(native)) if native else "", name=str(look(raw, places.name) or native))

    def _listed(
        self, listing: Listing, since: datetime | None, cursor: str | None, etag: str | None
    ) -> Page[LevelItem]:
        question = listing.paging.ask(listing.path, listing.filters(since), cursor)
        known = {"If-None-Match": etag} if etag and listing.etag else {}
        url = question.address if "://" in question.address else self._url + question.address
        reply = self._send(url, question.params, listing.method, known)
        if reply.status == 304:  # noqa: PLR2004 - HTTP: not modified
            return Page([], [], None, has_more=False, as_of=_as_of(reply, None), etag=etag, not_modified=True)
        payload = reply.json()
        raws = _list(reply, payload, listing.items)
        following = listing.paging.following(Answer(url, reply, payload, len(raws), cursor))
        if isinstance(listing.paging, Link) and following is not None:
            self._http.require_same_origin(following, asked=reply.asked)
        as_of = _as_of(reply, look(payload, listing.as_of) if listing.as_of else None)
        return self._page_of(raws, [], as_of, following, reply.headers.get("etag") if listing.etag else None)

    def _send(self, url: str, params: Mapping[str, Any], method: Method, headers: Mapping[str, str]) -> Reply:
        headers = {**self.headers, **headers}
        if method == "GET":
            # A link brings its own query; an empty one of ours would take it away.
            asked = {name: str(value) for name, value in params.items()} or None
            return self._http.send("GET", url, params=asked, headers=headers)
        headers["Content-Type"] = "application/json"
        return self._http.send("POST", url, headers=headers, content=orjson.dumps(params))

    def _ask(self, method: Method, path: str, content: bytes | None) -> Reply:
        kind = {"Content-Type": "application/json"} if content is not None else {}
        return self._http.send(method, self._url + path, headers={**self.headers, **kind}, content=content)

    def _page_of(
        self,
        raws: Sequence[Any],
        rejects: list[Reject],
        as_of: datetime,
        following: str | None,
        etag: str | None = None,
    ) -> Page[LevelItem]:
        skus = self._found_skus(raws)
        items: list[LevelItem] = []
        refused = list(rejects)
        for raw in raws:
            try:
                items.append(self._read(raw, skus))
            except ValidationError as error:
                refused.append(reject(raw, explain(error), self._name_of(raw)))
        more = following is not None
        return Page(items, refused, following, has_more=more, as_of=as_of, etag=etag, not_modified=False)

    def _read(self, raw: Any, skus: Mapping[str, str]) -> LevelItem:
        found = self.fields.draw(raw)
        key = self.fields.key(raw)
        if "sku" not in found and key is not None and key in skus:
            found["sku"] = skus[key]
        found |= {name: self._ours(found[name]) for name in ("id", "location_id") if isinstance(found.get(name), str)}
        # Without a version of theirs, of two states of the same moment the one that was read later stays. Their clock
        # is told in whole seconds, so it is ours that says which one that is.
        found.setdefault("version", time.time_ns() // 1_000)
        return LevelItem.model_validate({"reserved": 0, **found})

    def _name_of(self, raw: Any) -> str | None:
        native = self.fields.draw(raw).get("id")
        usable = native and native.isprintable() and len(native) <= 200 - len(self.name)
        return self._ours(native) if native and usable else None

    def _ours(self, native: str) -> str:
        return f"{self.name}/{native}" if native.strip() else native

    def _found_skus(self, raws: Sequence[Any]) -> dict[str, str]:
        """Ask for the skus of levels that carry another key; what has none stays without."""
        if self.skus is None:
            return {}
        keys = sorted({key for raw in raws if (key := self.fields.key(raw)) is not None})
        found: dict[str, str] = {}
        for start in range(0, len(keys), self.skus.most):
            body = orjson.dumps({self.skus.keys: keys[start : start + self.skus.most]})
            reply = self._ask("POST", self.skus.path, body)
            for one in _list(reply, reply.json(), self.skus.items):
                key, sku = look(one, self.skus.id), look(one, self.skus.sku)
                if isinstance(key, str) and isinstance(sku, str):
                    found[key] = sku
        return found


def _check(kind: type[StockPartner]) -> None:
    """Refuse a description that contradicts itself, when it is imported and not at night.

    Raises:
        ValueError: It does.
    """
    fields = kind.fields
    if not fields.sku and not (kind.skus and fields.sku_key):
        raise ValueError(f"{kind.__name__}: say where the sku lies (fields.sku), or how it is found (skus, sku_key)")
    if kind.deletion == "flag" and not fields.deleted:
        raise ValueError(f"{kind.__name__}: deletion is a flag, so say where it lies (fields.deleted)")
    if kind.deletion == "404" and "{id}" not in kind.item:
        raise ValueError(f"{kind.__name__}: deletion is a 404, so say where one level is asked for (item, with {{id}})")


def _list(reply: Reply, payload: Any, path: str) -> list[Any]:
    found = look(payload, path) if path else payload
    if found is None and isinstance(payload, dict) and path:
        return []  # some leave an empty list out
    if not isinstance(found, list):
        raise reply.odd("a page without a list of items")
    return found


def _as_of(reply: Reply, stated: Any) -> datetime:
    return read_moment(stated) or reply.clock() or datetime.now(UTC)

"""The warehouse as its clients see it: the routes under /v1, as the contract words them."""

import hashlib
from collections.abc import Callable
from typing import Any

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.upstreams import paging
from sandbox.upstreams.faults import Switchboard
from sandbox.upstreams.gate import Gate
from sandbox.upstreams.keyset import Keyset
from sandbox.upstreams.paging import Cursors, Page, Query, Selection
from sandbox.upstreams.problem import Problem
from sandbox.upstreams.warehouse import Item, Warehouse, iso

_ELSEWHERE = "https://elsewhere.example"
_NOT_JSON = "<html><body><h1>Scheduled maintenance</h1></body></html>"
_LARGEST_DELTA = 10**9


class Adjustment(BaseModel):
    """The body of `POST /v1/inventory-adjustments`: a level by id, or by sku and location."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inventory_level_id: str | None = None
    sku: str | None = None
    location_id: str | None = None
    delta: int = Field(ge=-_LARGEST_DELTA, le=_LARGEST_DELTA)
    reserved_delta: int = Field(default=0, ge=-_LARGEST_DELTA, le=_LARGEST_DELTA)
    reason: str = Field(min_length=1, max_length=200)
    occurred_at: AwareDatetime | None = Field(default=None, strict=False)
    expected_version: int | None = None


class WarehouseApi:
    """Handlers over one warehouse; `routes` lists them behind the gate."""

    def __init__(self, warehouse: Warehouse, gate: Gate, switchboard: Switchboard) -> None:
        self._warehouse = warehouse
        self._switchboard = switchboard
        self._cursors = Cursors()
        self._adjusted: dict[str, tuple[bytes, bytes]] = {}
        self.routes = [
            Route("/v1/products", gate.guard(self._list_products)),
            Route("/v1/products/{id}", gate.guard(self._get_product)),
            Route("/v1/inventory-levels", gate.guard(self._list_levels)),
            Route("/v1/inventory-levels/{id}", gate.guard(self._get_level)),
            Route("/v1/locations", gate.guard(self._list_locations)),
            Route("/v1/inventory-adjustments", gate.guard(self._adjust), methods=["POST"]),
            Route("/v1/{rest:path}", gate.guard(_nothing_here), methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        ]

    # Lists.

    async def _list_products(self, request: Request) -> Response:
        query = paging.parse(request.query_params, "products", frozenset())
        products = self._warehouse.products
        return self._list(request, query, Selection(products, _keeper(query, products)), self._warehouse.product)

    async def _list_levels(self, request: Request) -> Response:
        query = paging.parse(request.query_params, "inventory-levels", frozenset({"location_id", "sku"}))
        return self._list(request, query, self._selected_levels(query), self._warehouse.level)

    async def _list_locations(self, request: Request) -> Response:
        if request.query_params:
            raise Problem(400, "unknown_parameter", "The list of locations takes no parameters.")
        page = {"next_cursor": None, "has_more": False}
        return self._json({"data": self._warehouse.locations(), "page": page, "meta": self._meta()})

    def _list(self, request: Request, query: Query, selection: Selection, show: Callable[[int], Item]) -> Response:
        etag = self._etag(query, selection.keyset)
        if query.cursor is None and _matches(request, etag):
            return Response(status_code=304, headers={"ETag": etag})
        if self._switchboard.strikes(self._switchboard.faults.page_not_json_rate):
            return Response(_NOT_JSON, media_type="text/html")
        page = self._turn(query, selection)
        data = [self._switchboard.spoil(show(number)) for number in page.numbers]
        response = self._page(request, query, page, data)
        if query.cursor is None:
            response.headers["ETag"] = etag
        self._move(selection.keyset, page.numbers, query.limit)
        return response

    def _turn(self, query: Query, selection: Selection) -> Page:
        faults = self._switchboard.faults
        if query.cursor and self._switchboard.strikes(faults.expire_cursors_rate):
            raise paging.expired()
        start = self._cursors.read(query, faults.cursor_lifetime_s)
        if faults.endless_empty_pages:
            return Page([], start, has_more=True)
        return paging.turn(selection, start, query.limit, repeat=faults.duplicate_items if query.cursor else 0)

    def _page(self, request: Request, query: Query, page: Page, data: list[Any]) -> Response:
        faults = self._switchboard.faults
        cursor = self._cursors.write(query, page.end) if page.has_more else None
        if faults.cursor_loop and query.cursor:
            cursor = query.cursor
        paging_part: Item = {"next_cursor": cursor, "has_more": cursor is not None}
        headers = {}
        if cursor is not None:
            url = request.url.include_query_params(cursor=cursor)
            following = f"{_ELSEWHERE}{url.path}?{url.query}" if faults.cross_origin_next else str(url)
            headers["Link"] = f'<{following}>; rel="next"'
        return self._json({"data": data, "page": paging_part, "meta": self._meta()}, headers=headers)

    def _selected_levels(self, query: Query) -> Selection:
        levels, stores = self._warehouse.levels, len(self._warehouse.stores)
        alive, among = _keeper(query, levels), None
        if "sku" in query.filters:
            product = self._warehouse.find_sku(query.filters["sku"])
            among = range(0) if product is None else range(product * stores, (product + 1) * stores)
        if "location_id" not in query.filters:
            return Selection(levels, alive, among)
        store = self._warehouse.find_store(query.filters["location_id"])
        if store is None:
            among = range(0)
        return Selection(levels, lambda number: number % stores == store and alive(number), among)

    def _move(self, keyset: Keyset, served: list[int], limit: int) -> None:
        """Change some things while they are being walked: half from the page just served, half from anywhere."""
        dice = self._switchboard.random
        # A walk must come to its end: never move as much as a page serves.
        for turn in range(min(self._switchboard.faults.moving_items, limit // 2)):
            number = dice.choice(served) if served and turn % 2 else dice.randrange(len(keyset))
            if keyset.deleted[number]:
                continue
            if keyset is self._warehouse.levels:
                self._warehouse.adjust(number, dice.choice([-1, 1]))
            else:
                self._warehouse.edit_product(number)

    # One thing.

    async def _get_product(self, request: Request) -> Response:
        number = self._warehouse.find_product(request.path_params["id"])
        return self._one(request, "product", number, self._warehouse.products, self._warehouse.product)

    async def _get_level(self, request: Request) -> Response:
        number = self._warehouse.find_level(request.path_params["id"])
        return self._one(request, "inventory level", number, self._warehouse.levels, self._warehouse.level)

    def _one(
        self, request: Request, kind: str, number: int | None, keyset: Keyset, show: Callable[[int], Item]
    ) -> Response:
        wanted = request.path_params["id"]
        if number is None:
            raise Problem(404, "not_found", f"There is no {kind} {wanted}.")
        if keyset.deleted[number]:
            raise Problem(404, "deleted", f"The {kind} {wanted} was deleted.")
        etag = f'"{keyset.version[number]}-{self._switchboard.revision}"'
        if _matches(request, etag):
            return Response(status_code=304, headers={"ETag": etag})
        return self._json(self._switchboard.spoil(show(number), by_id=True), headers={"ETag": etag})

    # Writing.

    async def _adjust(self, request: Request) -> Response:
        key = request.headers.get("idempotency-key", "")
        if not key:
            raise Problem(400, "idempotency_key_required", "Send an Idempotency-Key with every adjustment.")
        fingerprint = hashlib.sha256(await request.body()).digest()
        if key in self._adjusted:
            earlier, answer = self._adjusted[key]
            if earlier != fingerprint:
                raise Problem(422, "idempotency_key_reused", "This Idempotency-Key was used with another body.")
            return Response(answer, 201, media_type="application/json", headers={"Idempotent-Replayed": "true"})
        number = self._apply(_adjustment(await request.body()))
        response = self._json(self._warehouse.level(number), 201)
        self._adjusted[key] = (fingerprint, bytes(response.body))
        if self._switchboard.strikes(self._switchboard.faults.fail_after_rate):
            raise Problem(500, "unavailable", "The warehouse fell over; nobody knows how far it got.")
        return response

    def _apply(self, adjustment: Adjustment) -> int:
        number = self._adjusted_level(adjustment)
        if number is None or self._warehouse.levels.deleted[number]:
            raise Problem(404, "not_found", "There is no such inventory level.")
        version = self._warehouse.levels.version[number]
        if adjustment.expected_version not in {None, version}:
            expected = adjustment.expected_version
            raise Problem(409, "stale_version", f"You expected version {expected}; it is at {version} by now.")
        self._warehouse.adjust(number, adjustment.delta, adjustment.reserved_delta)
        return number

    def _adjusted_level(self, adjustment: Adjustment) -> int | None:
        if adjustment.inventory_level_id is not None:
            return self._warehouse.find_level(adjustment.inventory_level_id)
        product = self._warehouse.find_sku(adjustment.sku or "")
        store = self._warehouse.find_store(adjustment.location_id or "")
        return None if product is None or store is None else product * len(self._warehouse.stores) + store

    # Wording.

    def _meta(self) -> Item:
        return {"as_of": iso(self._warehouse.clock.now_us())}

    def _etag(self, query: Query, keyset: Keyset) -> str:
        # By the revision of the whole list, not by the page: a change must not hide behind an old first page.
        state = orjson.dumps([sorted(query.filters.items()), query.limit, keyset.revision, self._switchboard.revision])
        return f'"{hashlib.blake2b(state, digest_size=10).hexdigest()}"'

    def _json(self, document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        return Response(orjson.dumps(document), status, media_type="application/json", headers=headers)


async def _nothing_here(request: Request) -> Response:
    raise Problem(404, "not_found", f"There is no {request.method} {request.url.path}.")


def _keeper(query: Query, keyset: Keyset) -> Callable[[int], bool]:
    if query.include_deleted:
        return lambda _number: True
    return lambda number: not keyset.deleted[number]


def _matches(request: Request, etag: str) -> bool:
    sent = (tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(","))
    return any(tag in {etag, "*"} for tag in sent)


def _adjustment(body: bytes) -> Adjustment:
    try:
        return Adjustment.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise Problem(400, "invalid_body", f"{where}: {first['msg']}.") from None

"""The back door, for tests and demos only: switches, sales on demand, changes by hand, and the truth to compare with.

It asks for no credentials, because the stand-ins listen on the loopback address only.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from sandbox.upstreams.deliveries import Deliveries
from sandbox.upstreams.faults import Switchboard
from sandbox.upstreams.gate import Gate
from sandbox.upstreams.keyset import Keyset
from sandbox.upstreams.live import Live
from sandbox.upstreams.problem import Problem
from sandbox.upstreams.stripe_account import StripeError
from sandbox.upstreams.stripe_checkout import Checkouts
from sandbox.upstreams.stripe_life import StripeLife
from sandbox.upstreams.warehouse import Item, Warehouse

_LINES_PER_CHUNK = 2_000
_MOST_AT_ONCE = 100_000


class Strict(BaseModel):
    """A body that takes nothing it does not know."""

    model_config = ConfigDict(extra="forbid")


class Amount(Strict):
    """How many, and how long to wait for their webhooks to be accepted (0: do not wait)."""

    count: int = Field(ge=1, le=_MOST_AT_ONCE)
    wait_s: float = Field(0, ge=0)


class Pace(Strict):
    """Sale lines per second; 0 stops the live mode."""

    rate: float = Field(ge=0, le=10_000)


class Target(Strict):
    """Base URL of the receiver; None stops sending."""

    target: str | None


class LevelChange(Strict):
    """New quantities of a level, or its end."""

    level: str
    on_hand: int | None = None
    reserved: int | None = None
    incoming: int | None = None
    deleted: bool = False


class ProductChange(Strict):
    """New fields of a product (only those given), or its end."""

    product: str
    name: str = ""
    brand: str = ""
    category: str | None = None
    cents: int | None = None
    deleted: bool = False


class Act(Strict):
    """What a buyer or a bank does to an object of Stripe's; `amount` where it is not all of it."""

    act: str
    id: str
    amount: int | None = Field(None, ge=1)


class Admin:
    """Handlers of /admin over everything that can be switched or asked."""

    def __init__(
        self,
        *,
        warehouse: Warehouse,
        live: Live,
        stripe_life: StripeLife,
        checkouts: Checkouts,
        switchboard: Switchboard,
        gate: Gate,
        senders: dict[str, Deliveries],
    ) -> None:
        self._warehouse = warehouse
        self._live = live
        self._stripe_life = stripe_life
        self._checkouts = checkouts
        self._switchboard = switchboard
        self._gate = gate
        self._senders = senders
        self.routes = [
            _route("/admin/faults", self._show_faults, "GET"),
            _route("/admin/faults", self._set_faults, "POST"),
            _route("/admin/faults/reset", self._reset_faults, "POST"),
            _route("/admin/live", self._set_live, "POST"),
            _route("/admin/sales", self._sell, "POST"),
            _route("/admin/change", self._change, "POST"),
            _route("/admin/webhooks", self._set_target, "POST"),
            _route("/admin/stripe/events", self._stripe_events, "POST"),
            _route("/admin/stripe/act", self._stripe_act, "POST"),
            _route("/admin/stats", self._stats, "GET"),
            Route("/admin/snapshot/products", self._snapshot_products),
            Route("/admin/snapshot/levels", self._snapshot_levels),
        ]

    async def _show_faults(self, _body: bytes) -> Item:
        return self._switchboard.faults.model_dump()

    async def _set_faults(self, body: bytes) -> Item:
        faults = self._switchboard.update(orjson.loads(body))
        self._warehouse.clock.skew_s = faults.clock_skew_s
        return faults.model_dump()

    async def _reset_faults(self, _body: bytes) -> Item:
        faults = self._switchboard.reset()
        self._warehouse.clock.skew_s = faults.clock_skew_s
        return faults.model_dump()

    async def _set_live(self, body: bytes) -> Item:
        self._live.rate = Pace.model_validate_json(body).rate
        return {"rate": self._live.rate}

    async def _sell(self, body: bytes) -> Item:
        return await self._happen("warehouse", self._live.sell, Amount.model_validate_json(body))

    async def _stripe_events(self, body: bytes) -> Item:
        return await self._happen("stripe", self._stripe_life.happen, Amount.model_validate_json(body))

    async def _stripe_act(self, body: bytes) -> Item:
        wanted = Act.model_validate_json(body)
        if wanted.act not in self._checkouts.acts:
            raise Problem(422, "unknown_act", f"Nobody can {wanted.act}: choose of {', '.join(self._checkouts.acts)}.")
        try:
            return self._checkouts.act(wanted.act, wanted.id, wanted.amount)
        except StripeError as error:
            raise Problem(409, "not_now", str(error)) from None

    async def _happen(self, upstream: str, happen: Callable[[int], int], amount: Amount) -> Item:
        sender = self._senders[upstream]
        before = sender.tally.created
        happened = happen(amount.count)
        messages = sender.tally.created - before
        return {"happened": happened, "messages": messages, "delivered": await sender.drained(amount.wait_s)}

    async def _change(self, body: bytes) -> Item:
        document = orjson.loads(body)
        if "product" in document:
            return self._change_product(ProductChange.model_validate(document))
        return self._change_level(LevelChange.model_validate(document))

    def _change_level(self, change: LevelChange) -> Item:
        number = _known(self._warehouse.find_level(change.level), change.level)
        if change.deleted:
            self._warehouse.delete_level(number)
        else:
            self._warehouse.set_level(number, **change.model_dump(include={"on_hand", "reserved", "incoming"}))
        return self._warehouse.level(number)

    def _change_product(self, change: ProductChange) -> Item:
        number = _known(self._warehouse.find_product(change.product), change.product)
        if change.deleted:
            self._warehouse.delete_product(number)
        else:
            given = change.model_dump(exclude_unset=True, exclude={"product", "deleted"})
            self._warehouse.edit_product(number, **given)
        return self._warehouse.product(number)

    async def _set_target(self, body: bytes) -> Item:
        target = Target.model_validate_json(body).target
        for sender in self._senders.values():
            sender.target = target
        return {"target": target}

    async def _stats(self, _body: bytes) -> Item:
        warehouse = self._warehouse
        return {
            "products": _count(warehouse.products),
            "levels": _count(warehouse.levels),
            "locations": len(warehouse.stores),
            "requests": self._gate.requests,
            "answers": {str(status): count for status, count in sorted(self._gate.answers.items())},
            "live": {"rate": self._live.rate, "sold": self._live.sold},
            "webhooks": {
                name: {**asdict(sender.tally), "pending": sender.pending} for name, sender in self._senders.items()
            },
        }

    async def _snapshot_products(self, _request: Request) -> Response:
        lines = _lines(self._warehouse.product, len(self._warehouse.products))
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def _snapshot_levels(self, _request: Request) -> Response:
        lines = _lines(self._warehouse.level, len(self._warehouse.levels))
        return StreamingResponse(lines, media_type="application/x-ndjson")


def _route(path: str, answer: Callable[[bytes], Awaitable[Item]], method: str) -> Route:
    async def endpoint(request: Request) -> Response:
        try:
            document = await answer(await request.body())
        except (ValidationError, orjson.JSONDecodeError) as error:
            return Problem(422, "invalid_body", str(error)).response()
        except Problem as problem:
            return problem.response()
        return Response(orjson.dumps(document), media_type="application/json")

    return Route(path, endpoint, methods=[method])


def _known(number: int | None, name: str) -> int:
    if number is None:
        raise Problem(404, "not_found", f"There is no {name}.")
    return number


def _count(keyset: Keyset) -> Item:
    deleted = sum(keyset.deleted)
    return {"total": len(keyset), "deleted": deleted, "revision": keyset.revision}


async def _lines(show: Callable[[int], Item], count: int) -> AsyncIterator[bytes]:
    for first in range(0, count, _LINES_PER_CHUNK):
        chunk = range(first, min(count, first + _LINES_PER_CHUNK))
        yield b"".join(orjson.dumps(show(number), option=orjson.OPT_APPEND_NEWLINE) for number in chunk)
        await asyncio.sleep(0)  # others want to be served while two million lines go out

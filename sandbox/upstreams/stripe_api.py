"""Stripe as its clients see it, below any prefix: form bodies in, JSON out, newest first, keys that make a POST safe.

Only what a shop's worker needs is here, but that is meant to be indistinguishable: the official client works unchanged.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.upstreams.faults import Switchboard
from sandbox.upstreams.stripe_account import DECLINED, Item, StripeAccount, StripeError
from sandbox.upstreams.stripe_checkout import Checkouts

Parameters = dict[str, str]
Answer = Callable[[Request, Parameters], Item]
Endpoint = Callable[[Request], Awaitable[Response]]

_PAGING = frozenset({"limit", "starting_after", "ending_before"})
_MOST = 100
_INVALID = "invalid_request_error"


class StripeApi:
    """Routes over one account. `delivered` holds the ids of events whose webhook was accepted."""

    def __init__(
        self, account: StripeAccount, checkouts: Checkouts, switchboard: Switchboard, delivered: Collection[str]
    ) -> None:
        self._account = account
        self._checkouts = checkouts
        self._switchboard = switchboard
        self._delivered = delivered
        self._answered: dict[str, tuple[bytes, Response]] = {}
        self.routes = [
            Route("/v1/events", self._get(self._list_events)),
            Route("/v1/events/{id}", self._get(self._fetch("events"))),
            Route("/v1/payment_intents", self._get(self._list("payment_intents"))),
            Route("/v1/payment_intents", self._post(self._create_payment), methods=["POST"]),
            Route("/v1/payment_intents/{id}", self._get(self._fetch("payment_intents"))),
            Route("/v1/payment_intents/{id}/confirm", self._post(self._confirm), methods=["POST"]),
            Route("/v1/payment_intents/{id}/cancel", self._post(self._cancel), methods=["POST"]),
            Route("/v1/charges", self._get(self._list("charges", "payment_intent"))),
            Route("/v1/charges/{id}", self._get(self._fetch("charges"))),
            Route("/v1/refunds", self._get(self._list("refunds", "charge", "payment_intent"))),
            Route("/v1/refunds", self._post(self._refund), methods=["POST"]),
            Route("/v1/refunds/{id}", self._get(self._fetch("refunds"))),
            Route("/v1/disputes", self._get(self._list("disputes", "charge", "payment_intent"))),
            Route("/v1/disputes/{id}", self._get(self._fetch("disputes"))),
            Route("/v1/checkout/sessions", self._get(self._list("checkout_sessions", "payment_intent", "status"))),
            Route("/v1/checkout/sessions", self._post(self._open_checkout), methods=["POST"]),
            Route("/v1/checkout/sessions/{id}", self._get(self._fetch("checkout_sessions"))),
            Route("/v1/checkout/sessions/{id}/expire", self._post(self._expire_checkout), methods=["POST"]),
            Route("/{rest:path}", self._get(_nothing_here), methods=["GET", "POST", "DELETE"]),
        ]

    # Reading.

    def _fetch(self, kind: str) -> Answer:
        def fetch(request: Request, parameters: Parameters) -> Item:
            _only(parameters, "expand")
            return self._expanded(self._account.get(kind, request.path_params["id"]), _several(parameters, "expand"))

        return fetch

    def _list(self, kind: str, *filters: str) -> Answer:
        def listed(request: Request, parameters: Parameters) -> Item:
            _only(parameters, "expand", "created", *_PAGING, *filters)
            since = _moment(parameters, "created[gte]")
            wanted = {name: parameters[name] for name in filters if name in parameters}
            items = [
                item
                for item in self._account.objects[kind].values()
                if item["created"] >= since and all(item[name] == value for name, value in wanted.items())
            ]
            paths = [path.removeprefix("data.") for path in _several(parameters, "expand")]
            page = _page(request, items, parameters)
            return {**page, "data": [self._expanded(item, paths) for item in page["data"]]}

        return listed

    def _list_events(self, request: Request, parameters: Parameters) -> Item:
        _only(parameters, "type", "types", "delivery_success", "created", *_PAGING)
        types = _several(parameters, "types") or _several(parameters, "type")
        success = parameters.get("delivery_success")
        since = _moment(parameters, "created[gte]")

        def wanted(event: Item) -> bool:
            delivered = event["id"] in self._delivered
            fits = event["created"] >= since and (not types or event["type"] in types)
            return fits and (success is None or delivered == (success == "true"))

        # A cursor may name an event that the filters leave out.
        return _page(request, list(self._account.events.values()), parameters, wanted)

    def _expanded(self, item: Item, paths: list[str]) -> Item:
        """Replace ids by the objects they name, along dotted paths such as `latest_charge.refunds`."""
        expanded = dict(item)
        for field in {path.partition(".")[0] for path in paths}:
            inner = self._inner(item, field)
            deeper = [path.removeprefix(f"{field}.") for path in paths if path.startswith(f"{field}.")]
            expanded[field] = self._expanded(inner, deeper) if inner else None
        return expanded

    def _inner(self, item: Item, field: str) -> Item | None:
        if item["object"] == "charge" and field == "refunds":
            refunds = [refund for refund in self._account.objects["refunds"].values() if refund["charge"] == item["id"]]
            return {
                "object": "list",
                "data": refunds[::-1],
                "has_more": False,
                "url": f"/v1/charges/{item['id']}/refunds",
            }
        if field not in {"latest_charge", "charge", "payment_intent"} or field not in item:
            raise StripeError(400, _INVALID, "parameter_invalid", f"This property cannot be expanded ({field}).")
        return None if item[field] is None else self._account.find(item[field])

    # Writing.

    def _create_payment(self, _request: Request, parameters: Parameters) -> Item:
        _only(
            parameters, "amount", "currency", "confirm", "payment_method", "payment_method_types", "metadata", "expand"
        )
        amount, currency = _amount(parameters, "amount"), parameters.get("currency", "")
        if amount is None or not re.fullmatch("[a-z]{3}", currency):
            raise StripeError(400, _INVALID, "parameter_missing", "Missing required param: amount or currency.")
        payment = self._account.create_payment(amount, currency, _metadata(parameters))
        return self._pay(payment, parameters) if parameters.get("confirm") == "true" else payment

    def _confirm(self, request: Request, parameters: Parameters) -> Item:
        _only(parameters, "payment_method", "expand")
        return self._pay(self._account.get("payment_intents", request.path_params["id"]), parameters)

    def _pay(self, payment: Item, parameters: Parameters) -> Item:
        if parameters.get("payment_method") == DECLINED:
            self._account.decline(payment)
            raise StripeError(402, "card_error", "card_declined", "Your card was declined.")
        self._account.pay(payment)
        return self._expanded(payment, _several(parameters, "expand"))

    def _cancel(self, request: Request, parameters: Parameters) -> Item:
        _only(parameters, "cancellation_reason", "expand")
        payment = self._account.get("payment_intents", request.path_params["id"])
        self._account.cancel(payment, parameters.get("cancellation_reason"))
        return payment

    def _refund(self, _request: Request, parameters: Parameters) -> Item:
        _only(parameters, "payment_intent", "charge", "amount", "reason", "metadata", "expand")
        if "payment_intent" in parameters:
            charge_id = self._account.get("payment_intents", parameters["payment_intent"])["latest_charge"]
        else:
            charge_id = parameters.get("charge")
        if charge_id is None:
            raise StripeError(400, _INVALID, "parameter_missing", "There is no charge to refund.")
        charge = self._account.get("charges", charge_id)
        amount = _amount(parameters, "amount")
        return self._account.refund(charge, amount, parameters.get("reason"), _metadata(parameters))

    def _open_checkout(self, _request: Request, parameters: Parameters) -> Item:
        lines = ("line_items", "payment_intent_data", "expires_at", "success_url", "cancel_url")
        _only(parameters, "mode", "client_reference_id", "metadata", "expand", *lines)
        if parameters.get("mode") != "payment" or "success_url" not in parameters:
            raise StripeError(400, _INVALID, "parameter_missing", "Missing required param: mode or success_url.")
        return self._checkouts.open(parameters, _metadata(parameters))

    def _expire_checkout(self, request: Request, parameters: Parameters) -> Item:
        _only(parameters, "expand")
        return self._checkouts.expire(self._account.get("checkout_sessions", request.path_params["id"]))

    # The way in and out.

    def _get(self, answer: Answer) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            refused = await self._admit(request)
            return refused or _respond(answer, request, dict(request.query_params.multi_items()))

        return endpoint

    def _post(self, answer: Answer) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            body = await request.body()
            return await self._admit(request) or self._once(answer, request, body)

        return endpoint

    async def _admit(self, request: Request) -> Response | None:
        switchboard, faults = self._switchboard, self._switchboard.faults
        if faults.stripe_latency_ms:
            await asyncio.sleep(faults.stripe_latency_ms / 1_000)
        if not re.fullmatch(r"(Bearer|Basic) \S+", request.headers.get("authorization", "")):
            return _refusal(StripeError(401, _INVALID, "api_key_missing", "You did not provide an API key."))
        if switchboard.strikes(faults.stripe_throttle_rate):
            busy = _refusal(StripeError(429, "rate_limit_error", "rate_limit", "Too many requests."))
            busy.headers["Retry-After"] = str(faults.retry_after_s)
            return busy
        if switchboard.strikes(faults.stripe_error_rate):
            return _refusal(StripeError(500, "api_error", "api_error", "Something went wrong on our side."))
        return None

    def _once(self, answer: Answer, request: Request, body: bytes) -> Response:
        """Answer a POST; under an Idempotency-Key that was answered before, repeat that answer."""
        parameters = dict(parse_qsl(body.decode()))
        key = request.headers.get("idempotency-key")
        if key is None:
            return self._executed(answer, request, parameters)
        fingerprint = _path(request).encode() + b"?" + body
        if key in self._answered:
            return _replayed(*self._answered[key], fingerprint)
        response = self._executed(answer, request, parameters)
        self._answered[key] = fingerprint, response
        return response

    def _executed(self, answer: Answer, request: Request, parameters: Parameters) -> Response:
        """Do what a POST asks for; on a bad day it is done and the answer says that it failed."""
        response = _respond(answer, request, parameters)
        if self._switchboard.strikes(self._switchboard.faults.stripe_fail_after_rate):
            return _refusal(StripeError(500, "api_error", "api_error", "Something went wrong on our side."))
        return response


def _nothing_here(request: Request, _parameters: Parameters) -> Item:
    message = f"Unrecognized request URL ({request.method}: {_path(request)})."
    raise StripeError(404, _INVALID, "resource_missing", message)


def _respond(answer: Answer, request: Request, parameters: Parameters) -> Response:
    try:
        return _json(answer(request, parameters), 200)
    except StripeError as error:
        return _refusal(error)


def _refusal(error: StripeError) -> Response:
    return _json(error.document, error.status)


def _json(document: Item, status: int) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")


def _replayed(earlier: bytes, response: Response, fingerprint: bytes) -> Response:
    if earlier != fingerprint:
        message = "Keys for idempotent requests can only be used with the same parameters they were first used with."
        return _refusal(StripeError(400, "idempotency_error", "idempotency_key_in_use", message))
    again = Response(response.body, response.status_code, media_type="application/json")
    again.headers["Idempotent-Replayed"] = "true"
    return again


def _page(
    request: Request, oldest_first: list[Item], parameters: Parameters, wanted: Callable[[Item], bool] = bool
) -> Item:
    items = oldest_first[::-1]
    limit = _amount(parameters, "limit") or 10
    if limit > _MOST:
        raise StripeError(400, _INVALID, "parameter_invalid_integer", f"limit may be at most {_MOST}.")
    if "ending_before" in parameters:
        newer = list(filter(wanted, items[: _place(items, parameters["ending_before"])]))
        page, has_more = newer[-limit:], len(newer) > limit
    else:
        older = items[_place(items, parameters["starting_after"]) + 1 :] if "starting_after" in parameters else items
        older = list(filter(wanted, older))
        page, has_more = older[:limit], len(older) > limit
    return {"object": "list", "data": page, "has_more": has_more, "url": _path(request)}


def _path(request: Request) -> str:
    """Say what was asked for below the prefix: the client puts its own base in front of it again."""
    path: str = request.url.path
    return path.removeprefix(request.scope["root_path"])


def _place(items: list[Item], wanted: str) -> int:
    for place, item in enumerate(items):
        if item["id"] == wanted:
            return place
    raise StripeError(400, _INVALID, "resource_missing", f"No such object: '{wanted}'")


def _moment(parameters: Parameters, name: str) -> int:
    """Read a moment in seconds since the epoch; 0 when it is not given."""
    if not parameters.get(name, "0").isdecimal():
        raise StripeError(400, _INVALID, "parameter_invalid_integer", f"Invalid integer: {name}")
    return int(parameters.get(name, "0"))


def _only(parameters: Mapping[str, Any], *known: str) -> None:
    for name in parameters:
        if name.partition("[")[0] not in known:
            raise StripeError(400, _INVALID, "parameter_unknown", f"Received unknown parameter: {name}")


def _several(parameters: Parameters, name: str) -> list[str]:
    return [value for key, value in parameters.items() if key.partition("[")[0] == name]


def _metadata(parameters: Parameters) -> Parameters:
    return {key[9:-1]: value for key, value in parameters.items() if key.startswith("metadata[")}


def _amount(parameters: Parameters, name: str) -> int | None:
    if name not in parameters:
        return None
    text = parameters[name]
    if not (text.isascii() and text.isdigit() and 0 < int(text[:12]) < 10**8):
        raise StripeError(400, _INVALID, "parameter_invalid_integer", f"Invalid positive integer: {name}")
    return int(text)

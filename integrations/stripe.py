"""Stripe: what was paid, refunded and disputed.

A delivery from Stripe is a hint that something happened to an object, in no order and perhaps twice; the truth is
fetched from the API afterwards. So this module does four things: it judges deliveries on their raw bytes, it lists
events (to find the ones that never reached us), it fetches the objects that events are about, and it opens and closes
the checkouts in which buyers pay. Opening one carries an idempotency key of the caller's, kept before the call: Stripe
answers it the same way each time, a failure included, so what became of it is found out by looking.

The vendor's client builds the requests and knows the API version; our own HTTP client carries them. That way Stripe
is asked with the same deadline, retries and errors as everybody else, the vendor's retries stay off, and nothing is
measured or written to disk behind our back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, cast, get_args

import stripe
from pydantic import Field

from integrations._errors import BadDelivery, Rejected, Unavailable
from integrations._http import HttpUpstream
from integrations._integration import Integration, signed_by
from integrations._rate import PacedSettings, Rate
from integrations._schemes import STRIPE
from integrations._secrets import Secrets
from integrations._settings import Credential, IntegrationSettings, PartnerAddress
from integrations._signatures import Lines, Signed
from integrations._source import Body, Delivery, Source, label_or_none, parse_object

if TYPE_CHECKING:
    from stripe.params import EventListParams
    from stripe.params.checkout import SessionCreateParams

Kind: TypeAlias = Literal["charge", "checkout.session", "dispute", "invoice", "payment_intent", "refund"]
"""Stripe's own words for the kinds of object that we follow."""

API_VERSION = "2026-10-28.endive"
"""The version of the API that we speak and whose shapes we know; set the webhook endpoint to the same."""

_EVENT_KINDS = ("event", "v2.core.event")
_KINDS: frozenset[str] = frozenset(get_args(Kind))
_CONFLICT = 409


@dataclass(frozen=True, slots=True)
class Hint:
    """What an event is about. What it says of that is old news: fetch the object."""

    kind: Kind
    object_id: str
    api_version: str | None
    """The version it was rendered in; thin events have none."""


@dataclass(frozen=True, slots=True)
class CheckoutLine:
    """So many pieces for so much each, in minor units."""

    name: str
    sku: str
    price: int
    quantity: int


@dataclass(frozen=True, slots=True)
class Checkout:
    """What a buyer is asked to pay for, and until when; equal for equal keys."""

    key: str
    """Idempotency key, at most 255 characters, kept before the call."""
    reference: str
    """Our name of the order: on the session and on the payment that comes of it."""
    currency: str
    lines: Sequence[CheckoutLine]
    expires_at: datetime
    """Between half an hour and a day ahead."""
    success_url: str
    cancel_url: str | None = None


class StripeSettings(PacedSettings):
    """Which Stripe account, and what its deliveries are signed with."""

    api_key: Credential = Field(description="Secret or restricted API key of the Stripe account.")
    api_base: PartnerAddress = Field(default="https://api.stripe.com", description="Base address of Stripe's API.")
    webhook_secrets: Annotated[Secrets, signed_by(STRIPE)] = Field(
        default=(), description="Secrets of the webhook endpoint (whsec_...), comma-separated, newest first."
    )


class Stripe(Integration):
    """Client of one Stripe account, and judge of its deliveries."""

    name: ClassVar[str] = "stripe"
    Settings: ClassVar[type[IntegrationSettings]] = StripeSettings
    source: ClassVar[Source] = Source(
        scheme=STRIPE, id=Body("id"), subject=(Body("related_object.id"), Body("data.object.id"))
    )
    lists_events: ClassVar[bool] = True
    # Stripe allows 25 calls a second to a test account and to each operation of a live one, which has 100 in all. It
    # names no numbers in its answers; a 429 is all that it says.
    rate: ClassVar[Rate | None] = Rate(calls=25, period=1.0, burst=25, concurrency=32)

    def __init__(self, settings: StripeSettings) -> None:
        super().__init__(settings)
        self._http = HttpUpstream(self.name, settings.api_base, settings.api_key, breaker=self.breaker)
        base = settings.api_base
        # The vendor reports timings and writes an id into the home directory unless told not to, for all clients.
        stripe.enable_telemetry = False
        self._client = stripe.StripeClient(
            settings.api_key.get_secret_value(),
            base_addresses={"api": base, "connect": base, "files": base, "meter_events": base},
            http_client=_Carrier(self._http),
            max_network_retries=0,
            stripe_version=API_VERSION,
        )

    def close(self) -> None:
        self._http.close()

    def probe(self) -> None:
        with self._translated():
            self._client.v1.events.list({"limit": 1})

    def describe(self, signed: Signed, lines: Lines, payload: Mapping[str, Any], body: bytes) -> Delivery:
        if payload.get("object") not in _EVENT_KINDS:
            raise BadDelivery(
                "stripe signed a delivery that is no event: its bytes are kept, check where the endpoint points.",
                upstream=self.name,
            )
        return super().describe(signed, lines, payload, body)

    def happened(self, since: datetime) -> Iterator[dict[str, Any]]:
        return self.events(since=since)

    def events(
        self,
        *,
        after: str | None = None,
        since: datetime | None = None,
        types: Sequence[str] = (),
        undelivered: bool = False,
        page_size: int = 100,
    ) -> Iterator[dict[str, Any]]:
        """Walk the account's events of the last 30 days, page by page, as plain JSON objects.

        Args:
            after: Only events newer than this event id; they come oldest first. Without it, newest first.
            since: Only events created at or after this moment (Stripe keeps whole seconds).
            types: Only these types, at most 20.
            undelivered: Only events that no endpoint has accepted yet.
            page_size: Events per request, 1 to 100.

        Raises:
            IntegrationError: See ``integrations._errors``; it may come in the middle of the walk.
        """
        params: EventListParams = {"limit": page_size}
        if after is not None:
            params["ending_before"] = after
        if since is not None:
            params["created"] = {"gte": int(since.timestamp())}
        if types:
            params["types"] = list(types)
        if undelivered:
            params["delivery_success"] = False
        with self._translated():
            for event in self._client.v1.events.list(params).auto_paging_iter():
                yield event.to_dict(for_json=True)

    def fetch(self, kind: Kind, object_id: str, *, expand: Sequence[str] = ()) -> dict[str, Any]:
        """Fetch one object as it is now, as a plain JSON object.

        Args:
            kind: What it is, in Stripe's word for it.
            object_id: Its id, for example ``pi_...``.
            expand: Fields to send whole instead of as an id, for example ``latest_charge``.

        Raises:
            NotFound: There is no such object in this account.
            IntegrationError: See ``integrations._errors``.
        """
        with self._translated():
            fetched: dict[str, Any] = (
                self._service(kind).retrieve(object_id, {"expand": list(expand)}).to_dict(for_json=True)
            )
        return fetched

    def objects(self, kind: Kind, *, since: datetime, expand: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """Walk the objects of a kind that were created at or after a moment, newest first, as plain JSON objects.

        Raises:
            IntegrationError: See ``integrations._errors``; it may come in the middle of the walk.
        """
        params = {"limit": 100, "created": {"gte": int(since.timestamp())}, "expand": [f"data.{x}" for x in expand]}
        with self._translated():
            for found in self._service(kind).list(params).auto_paging_iter():
                yield found.to_dict(for_json=True)

    def open_checkout(self, checkout: Checkout) -> dict[str, Any]:
        """Open the page on which a buyer pays; the same key gets the same session.

        Raises:
            Unavailable: Nobody knows whether it is open: look with :meth:`find_checkout`, then ask again.
            IntegrationError: See ``integrations._errors``.
        """
        with self._translated():
            opened = self._client.v1.checkout.sessions.create(_asked(checkout), {"idempotency_key": checkout.key})
            session: dict[str, Any] = opened.to_dict(for_json=True)
        return session

    def find_checkout(self, reference: str, *, since: datetime) -> dict[str, Any] | None:
        """Return the session that carries our reference, if one was created since then.

        Raises:
            IntegrationError: See ``integrations._errors``.
        """
        sessions = self.objects("checkout.session", since=since)
        return next((found for found in sessions if found.get("client_reference_id") == reference), None)

    def expire_checkout(self, session_id: str) -> dict[str, Any]:
        """Close an open session for good, so that nobody pays any more.

        Raises:
            Rejected: It is not open: it was paid, or has expired by itself.
            IntegrationError: See ``integrations._errors``.
        """
        with self._translated():
            closed: dict[str, Any] = self._client.v1.checkout.sessions.expire(session_id).to_dict(for_json=True)
        return closed

    def _service(self, kind: Kind) -> Any:
        v1 = self._client.v1
        services: Mapping[Kind, Any] = {
            "charge": v1.charges,
            "checkout.session": v1.checkout.sessions,
            "dispute": v1.disputes,
            "invoice": v1.invoices,
            "payment_intent": v1.payment_intents,
            "refund": v1.refunds,
        }
        return services[kind]

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the few errors the vendor's client still raises by itself into ours."""
        try:
            yield
        except Rejected as error:
            if error.status != _CONFLICT:
                raise
            raise Unavailable(
                "stripe is still busy with the same request: it is asked again later.", upstream=self.name
            ) from error
        except stripe.InvalidRequestError as error:
            raise Rejected(
                f"stripe was not asked, as the request makes no sense ({error.user_message}): check its arguments.",
                upstream=self.name,
                status=0,
                code=error.code,
            ) from None
        except (stripe.StripeError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise Unavailable(
                f"stripe answered with something that its own client cannot read ({type(error).__name__}):"
                " it is asked again later; if this persists, check the configured address.",
                upstream=self.name,
            ) from None


class _Carrier(stripe.HTTPClient):
    """Carries the vendor's requests over our HTTP client, which raises our errors for everything that is no result."""

    name = "headrace"

    def __init__(self, http: HttpUpstream) -> None:
        super().__init__()
        self._http = http

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        *,
        _usage: list[str] | None = None,
    ) -> tuple[str, int, Mapping[str, str]]:
        content = post_data.encode() if isinstance(post_data, str) else post_data
        reply = self._http.send(method.upper(), url, headers=headers, content=content)
        return reply.body.decode(errors="replace"), reply.status, reply.headers

    def close(self) -> None:
        self._http.close()


def hint(body: bytes) -> Hint | None:
    """Read what an event is about, snapshot or thin; None if it names no object of a kind that we follow.

    Raises:
        BadDelivery: It is no JSON object.
    """
    payload = parse_object(body, upstream=Stripe.name)
    about = _about(payload)
    object_id = _subject(payload)
    # A thin event says `type` of what a snapshot calls `object`.
    kind = str(about.get("object") or about.get("type")).removeprefix("v1.")
    if object_id is None or kind not in _KINDS:
        return None
    return Hint(cast("Kind", kind), object_id, label_or_none(payload.get("api_version")))


def _about(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    data = payload.get("data")
    about = payload.get("related_object") or (data.get("object") if isinstance(data, dict) else None)
    return about if isinstance(about, dict) else {}


def _subject(payload: Mapping[str, Any]) -> str | None:
    return label_or_none(_about(payload).get("id"))


def _asked(checkout: Checkout) -> SessionCreateParams:
    ours = {"order_id": checkout.reference}
    asked: SessionCreateParams = {
        "mode": "payment",
        "client_reference_id": checkout.reference,
        "metadata": ours,
        "payment_intent_data": {"metadata": ours},
        "line_items": [
            {
                "quantity": line.quantity,
                "price_data": {
                    "currency": checkout.currency.lower(),
                    "unit_amount": line.price,
                    "product_data": {"name": line.name, "metadata": {"sku": line.sku}},
                },
            }
            for line in checkout.lines
        ],
        "expires_at": int(checkout.expires_at.timestamp()),
        "success_url": checkout.success_url,
    }
    if checkout.cancel_url is not None:
        asked["cancel_url"] = checkout.cancel_url
    return asked

"""Stripe: what was paid, refunded and disputed.

A delivery from Stripe is a hint that something happened to an object, in no order and perhaps twice; the truth is
fetched from the API afterwards. So this module does three things: it judges deliveries on their raw bytes, it lists
events (to find the ones that never reached us), and it fetches the objects that events are about.

The vendor's client builds the requests and knows the API version; our own HTTP client carries them. That way Stripe
is asked with the same deadline, retries and errors as everybody else, the vendor's retries stay off, and nothing is
measured or written to disk behind our back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import stripe
from pydantic import Field

from integrations._errors import BadDelivery, Rejected, Unavailable
from integrations._http import HttpUpstream
from integrations._integration import Delivery, Headers, Integration, label_or_none, parse_object, require_label
from integrations._rate import PacedSettings, Rate
from integrations._settings import Credential, IntegrationSettings, PartnerAddress, Secrets
from integrations._signatures import stripe as stripe_signature

if TYPE_CHECKING:
    from stripe.params import EventListParams

Kind: TypeAlias = Literal["charge", "checkout.session", "dispute", "invoice", "payment_intent", "refund"]
"""Stripe's own words for the kinds of object that we follow."""

_EVENT_KINDS = ("event", "v2.core.event")


class StripeSettings(PacedSettings):
    """Which Stripe account, and what its deliveries are signed with."""

    api_key: Credential = Field(description="Secret or restricted API key of the Stripe account.")
    api_base: PartnerAddress = Field(default="https://api.stripe.com", description="Base address of Stripe's API.")
    webhook_secrets: Secrets = Field(
        default=(), description="Secrets of the webhook endpoint (whsec_...), comma-separated, newest first."
    )


class Stripe(Integration):
    """Client of one Stripe account, and judge of its deliveries."""

    name: ClassVar[str] = "stripe"
    Settings: ClassVar[type[IntegrationSettings]] = StripeSettings
    webhook: ClassVar[bool] = True
    # Stripe allows 25 calls a second to a test account and to each operation of a live one, which has 100 in all. It
    # names no numbers in its answers; a 429 is all that it says.
    rate: ClassVar[Rate | None] = Rate(calls=25, period=1.0, burst=25, concurrency=32)

    def __init__(self, settings: StripeSettings) -> None:
        super().__init__(settings)
        self._secrets = settings.webhook_secrets
        self._http = HttpUpstream(self.name, settings.api_base, settings.api_key, breaker=self.breaker)
        base = settings.api_base
        # The vendor reports timings and writes an id into the home directory unless told not to, for all clients.
        stripe.enable_telemetry = False
        self._client = stripe.StripeClient(
            settings.api_key.get_secret_value(),
            base_addresses={"api": base, "connect": base, "files": base, "meter_events": base},
            http_client=_Carrier(self._http),
            max_network_retries=0,
        )

    def close(self) -> None:
        self._http.close()

    def probe(self) -> None:
        with self._translated():
            self._client.v1.events.list({"limit": 1})

    def verify(self, headers: Headers, body: bytes, now: float) -> Delivery:
        signed = stripe_signature(headers, body, self._secrets, now, upstream=self.name)
        payload = parse_object(body, upstream=self.name)
        if payload.get("object") not in _EVENT_KINDS:
            raise BadDelivery(
                "stripe signed a delivery that is no event: its bytes are kept, check where the endpoint points.",
                upstream=self.name,
            )
        return Delivery(
            external_id=require_label(payload, "id", upstream=self.name),
            type=require_label(payload, "type", upstream=self.name),
            subject=_subject(payload),
            signed_at=datetime.fromtimestamp(signed.timestamp, UTC),
            secret_index=signed.secret_index,
        )

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
        v1 = self._client.v1
        services: Mapping[Kind, Any] = {
            "charge": v1.charges,
            "checkout.session": v1.checkout.sessions,
            "dispute": v1.disputes,
            "invoice": v1.invoices,
            "payment_intent": v1.payment_intents,
            "refund": v1.refunds,
        }
        with self._translated():
            fetched: dict[str, Any] = (
                services[kind].retrieve(object_id, {"expand": list(expand)}).to_dict(for_json=True)
            )
        return fetched

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the few errors the vendor's client still raises by itself into ours."""
        try:
            yield
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


def _subject(payload: Mapping[str, Any]) -> str | None:
    data = payload.get("data")
    about = payload.get("related_object") or (data.get("object") if isinstance(data, dict) else None)
    return label_or_none(about.get("id")) if isinstance(about, dict) else None

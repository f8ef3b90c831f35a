"""What every integration is: a name, its settings, a way to be asked, and a way to be believed.

A module of this package that defines a subclass of ``Integration`` is an integration; nothing else has to be told
about it. Its jobs ask for it by class, its webhooks arrive under its name, and its settings come from the
environment under its name. An instance is used by many threads at once and lives as long as its process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, create_model

from integrations._breaker import Breaker
from integrations._rate import POLITE, PacedSettings, Rate
from integrations._secrets import Secrets, WebhookSecret
from integrations._settings import IntegrationSettings
from integrations._signatures import Headers, Lines, Scheme, Signed, Verifier
from integrations._source import Delivery, Source, parse_object
from integrations._teaching import Teaching


@dataclass(frozen=True, slots=True)
class EventKey:
    """One type of event from one source: what a job answers to."""

    source: str
    type: str


class Integration:
    """One kind of upstream. Subclasses set the class attributes and add the calls their jobs need.

    Args:
        settings: An instance of the class's own ``Settings``.
    """

    name: ClassVar[str]
    """Lower case; names the webhook address, the settings, and the upstream in tables and pages."""
    Settings: ClassVar[type[IntegrationSettings]]
    source: ClassVar[Source | None] = None
    """How its webhooks are signed and read; None when it sends none."""
    lists_events: ClassVar[bool] = False
    """Whether the upstream can be asked which events happened; if so it overrides :meth:`happened`."""
    rate: ClassVar[Rate | None] = POLITE
    """How much of the upstream all processes together use; None for one whose client passes no breaker."""
    teaching: ClassVar[Teaching] = Teaching()
    """How its answers say what it allows."""

    def __init__(self, settings: IntegrationSettings) -> None:
        self.settings = settings
        self._verifier = self._judge(getattr(settings, "webhook_secrets", ()))
        #: Hand it to the client of the upstream: it leaves an upstream alone that failed too often, and asks no more of
        #: it than it allows.
        self.breaker = Breaker(self.name, self.allowed(settings) or POLITE, self.teaching)

    @classmethod
    def event(cls, type: str) -> EventKey:  # noqa: A002 - the outside calls it `type`, and so do the sender's bodies
        """Name one type of event of this integration: ``@job(on=Warehouse.event("product.updated"))``."""
        return EventKey(cls.name, type)

    @classmethod
    def allowed(cls, settings: IntegrationSettings | None) -> Rate | None:
        """Return how much of the upstream is used: as declared, or as the settings say."""
        if cls.rate is None or not isinstance(settings, PacedSettings):
            return cls.rate
        return settings.agreed(cls.rate)

    @classmethod
    def variable(cls, field: str) -> str:
        """Return the environment variable that carries a setting: ``WAREHOUSE_URL`` for ``url``."""
        return f"{cls.name}_{field}".upper()

    @classmethod
    def first_variable(cls) -> str:
        """Return the first environment variable that has to be set: with it a person begins."""
        return cls.variable(next(name for name, field in cls.Settings.model_fields.items() if field.is_required()))

    def close(self) -> None:
        """Let go of connections. Calling it again does nothing."""

    def probe(self) -> None:
        """Ask the upstream something cheap, once.

        Raises:
            IntegrationError: ``Unavailable`` if it cannot be reached, another one if it answers but refuses us.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be probed: write probe() in its module.")

    def verify(self, headers: Headers, body: bytes, now: float) -> Delivery:
        """Decide whether a delivery is genuine, and what it says about itself.

        Args:
            headers: The header lines as received.
            body: The body as received, byte for byte.
            now: The time of arrival, in seconds since the epoch.

        Raises:
            BadSignature: Nobody we know sent this.
            BadDelivery: Somebody we know sent this, and it cannot be read.
        """
        if self._verifier is None:
            raise NotImplementedError(f"{type(self).__name__} takes no deliveries: declare its `source`.")
        lines = Lines(self.name, headers)
        signed = self._verifier.verify(lines, body, now)
        return self.describe(signed, lines, parse_object(body, upstream=self.name), body)

    def describe(self, signed: Signed, lines: Lines, payload: Mapping[str, Any], body: bytes) -> Delivery:
        """Read what a proven delivery says about itself; override it where a source needs more than places.

        Raises:
            BadDelivery: It cannot be read.
        """
        if self.source is None:
            raise NotImplementedError(f"{type(self).__name__} takes no deliveries: declare its `source`.")
        return self.source.describe(signed, lines, payload, body)

    def happened(self, since: datetime) -> Iterator[Mapping[str, Any]]:
        """List what happened since a moment, as the bodies that deliveries of it would have.

        Raises:
            IntegrationError: It may come in the middle of the walk.
        """
        raise NotImplementedError(f"{type(self).__name__} lists no events: set lists_events and write happened().")

    def _judge(self, secrets: Sequence[WebhookSecret]) -> Verifier | None:
        if self.source is None:
            return None
        return Verifier(self.name, self.source.scheme, secrets, self.source.tolerance)


class WebhookSource(Integration):
    """A source of webhooks that we never ask for anything. Its secrets are its only setting.

    class Carrier(WebhookSource):
        name = "carrier"
        source = Source(scheme=Hmac("X-Carrier-Hmac", encoding="base64"), id=Body("id"), type=Body("event"))
    """

    rate: ClassVar[Rate | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.source is None:
            raise TypeError(f"{cls.__name__} is a source of webhooks: declare its `source`.")
        told = f"Secrets that webhooks of {cls.name} are signed with, comma-separated, newest first."
        cls.Settings = create_model(
            f"{cls.__name__}Settings",
            __base__=IntegrationSettings,
            webhook_secrets=(Annotated[Secrets, signed_by(cls.source.scheme)], Field(description=told)),
        )

    def probe(self) -> None:
        """Do nothing: it speaks to us, and we not to it."""


def signed_by(scheme: Scheme) -> AfterValidator:
    """Return the check that every secret belongs to a scheme, for the type of a setting."""

    def check(secrets: tuple[WebhookSecret, ...]) -> tuple[WebhookSecret, ...]:
        for secret in secrets:
            scheme.key(secret.value)
        return secrets

    return AfterValidator(check)

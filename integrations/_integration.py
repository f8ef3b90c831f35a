"""What every integration is: a name, its settings, a way to be asked, and a way to be believed.

A module of this package that defines a subclass of ``Integration`` is an integration; nothing else has to be told
about it. Its jobs ask for it by class, its webhooks arrive under its name, and its settings come from the
environment under its name. An instance is used by many threads at once and lives as long as its process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

import orjson

from integrations._breaker import Breaker
from integrations._errors import BadDelivery
from integrations._rate import POLITE, PacedSettings, Rate
from integrations._settings import IntegrationSettings
from integrations._teaching import Teaching

Headers = Mapping[str, str] | Iterable[tuple[str, str]]
"""Header lines as received. Pairs are better than a mapping: a mapping hides that a line came twice."""

LABEL_LENGTH = 255
"""Characters an external id or an event type may have."""


@dataclass(frozen=True, slots=True)
class EventKey:
    """One type of event from one source: what a job answers to."""

    source: str
    type: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a verified webhook says about itself, before anybody acts on it."""

    external_id: str
    """The sender's id for this event, the same on every retry: the key to recognise duplicates by."""
    type: str
    """The sender's word for what happened, for example ``product.updated``."""
    subject: str | None
    """The sender's id of the thing it happened to, if the event names one."""
    signed_at: datetime
    """When the sender signed this delivery, by the sender's clock, in UTC. A retry is signed anew."""
    secret_index: int
    """Which of our secrets matched; 0 is the newest. An old secret that never matches can be dropped."""


class Integration:
    """One kind of upstream. Subclasses set the class attributes and add the calls their jobs need.

    Args:
        settings: An instance of the class's own ``Settings``.
    """

    name: ClassVar[str]
    """Lower case; names the webhook address, the settings, and the upstream in tables and pages."""
    Settings: ClassVar[type[IntegrationSettings]]
    webhook: ClassVar[bool] = False
    """Whether this integration receives deliveries; if so it overrides :meth:`verify`."""
    rate: ClassVar[Rate | None] = POLITE
    """How much of the upstream all processes together use; None for one whose client passes no breaker."""
    teaching: ClassVar[Teaching] = Teaching()
    """How its answers say what it allows."""

    def __init__(self, settings: IntegrationSettings) -> None:
        self.settings = settings
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
        raise NotImplementedError(f"{type(self).__name__} takes no deliveries: set webhook = True and write verify().")


def parse_object(body: bytes, *, upstream: str) -> dict[str, Any]:
    """Read the body of a verified delivery as one JSON object.

    Raises:
        BadDelivery: It is not JSON, or not an object.
    """
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadDelivery(
            f"{upstream} signed a delivery that is not JSON: its bytes are kept, ask the sender.", upstream=upstream
        ) from error
    if not isinstance(payload, dict):
        raise BadDelivery(
            f"{upstream} signed a delivery that is no JSON object: its bytes are kept, ask the sender.",
            upstream=upstream,
        )
    return payload


def require_label(payload: Mapping[str, Any], field: str, *, upstream: str) -> str:
    """Take a short printable text, such as an id or a type, out of a verified delivery.

    Raises:
        BadDelivery: It is missing, no text, empty, longer than 255 characters, or unprintable.
    """
    label = label_or_none(payload.get(field))
    if label is None:
        raise BadDelivery(
            f"{upstream} signed a delivery without a usable `{field}`: its bytes are kept, ask the sender.",
            upstream=upstream,
        )
    return label


def label_or_none(value: Any) -> str | None:
    """Return a value if it is a short printable text, which is what a key in our tables can hold."""
    if isinstance(value, str) and 0 < len(value) <= LABEL_LENGTH and value.isprintable():
        return value
    return None

"""What a source of webhooks is: how it signs, where its deliveries say what happened, and what we put up with.

    Source(scheme=STANDARD, subject=(Body("data.id"),))
    Source(scheme=GITHUB, id=Header("X-GitHub-Delivery"), type=Header("X-GitHub-Event"), subject=(Body("issue.id"),))
    Source(scheme=Hmac("X-Signature", encoding="base64"), id=Body("event.id"), type=Body("event.kind"), cap=64 * 1024)

The receiver knows nothing else about a source, and no source has code in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from integrations._errors import BadDelivery
from integrations._signatures import TOLERANCE, Lines, Scheme, Signed

LABEL_LENGTH = 255
"""Characters an external id or an event type may have."""

LARGEST_BODY = 512 * 1024
"""Bytes of a body, unless the source says otherwise."""


@dataclass(frozen=True, slots=True)
class Body:
    """A place in the JSON body: names with dots between them, ``data.object.id``."""

    path: str

    def find(self, lines: Lines, payload: Mapping[str, Any]) -> Any:
        """Return what is there, or None."""
        del lines
        return at_path(payload, self.path)


@dataclass(frozen=True, slots=True)
class Header:
    """A header line. It says what happened; no scheme signs it, unless it is one of the scheme's own."""

    path: str

    def find(self, lines: Lines, payload: Mapping[str, Any]) -> Any:
        """Return its value if it came once, or None."""
        del payload
        values = lines.all(self.path.lower())
        return values[0] if len(values) == 1 else None


Place = Body | Header


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a verified webhook says about itself, before anybody acts on it."""

    external_id: str
    """The sender's id for this event, the same on every retry: the key to recognise duplicates by."""
    type: str
    """The sender's word for what happened, for example ``product.updated``."""
    subject: str | None
    """The sender's id of the thing it happened to, if the event names one."""
    signed_at: datetime | None
    """When the sender signed this delivery, by the sender's clock, in UTC, if it says. A retry is signed anew."""
    secret_index: int
    """Which of our secrets matched; 0 is the newest. An old secret that never matches can be dropped."""
    payload: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The body as a JSON object."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """How deliveries of one source are judged and read."""

    scheme: Scheme
    type: Place = Body("type")
    id: Place | None = None
    """The sender's id of the event. None: the one that the scheme signs, or else a digest of the body."""
    subject: tuple[Place, ...] = ()
    """The sender's id of the thing it happened to; the first place that has one counts."""
    cap: int = LARGEST_BODY
    """Bytes of a body at most; a longer one is answered 413."""
    tolerance: float = TOLERANCE
    """Seconds a signed moment may differ from ours."""
    content_type: str | None = None
    """The only type of body that is read, such as ``application/json``; others are answered 415. None: any."""
    retired: bool = False
    """Answer 410, so that the sender stops: nobody here wants its events any more."""

    def describe(self, signed: Signed, lines: Lines, payload: Mapping[str, Any], body: bytes) -> Delivery:
        """Read what a proven delivery says about itself.

        Raises:
            BadDelivery: It has no usable type or id.
        """
        signed_at = datetime.fromtimestamp(signed.timestamp, UTC) if signed.timestamp is not None else None
        found = (label(place.find(lines, payload)) for place in self.subject)
        return Delivery(
            external_id=self._id(signed, lines, payload, body),
            type=require(label_or_none(self.type.find(lines, payload)), self.type.path, upstream=lines.upstream),
            subject=next((one for one in found if one is not None), None),
            signed_at=signed_at,
            secret_index=signed.secret_index,
            payload=payload,
        )

    def _id(self, signed: Signed, lines: Lines, payload: Mapping[str, Any], body: bytes) -> str:
        if self.id is not None:
            return require(label(self.id.find(lines, payload)), self.id.path, upstream=lines.upstream)
        if signed.external_id:
            return require(label(signed.external_id), "webhook-id", upstream=lines.upstream)
        return f"sha256:{hashlib.sha256(body).hexdigest()}"


def at_path(payload: Any, path: str) -> Any:
    """Return what stands at a path of names and, within lists, numbers; None if there is nothing."""
    found = payload
    for name in path.split("."):
        if isinstance(found, Mapping):
            found = found.get(name)
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


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
    return require(label_or_none(payload.get(field)), field, upstream=upstream)


def require(found: str | None, field: str, *, upstream: str) -> str:
    """Return what was found in a verified delivery.

    Raises:
        BadDelivery: There is nothing usable.
    """
    if found is None:
        raise BadDelivery(
            f"{upstream} signed a delivery without a usable `{field}`: its bytes are kept, ask the sender.",
            upstream=upstream,
        )
    return found


def label(value: Any) -> str | None:
    """Return a value if it is a short printable text, or a whole number, as some senders count their ids."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else label_or_none(value)


def label_or_none(value: Any) -> str | None:
    """Return a value if it is a short printable text, which is what a key in our tables can hold."""
    if isinstance(value, str) and 0 < len(value) <= LABEL_LENGTH and value.isprintable():
        return value
    return None

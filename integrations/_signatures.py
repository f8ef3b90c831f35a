"""Who really sent this? Two signature schemes, checked on the bytes exactly as they came; and our own signature.

A sender signs the moment, the id and the body with a secret that only we share; a receiver signs the same bytes and
compares. What makes our own verifier worth having, compared with the vendors': nothing a stranger can send raises
anything but ``BadSignature``; bodies are bytes and need not be text; a moment too far in the future is refused like
one too far in the past; several secrets and several signatures may be alive while one is being rolled; a malformed
signature among good ones is skipped; and a signature header that comes twice is refused, because two readers of the
same request could then believe two different things.

Every secret is tried against every signature, so the time taken says nothing about which one came close.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from integrations._errors import BadSignature
from integrations._integration import Headers

TOLERANCE = 300.0
"""Seconds a delivery may be old, or early, by the two clocks involved."""

_SIGNATURES_READ = 16
"""Signatures looked at per delivery. Two are alive while a secret is rolled; a longer list is somebody's game."""

_SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix of a secret, not a secret


@dataclass(frozen=True, slots=True)
class Signed:
    """A proven delivery: its id if the scheme has one, when it was signed, and by which of our secrets."""

    external_id: str
    timestamp: int
    secret_index: int


def standard_webhooks(
    headers: Headers,
    body: bytes,
    secrets: Sequence[SecretStr],
    now: float,
    *,
    upstream: str,
    tolerance: float = TOLERANCE,
) -> Signed:
    """Verify a delivery signed by Standard Webhooks 1.0 (symmetric signatures, ``v1``).

    Args:
        headers: The header lines as received.
        body: The body as received.
        secrets: Our secrets, ``whsec_`` and base64, newest first.
        now: The time of arrival, in seconds since the epoch.
        upstream: Who it claims to come from, for the message.
        tolerance: Seconds the signed moment may differ from ``now``, either way.

    Raises:
        BadSignature: It proves nothing; ``reason`` says in which way.
    """
    check = _Check(upstream, headers, secrets)
    external_id = check.header("webhook-id")
    timestamp = check.moment(check.header("webhook-timestamp"), now, tolerance)
    candidates = (
        _from_base64(token.removeprefix("v1,"))
        for token in check.header("webhook-signature").split(" ")
        if token.startswith("v1,")
    )
    keys = [standard_webhooks_key(secret) for secret in secrets]
    message = _signed_bytes(external_id, timestamp, body)
    return Signed(external_id, timestamp, check.match(message, keys, candidates))


def signed_headers(secret: SecretStr, external_id: str, body: bytes, now: float) -> dict[str, str]:
    """Return the headers with which a delivery of ours proves where it comes from, by Standard Webhooks 1.0.

    Args:
        secret: What the receiver shares with us, ``whsec_`` and base64.
        external_id: Names the message; the same each time it is sent.
        body: What is sent, byte for byte.
        now: The time of sending, in seconds since the epoch.

    Raises:
        ValueError: The secret cannot be decoded.
    """
    made = _signature(standard_webhooks_key(secret), _signed_bytes(external_id, int(now), body))
    return {
        "webhook-id": external_id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": f"v1,{base64.b64encode(made).decode()}",
    }


def stripe(
    headers: Headers,
    body: bytes,
    secrets: Sequence[SecretStr],
    now: float,
    *,
    upstream: str = "stripe",
    tolerance: float = TOLERANCE,
) -> Signed:
    """Verify a delivery signed by Stripe (scheme ``v1``). The id is in the body, so ``external_id`` stays empty.

    Args:
        headers: The header lines as received.
        body: The body as received.
        secrets: Our endpoint secrets, as Stripe shows them, newest first.
        now: The time of arrival, in seconds since the epoch.
        upstream: Who it claims to come from, for the message.
        tolerance: Seconds the signed moment may differ from ``now``, either way.

    Raises:
        BadSignature: It proves nothing; ``reason`` says in which way.
    """
    check = _Check(upstream, headers, secrets)
    fields = [part.strip().partition("=") for part in check.header("stripe-signature").split(",")]
    moments = [value for name, _, value in fields if name == "t"]
    if len(moments) != 1:
        raise check.refusal("malformed", "its signature header names no single time")
    timestamp = check.moment(moments[0], now, tolerance)
    candidates = (_from_hex(value) for name, _, value in fields if name == "v1")
    keys = [secret.get_secret_value().encode() for secret in secrets]
    return Signed("", timestamp, check.match(b"%d.%b" % (timestamp, body), keys, candidates))


def standard_webhooks_key(secret: SecretStr) -> bytes:
    """Decode a Standard Webhooks secret into the key it stands for.

    Raises:
        ValueError: It is not base64 after its prefix, or empty.
    """
    encoded = secret.get_secret_value().removeprefix(_SECRET_PREFIX)
    key = _from_base64(encoded + "=" * (-len(encoded) % 4))
    if not key:
        raise ValueError("a webhook secret is whsec_ followed by base64: copy it again from the sender")
    return key


class _Check:
    """One delivery under examination; every way to fail becomes a ``BadSignature`` with its reason."""

    def __init__(self, upstream: str, headers: Headers, secrets: Sequence[SecretStr]) -> None:
        self._upstream = upstream
        self._lines = list(_pairs(headers))
        if not secrets:
            raise self.refusal("unconfigured", f"no secret is set: set {upstream.upper()}_WEBHOOK_SECRETS")

    def refusal(self, reason: str, because: str) -> BadSignature:
        message = f"A delivery that claims to come from {self._upstream} was refused: {because}."
        return BadSignature(message, upstream=self._upstream, reason=reason)

    def header(self, name: str) -> str:
        """Return the one line of a header, which must be plain printable text."""
        values = [value for line, value in self._lines if line.lower() == name]
        if not values or not values[0]:
            raise self.refusal("missing", f"it has no {name} header")
        if len(values) > 1:
            raise self.refusal("duplicated", f"its {name} header came {len(values)} times")
        if not (values[0].isascii() and values[0].isprintable()):
            raise self.refusal("malformed", f"its {name} header is not plain text")
        return values[0]

    def moment(self, text: str, now: float, tolerance: float) -> int:
        """Read the signed moment, in whole seconds, and hold it against the time of arrival."""
        if not (text.isdigit() and len(text) <= 12):  # noqa: PLR2004 - 12 digits reach the year 33658
            raise self.refusal("malformed", "its timestamp is not a whole number of seconds")
        timestamp = int(text)
        if now - timestamp > tolerance:
            raise self.refusal("stale", f"it was signed more than {tolerance:.0f} s ago: look at both clocks")
        if timestamp - now > tolerance:
            raise self.refusal("early", f"it was signed more than {tolerance:.0f} s ahead of us: look at both clocks")
        return timestamp

    def match(self, message: bytes, keys: Sequence[bytes], candidates: Iterable[bytes]) -> int:
        """Return the index of the first secret that made one of the signatures."""
        offered = list(candidates)[:_SIGNATURES_READ]
        matching = [index for index, key in enumerate(keys) if _made_any(key, message, offered)]
        if not matching:
            raise self.refusal("mismatch", f"no signature matches: compare {self._upstream.upper()}_WEBHOOK_SECRETS")
        return matching[0]


def _signed_bytes(external_id: str, timestamp: int, body: bytes) -> bytes:
    return b"%b.%d.%b" % (external_id.encode(), timestamp, body)


def _signature(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def _made_any(key: bytes, message: bytes, candidates: Sequence[bytes]) -> bool:
    expected = _signature(key, message)
    return any([hmac.compare_digest(expected, candidate) for candidate in candidates])  # noqa: C419 - no early way out


def _pairs(headers: Headers) -> Iterable[tuple[str, str]]:
    return headers.items() if isinstance(headers, Mapping) else headers


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _from_hex(text: str) -> bytes:
    try:
        return binascii.unhexlify(text)
    except (binascii.Error, ValueError):
        return b""

"""How senders sign: each scheme says where its signatures stand and which bytes they cover.

    STANDARD     Standard Webhooks 1.0: webhook-id, webhook-timestamp, webhook-signature. Secrets are whsec_ and base64
                 (symmetric, v1) or whpk_ and base64 (the sender's public key, v1a)
    SVIX         the same with svix- in front of its headers
    STRIPE       Stripe-Signature: t=..,v1=..
    GITHUB       X-Hub-Signature-256: sha256=..
    SHOPIFY      X-Shopify-Hmac-Sha256: base64
    Hmac(...)    anybody else who signs the body: name of the header, prefix, hex or base64

A moment and an id count only where they are signed, so what signs neither can be sent again by whoever has seen it.
For those the sender's id, even unsigned, makes the copy a duplicate.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import SecretStr

from integrations._signatures import Claim, HmacKey, Key, Lines, Scheme, digest, seconds

_SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix of a secret, not a secret
_PUBLIC_PREFIX = "whpk_"


class Ed25519Key(Key):
    """The sender's public key: only the sender can sign, we can only look."""

    version = "v1a"

    def __init__(self, key: bytes) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(key)

    def made_any(self, message: bytes, signatures: Sequence[bytes]) -> bool:
        return any([self._made(message, signature) for signature in signatures])  # noqa: C419 - no early way out

    def _made(self, message: bytes, signature: bytes) -> bool:
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class StandardWebhooks(Scheme):
    """Standard Webhooks 1.0, with symmetric and asymmetric signatures side by side."""

    prefix: str = "webhook-"

    def key(self, secret: SecretStr) -> Key:
        written = secret.get_secret_value()
        if not written.startswith(_PUBLIC_PREFIX):
            return HmacKey(standard_webhooks_key(secret))
        try:
            return Ed25519Key(_from_base64(_padded(written.removeprefix(_PUBLIC_PREFIX))))
        except ValueError:
            raise ValueError("a public key is whpk_ and base64 of 32 bytes: copy it again from the sender") from None

    def claim(self, lines: Lines, body: bytes) -> Claim:
        external_id = lines.one(f"{self.prefix}id")
        timestamp = seconds(lines, lines.one(f"{self.prefix}timestamp"))
        tokens = (token.partition(",") for token in lines.one(f"{self.prefix}signature").split(" "))
        signatures = ((version, _from_base64(text)) for version, _, text in tokens if version in {"v1", "v1a"})
        return Claim(_signed_bytes(external_id, timestamp, body), signatures, external_id, timestamp)


@dataclass(frozen=True)
class StripeSignature(Scheme):
    """Stripe's own. The id of the event is in the body."""

    def key(self, secret: SecretStr) -> Key:
        return HmacKey(secret.get_secret_value().encode())

    def claim(self, lines: Lines, body: bytes) -> Claim:
        fields = [part.strip().partition("=") for part in lines.one("stripe-signature").split(",")]
        moments = [value for name, _, value in fields if name == "t"]
        if len(moments) != 1:
            raise lines.refusal("malformed", "its signature header names no single time")
        timestamp = seconds(lines, moments[0])
        signatures = ((name, _from_hex(value)) for name, _, value in fields if name == "v1")
        return Claim(b"%d.%b" % (timestamp, body), signatures, timestamp=timestamp)


@dataclass(frozen=True)
class Hmac(Scheme):
    """A signature of the body alone, HMAC-SHA256, in a header of its own.

    Args:
        header: Name of the header, in any case.
        prefix: What stands in front of the signature.
        encoding: How it is written.
    """

    header: str
    prefix: str = ""
    encoding: Literal["hex", "base64"] = "hex"

    def key(self, secret: SecretStr) -> Key:
        return HmacKey(secret.get_secret_value().encode())

    def claim(self, lines: Lines, body: bytes) -> Claim:
        written = lines.one(self.header.lower())
        if not written.startswith(self.prefix):
            raise lines.refusal("malformed", f"its {self.header.lower()} header does not begin with {self.prefix}")
        decode = _from_hex if self.encoding == "hex" else _from_base64
        return Claim(body, [("v1", decode(written.removeprefix(self.prefix)))])


STANDARD = StandardWebhooks()
SVIX = StandardWebhooks("svix-")
STRIPE = StripeSignature()
GITHUB = Hmac("X-Hub-Signature-256", prefix="sha256=")
SHOPIFY = Hmac("X-Shopify-Hmac-Sha256", encoding="base64")


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
    made = digest(standard_webhooks_key(secret), _signed_bytes(external_id, int(now), body))
    return {
        "webhook-id": external_id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": f"v1,{base64.b64encode(made).decode()}",
    }


def standard_webhooks_key(secret: SecretStr) -> bytes:
    """Decode a Standard Webhooks secret into the key it stands for.

    Raises:
        ValueError: It is not base64 after its prefix, or empty.
    """
    key = _from_base64(_padded(secret.get_secret_value().removeprefix(_SECRET_PREFIX)))
    if not key:
        raise ValueError("a webhook secret is whsec_ followed by base64: copy it again from the sender")
    return key


def _signed_bytes(external_id: str, timestamp: int, body: bytes) -> bytes:
    return b"%b.%d.%b" % (external_id.encode(), timestamp, body)


def _padded(encoded: str) -> str:
    return encoded + "=" * (-len(encoded) % 4)


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

"""How the stand-ins sign what they send: Standard Webhooks for the warehouse, Stripe's own scheme for Stripe.

Written from the two specifications and apart from the receiver's verifier on purpose: the same mistake on both sides
would verify happily.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable

Sign = Callable[[str, int, bytes], dict[str, str]]


def standard_webhooks(secret: str) -> Sign:
    """Sign `id.timestamp.body` with the key that is base64 after `whsec_`."""
    key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)

    def sign(message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        }

    return sign


def stripe(secrets: str) -> Sign:
    """Sign `timestamp.body` with each whole secret as it is written, `whsec_` included.

    While a secret is being rolled two are alive, comma-separated here, and each makes a signature of its own.
    """
    keys = [secret.encode() for secret in secrets.split(",")]

    def sign(_message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        digests = (hmac.digest(key, f"{timestamp}.".encode() + body, hashlib.sha256).hex() for key in keys)
        return {"Stripe-Signature": ",".join([f"t={timestamp}", *(f"v1={digest}" for digest in digests)])}

    return sign

"""Who really sent this? One verifier for every scheme, on the bytes exactly as they came.

A sender signs its message with a secret that only we share; a scheme (``integrations._schemes``) says where the
signatures stand and what bytes they cover. The rest is the same for all, and it is why we have our own verifier:
nothing a stranger can send raises anything but ``BadSignature``; bodies are bytes and need not be text; a moment too
far in the future is refused like one too far in the past; several secrets and several signatures may be alive while
one is being rolled; a malformed signature among good ones is skipped; and a signature header that comes twice is
refused, because two readers of the same request could then believe two different things.

Every secret is tried against every signature, also one that has ended, and a delivery without any signature is digested
like one with a wrong signature: the time taken says nothing about which of them came close.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from pydantic import SecretStr

from integrations._errors import BadSignature
from integrations._secrets import WebhookSecret

Headers = Mapping[str, str] | Iterable[tuple[str, str]]
"""Header lines as received. Pairs are better than a mapping: a mapping hides that a line came twice."""

TOLERANCE = 300.0
"""Seconds a delivery may be old, or early, by the two clocks involved."""

_SIGNATURES_READ = 16
"""Signatures looked at per delivery. Two are alive while a secret is rolled; a longer list is somebody's game."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A proven delivery: its id and its moment if the scheme signs them, and by which of our secrets it was signed."""

    external_id: str
    timestamp: int | None
    secret_index: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What a delivery offers as its proof."""

    message: bytes
    """The bytes that were signed."""
    signatures: Iterable[tuple[str, bytes]]
    """Signatures with their version; one that could not be decoded is empty."""
    external_id: str = ""
    timestamp: int | None = None
    """The signed moment in seconds since the epoch; None where the scheme signs none."""


class Key(ABC):
    """A secret as a scheme uses it."""

    version: str = "v1"
    """Signatures of other versions are none of its business."""

    @abstractmethod
    def made_any(self, message: bytes, signatures: Sequence[bytes]) -> bool:
        """Whether one of these signatures of a message was made with it."""


class HmacKey(Key):
    """A secret that both sides share (HMAC-SHA256)."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def made_any(self, message: bytes, signatures: Sequence[bytes]) -> bool:
        expected = digest(self._key, message)
        return any([hmac.compare_digest(expected, one) for one in signatures])  # noqa: C419 - no early way out


class Scheme(ABC):
    """How one family of senders signs."""

    @abstractmethod
    def key(self, secret: SecretStr) -> Key:
        """Return the key that a secret stands for.

        Raises:
            ValueError: It is no secret of this scheme.
        """

    @abstractmethod
    def claim(self, lines: Lines, body: bytes) -> Claim:
        """Find what a delivery offers as its proof.

        Raises:
            BadSignature: It offers nothing that could be checked.
        """


class Lines:
    """The header lines of one delivery."""

    def __init__(self, upstream: str, headers: Headers) -> None:
        self.upstream = upstream
        self._values: dict[str, list[str]] = {}
        for line, value in headers.items() if isinstance(headers, Mapping) else headers:
            self._values.setdefault(line.lower(), []).append(value)

    def all(self, name: str) -> list[str]:
        """Return every value of a header, whose name is given in lower case."""
        return self._values.get(name, [])

    def one(self, name: str) -> str:
        """Return the one line of a header, which must be plain printable text.

        Raises:
            BadSignature: There is none, or more than one, or it is something else.
        """
        values = self.all(name)
        if not values or not values[0]:
            raise self.refusal("missing", f"it has no {name} header")
        if len(values) > 1:
            raise self.refusal("duplicated", f"its {name} header came {len(values)} times")
        if not (values[0].isascii() and values[0].isprintable()):
            raise self.refusal("malformed", f"its {name} header is not plain text")
        return values[0]

    def refusal(self, reason: str, because: str) -> BadSignature:
        """Return the error for a delivery that proves nothing; the reason is a word for tables and metrics."""
        message = f"A delivery that claims to come from {self.upstream} was refused: {because}."
        return BadSignature(message, upstream=self.upstream, reason=reason)


class Verifier:
    """Judges the deliveries of one source.

    Args:
        upstream: The name of the source, for messages.
        scheme: How it signs.
        secrets: What we share with it, newest first.
        tolerance: Seconds the signed moment may differ from the time of arrival, either way.

    Raises:
        ValueError: One of the secrets cannot be one of this scheme.
    """

    def __init__(
        self, upstream: str, scheme: Scheme, secrets: Sequence[WebhookSecret], tolerance: float = TOLERANCE
    ) -> None:
        self._upstream = upstream
        self._variable = f"{upstream.upper()}_WEBHOOK_SECRETS"
        self._scheme = scheme
        self._keys = [(secret, scheme.key(secret.value)) for secret in secrets]
        self._tolerance = tolerance

    def verify(self, headers: Headers | Lines, body: bytes, now: float) -> Signed:
        """Decide whether a delivery is genuine.

        Args:
            headers: The header lines as received.
            body: The body as received.
            now: The time of arrival, in seconds since the epoch.

        Raises:
            BadSignature: It proves nothing; ``reason`` says in which way.
        """
        lines = headers if isinstance(headers, Lines) else Lines(self._upstream, headers)
        try:
            if not self._keys:
                raise lines.refusal("unconfigured", f"no secret is set: set {self._variable}")
            claim = self._scheme.claim(lines, body)
        except BadSignature:
            digest(_NOBODYS, body)
            raise
        index = self._match(lines, claim, now)
        if claim.timestamp is not None:
            self._check_moment(lines, claim.timestamp, now)
        return Signed(claim.external_id, claim.timestamp, index)

    def _match(self, lines: Lines, claim: Claim, now: float) -> int:
        """Return the index of the first living secret that made one of the signatures."""
        offered = list(islice(claim.signatures, _SIGNATURES_READ))
        made = [
            key.made_any(claim.message, [signature for version, signature in offered if version == key.version])
            for _, key in self._keys
        ]
        living = [index for index, (secret, _) in enumerate(self._keys) if made[index] and not secret.ended(now)]
        if living:
            return living[0]
        if any(made):
            raise lines.refusal("ended", f"it was signed with a secret that has ended: look at {self._variable}")
        raise lines.refusal("mismatch", f"no signature matches: compare {self._variable}")

    def _check_moment(self, lines: Lines, signed_at: int, now: float) -> None:
        most = f"{self._tolerance:.0f} s"
        if now - signed_at > self._tolerance:
            raise lines.refusal("stale", f"it was signed more than {most} ago: look at both clocks")
        if signed_at - now > self._tolerance:
            raise lines.refusal("early", f"it was signed more than {most} ahead of us: look at both clocks")


def seconds(lines: Lines, text: str) -> int:
    """Read a timestamp in whole seconds.

    Raises:
        BadSignature: It is something else.
    """
    if text.isascii() and text.isdigit() and len(text) <= 12:  # noqa: PLR2004 - 12 digits reach the year 33658
        return int(text)
    raise lines.refusal("malformed", "its timestamp is not a whole number of seconds")


def digest(key: bytes, message: bytes) -> bytes:
    """Return the HMAC-SHA256 of a message."""
    return hmac.digest(key, message, hashlib.sha256)


_NOBODYS = os.urandom(32)

"""What can go wrong with somebody else's system, grouped by what the caller does about it.

* IntegrationError
  x Unavailable
  x Throttled
    + CircuitOpen
    + OutOfBudget
  x Rejected
    + Unauthorized
    + NotFound
    + CursorExpired
  x BadSignature
  x BadDelivery

``Unavailable`` is tried again later, with backoff. ``Throttled`` says when to come back and costs no attempt.
``Rejected`` will be answered the same way tomorrow, so a person or another request is needed. The two about
deliveries concern what was sent to us: ``BadSignature`` is somebody we do not know, ``BadDelivery`` is somebody
we know who sent what we cannot read.

Every message is one sentence for the person on call: which upstream, what was asked, what came back, what to do.
Messages carry a method and a path, never a query, a header or a credential.
"""

from __future__ import annotations


class IntegrationError(Exception):
    """The base of everything an integration raises on purpose.

    Args:
        message: One sentence for the person on call, free of secrets.
        upstream: The name of the integration it happened to, for example ``warehouse``.
    """

    def __init__(self, message: str, *, upstream: str) -> None:
        super().__init__(message)
        self.upstream = upstream


class Unavailable(IntegrationError):  # noqa: N818 - named for what the caller does
    """No usable answer: no connection, a timeout, a 5xx, or a body that makes no sense. Retry later."""


class Throttled(IntegrationError):  # noqa: N818 - named for what the caller does
    """The upstream asks for patience. Come back after ``retry_after`` seconds; this is nobody's failure."""

    def __init__(self, message: str, *, upstream: str, retry_after: float) -> None:
        super().__init__(message, upstream=upstream)
        self.retry_after = retry_after


class CircuitOpen(Throttled):
    """We ask ourselves for patience: the upstream failed too often and is left alone for ``retry_after`` seconds."""


class OutOfBudget(Throttled):
    """We ask ourselves for patience: the upstream allows no more for now. The turn is in ``retry_after`` seconds."""


class Rejected(IntegrationError):  # noqa: N818 - named for what the caller does
    """The upstream understood and said no, or the request must not be sent: the same request gets the same answer.

    Args:
        message: One sentence for the person on call, free of secrets.
        upstream: The name of the integration.
        status: The HTTP status; 0 if the refusal is ours and nothing was sent.
        code: The short machine word that came with it, if any, for example ``cursor_mismatch``.
    """

    def __init__(self, message: str, *, upstream: str, status: int, code: str | None = None) -> None:
        super().__init__(message, upstream=upstream)
        self.status = status
        self.code = code


class Unauthorized(Rejected):
    """401 or 403: the credential is missing, wrong, expired, or may not do this. Somebody has to change it."""


class NotFound(Rejected):
    """404 or 410: the thing asked for does not exist there (any more)."""


class CursorExpired(Rejected):
    """The place in a listing is no longer known there. Start the walk again from the high-water mark."""


class BadSignature(IntegrationError):  # noqa: N818 - named for what the caller does
    """A delivery that does not prove who sent it.

    Args:
        message: One sentence for the person on call, free of secrets.
        upstream: The name of the integration it claims to come from.
        reason: A short machine word, used as a metric label. One of ``unconfigured``, ``missing``, ``duplicated``,
            ``malformed``, ``stale``, ``early`` and ``mismatch``.
    """

    def __init__(self, message: str, *, upstream: str, reason: str) -> None:
        super().__init__(message, upstream=upstream)
        self.reason = reason


class BadDelivery(IntegrationError):  # noqa: N818 - named for what the caller does
    """A delivery whose signature is right and whose content cannot be read. Keep the bytes, tell the sender."""

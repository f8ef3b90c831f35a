"""Secrets that senders sign with: several may be alive while one replaces another, and each may have an end.

    WAREHOUSE_WEBHOOK_SECRETS=whsec_new,whsec_old@2026-12-01T00:00Z

What stands after the last ``@`` and begins like a date is the end, in UTC unless it says otherwise; any other ``@`` is
a part of the secret. A secret whose end has passed proves nothing any more, so an old one that somebody forgot to take
out is closed all the same. It is still recognised, and the refusal says that it is the ended one which was used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, SecretStr

from integrations._settings import sendable, split_commas

_END = re.compile(r"(.*)@(\d{4}-\d{2}-\d{2}[^@]*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    """What a sender shares with us, and until when we believe it."""

    value: SecretStr
    until: datetime | None = None

    def ended(self, now: float) -> bool:
        """Whether its end has passed at a moment, in seconds since the epoch."""
        return self.until is not None and self.until.timestamp() <= now


def read_secret(written: Any) -> Any:
    """Take a secret and its end apart; what is no text stays as it is.

    Raises:
        ValueError: The end is no date, or the secret cannot be one.
    """
    if not isinstance(written, str):
        return written
    found = _END.fullmatch(written)
    value, end = (found[1], _moment(found[2])) if found else (written, None)
    return WebhookSecret(sendable(SecretStr(value)), end)


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("write the end of a secret like secret@2026-12-01T00:00Z") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _read_all(value: Any) -> Any:
    parts = split_commas(value)
    return tuple(read_secret(part) for part in parts) if isinstance(parts, tuple) else parts


Secrets = Annotated[tuple[WebhookSecret, ...], BeforeValidator(_read_all)]
"""Several secrets, comma-separated, newest first: all are accepted while they are being rolled."""

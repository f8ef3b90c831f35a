"""Alerts as signed webhooks, for a system of yours that decides what to do: Standard Webhooks, as we receive them.

POST <your address>
webhook-id: 2f1c…-opened-alert_webhook      the same on every try: what came already may be dropped
webhook-timestamp, webhook-signature        prove that it is from us, and when it was sent

{"type": "alert.opened", "timestamp": "2026-11-23T05:00:00+00:00",
 "data": {"thread": …, "kind": "late", "subject": "search", "sentence": …, "opened_at": …, "resolved_at": null}}
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import orjson
from pydantic import Field, SecretStr, field_validator

from integrations._channel import Channel, Notice
from integrations._http import HttpUpstream
from integrations._schemes import signed_headers, standard_webhooks_key
from integrations._settings import Credential, HookAddress, IntegrationSettings

__all__ = ["AlertWebhook", "AlertWebhookSettings"]

SHORTEST, LONGEST = 24, 64
"""Bytes of a secret, as the scheme wants them."""


class AlertWebhookSettings(IntegrationSettings):
    """Where alerts are posted to, and the secret that the receiver knows us by."""

    url: HookAddress = Field(description="Address that alerts are posted to, https except on this machine.")
    secret: Credential = Field(description="Secret that they are signed with: whsec_ and base64 of 24 to 64 bytes.")

    @field_validator("secret")
    @classmethod
    def _decodable(cls, secret: SecretStr) -> SecretStr:
        if not SHORTEST <= len(standard_webhooks_key(secret)) <= LONGEST:
            raise ValueError("write whsec_ and what `openssl rand -base64 32` prints: 24 to 64 bytes")
        return secret


class AlertWebhook(Channel):
    """Posts notices."""

    name: ClassVar[str] = "alert_webhook"
    Settings: ClassVar[type[IntegrationSettings]] = AlertWebhookSettings

    def __init__(self, settings: AlertWebhookSettings) -> None:
        super().__init__(settings)
        self._secret = settings.secret
        self._url = settings.url.get_secret_value()
        # Few notices go there and each has its own tries: no circuit, so one that cannot be delivered ends.
        self._http = HttpUpstream(self.name, self._url, None, breaker=None)

    def close(self) -> None:
        self._http.close()

    def probe(self) -> None:
        """Ask for any answer: whether it takes what we send, only a message can tell."""
        self._http.reach()

    def tell(self, notice: Notice) -> list[str]:
        """Post a notice; see :class:`Channel`."""
        body = orjson.dumps(_payload(notice))
        headers = signed_headers(self._secret, notice.id, body, time.time()) | {"Content-Type": "application/json"}
        self._http.send("POST", self._url, headers=headers, content=body)
        return []


def _payload(notice: Notice) -> dict[str, Any]:
    data = {
        "thread": notice.thread,
        "kind": notice.kind,
        "subject": notice.subject,
        "sentence": notice.sentence,
        "opened_at": notice.opened_at,
        "resolved_at": notice.resolved_at,
    }
    happened_at = notice.resolved_at or notice.opened_at
    return {"type": f"alert.{notice.what}", "timestamp": happened_at, "data": data}

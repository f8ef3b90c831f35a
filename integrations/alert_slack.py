"""Alerts in a chat: what Slack calls an incoming webhook, and many other chats understand too.

The address is given out by the chat and is itself the credential. One message is ``{"text": …}``. The chat cannot
recognise a repeat, so a message whose answer got lost may be there twice; it is never posted twice within one try.
"""

from __future__ import annotations

from typing import ClassVar

import orjson
from pydantic import Field

from integrations._channel import Channel, Notice
from integrations._http import HttpUpstream
from integrations._settings import HookAddress, IntegrationSettings

__all__ = ["AlertSlack", "AlertSlackSettings"]

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""What would be read as a link or as a call for everybody."""


class AlertSlackSettings(IntegrationSettings):
    """Where the chat takes messages."""

    url: HookAddress = Field(description="Address of an incoming webhook of Slack, or of a chat that speaks the same.")


class AlertSlack(Channel):
    """Writes notices into a chat."""

    name: ClassVar[str] = "alert_slack"
    Settings: ClassVar[type[IntegrationSettings]] = AlertSlackSettings

    def __init__(self, settings: AlertSlackSettings) -> None:
        super().__init__(settings)
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
        text = f"*{notice.headline.translate(_ESCAPES)}*\n{notice.body.translate(_ESCAPES)}"
        content = orjson.dumps({"text": text})
        self._http.send("POST", self._url, headers={"Content-Type": "application/json"}, content=content)
        return []

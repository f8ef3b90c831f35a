"""A complete answer of an upstream, and what can be read from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from integrations._errors import Unavailable
from integrations._retry_after import http_date


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer. Header names are lower case."""

    upstream: str
    asked: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Parse the body.

        Raises:
            Unavailable: It is not JSON.
        """
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            kind = self.headers.get("content-type", "no content type")[:60]
            raise self.odd(f"a body that is not JSON ({kind})") from error

    def odd(self, what: str) -> Unavailable:
        """Return the error for an answer that makes no sense, for the caller to raise."""
        message = (
            f"{self.upstream} answered {self.status} to {self.asked} with {what}: it is asked again later;"
            " if this persists, look at the upstream's status and at the configured address."
        )
        return Unavailable(message, upstream=self.upstream)

    def clock(self) -> datetime | None:
        """Return the upstream's own time of answering, if it said."""
        return http_date(self.headers.get("date", ""))

"""Which server an address leads to: what may hear our credential is decided by this alone."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urljoin, urlsplit


class Origin(NamedTuple):
    """A server, as addresses name it."""

    scheme: str
    host: str
    port: int


def origin(base_url: str, link: str) -> Origin | None:
    """Return the server that a link leads to, seen from a base address; None if it is no plain link of the web."""
    try:
        parts = urlsplit(urljoin(base_url + "/", link))
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    if parts.username is not None or parts.hostname is None or port is None:
        return None
    return Origin(parts.scheme, parts.hostname, port)

"""An address of servers: what they speak, who we are there, one host or several, and what we want of them.

`redis+sentinel://user:secret@one:26379,two:26379/mymaster/0?sentinel_password=x` has a scheme, an account, two hosts,
a path of two parts and an option. An ordinary address is one with one host.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class Address:
    """An address, taken apart."""

    scheme: str
    user: str | None
    password: str | None = field(repr=False)
    #: Name and port of each host; the port is empty where none was written.
    hosts: tuple[tuple[str, int | None], ...]
    path: tuple[str, ...]
    options: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, written: str) -> Self:
        """Take an address apart.

        Raises:
            ValueError: If it is none, or a host has no name or a port that cannot be.
        """
        parts = urlsplit(written)
        account, _, hosts = parts.netloc.rpartition("@")
        user, _, password = account.partition(":")
        return cls(
            scheme=parts.scheme,
            user=unquote(user) or None,
            password=unquote(password) or None,
            hosts=tuple(_host(host) for host in hosts.split(",")),
            path=tuple(unquote(part) for part in parts.path.split("/") if part),
            options=dict(parse_qsl(parts.query)),
        )

    def hosts_or(self, port: int) -> list[tuple[str, int]]:
        """Return the hosts, with this port where none was written."""
        return [(name, written or port) for name, written in self.hosts]


def _host(written: str) -> tuple[str, int | None]:
    parts = urlsplit(f"//{written}")
    if not parts.hostname or parts.port == 0:
        raise ValueError("a host needs a name, and a port that is not 0")
    return parts.hostname, parts.port

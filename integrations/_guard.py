"""Where a connection may lead: the operator's own address, or the public internet; nowhere else.

An address that comes from outside (a customer's webhook, a link in an answer) may name our own database, the cloud's
metadata service, or a name that is public while it is checked and private when it is used. So the check is made where
the socket is opened, below everything that a URL can hide: the name is resolved once, every address it has must be
public, and the connection goes to an address that was checked. TLS still asks for the name.

What the operator configured is trusted as it is: a warehouse inside our own network is a normal thing. The trust is
for that host and port alone, whatever leads elsewhere is checked like anybody's.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import httpcore

Resolve = Callable[[str, int], Sequence[str]]
"""From a name and a port to all of its addresses."""

# Python calls these global: the anycast relays of 6to4, and what the protocols keep for themselves.
_NOT_PUBLIC_4 = (ip_network("192.0.0.0/24"), ip_network("192.88.99.0/24"))
# All that was ever given out is in here; outside are what embeds a private IPv4 address, NAT64 and multicast.
_PUBLIC_6 = ip_network("2000::/3")
_NOT_PUBLIC_6 = tuple(map(ip_network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))


class ForbiddenAddressError(Exception):
    """A connection was not opened; the message finishes the sentence "the name ..."."""


class AddressGuard(httpcore.NetworkBackend):
    """Opens the connections of one client.

    Args:
        trusted: Host and port that the operator configured; None trusts nothing.
        resolve: Finds the addresses of a name.
        inner: Opens a connection to an address.
    """

    def __init__(
        self,
        trusted: tuple[str, int] | None,
        *,
        resolve: Resolve | None = None,
        inner: httpcore.NetworkBackend | None = None,
    ) -> None:
        self._trusted = trusted
        self._resolve = resolve or addresses
        self._inner = inner or httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Open a connection.

        Raises:
            ForbiddenAddressError: It would lead into our own network.
        """
        if (host, port) == self._trusted:
            return self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        checked = self._checked(host, port)
        for address in checked[:-1]:
            try:
                return self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._inner.connect_tcp(checked[-1], port, timeout, local_address, socket_options)

    def _checked(self, host: str, port: int) -> Sequence[str]:
        try:
            found = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        if not found or not all(map(is_public, found)):
            raise ForbiddenAddressError("leads to an address that is not public")
        return found


def addresses(host: str, port: int) -> Sequence[str]:
    """Return all addresses of a name, as the system resolves it, each once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(text: str) -> bool:
    """Tell whether an address belongs to the public internet."""
    address = ip_address(text)
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and not any(address in net for net in _NOT_PUBLIC_4)
    return _is_public_6(address)


def _is_public_6(address: IPv6Address) -> bool:
    return address in _PUBLIC_6 and not any(address in net for net in _NOT_PUBLIC_6)

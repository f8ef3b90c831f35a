"""How an integration is told where its upstream lives and how to prove who we are.

Each integration declares a small frozen model. Only processes read the environment: they hand every field over as the
string they found under ``<NAME>_<FIELD>``, so each type here parses from a string. A wrong value names its field and
never repeats what was written there, because what was written there is often a secret.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr

_OUTSIDE_PORTS = frozenset({443, 8443})
"""Where the web answers; other ports of a stranger's address are somebody's inner services."""


class IntegrationSettings(BaseModel):
    """The base of every integration's settings: frozen, no unknown names, silent about the values it refuses."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address means this very machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def plain_address(value: str) -> str:
    """Check an ``http`` or ``https`` base address and take off its trailing slash.

    Raises:
        ValueError: It has no host or port we can use, carries a credential, a query or a fragment, or is not http(s).
    """
    try:
        parts = urlsplit(value.strip())
        usable = parts.port != 0
    except ValueError as error:
        raise ValueError("write an address like https://shop.example.com") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or not usable:
        raise ValueError("write an address like https://shop.example.com")
    if parts.query or parts.fragment:
        raise ValueError("the address must end with its path: take off the query and the fragment")
    return value.strip().rstrip("/")


def partner_address(value: str) -> str:
    """Check the base address of a third party: ``https``, except on this very machine, and without a credential.

    Raises:
        ValueError: See :func:`plain_address`; also when a credential would travel in the open.
    """
    address = plain_address(value)
    parts = urlsplit(address)
    if parts.username is not None or parts.password is not None:
        raise ValueError("the address must not carry a credential: use the setting meant for it")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("the address must start with https://, or the credential would travel in the open")
    return address


def outside_address(value: str) -> str:
    """Check an address that somebody outside gave us: ``https`` on a usual port, without a credential.

    What its name leads to is checked when a connection is opened, because only then it counts.

    Raises:
        ValueError: See :func:`plain_address`; also when it is not ``https``, or is on an unusual port.
    """
    address = partner_address(value)
    parts = urlsplit(address)
    if parts.scheme != "https" or (parts.port or 443) not in _OUTSIDE_PORTS:
        raise ValueError("the address must start with https:// and be on port 443 or 8443")
    return address


def hook_address(value: SecretStr) -> SecretStr:
    """Check an address that a third party gave out for posting to it: whoever knows it may post, so it is a secret.

    Raises:
        ValueError: It is not ``https`` (``http`` only on this very machine), has no host, or carries a user.
    """
    address, _, query = value.get_secret_value().strip().partition("?")
    checked = partner_address(address)
    if "#" in query or not f"{checked}{query}".isascii() or not f"{checked}{query}".isprintable() or " " in query:
        raise ValueError("write the address as you were given it, without blanks and without a #fragment")
    return SecretStr(f"{checked}?{query}" if query else checked)


def sendable(value: SecretStr) -> SecretStr:
    """Check a secret that travels in one line.

    Raises:
        ValueError: It is empty, has blanks, or characters that are not plain.
    """
    text = value.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("the credential must be one word of plain characters: check for blanks and line ends")
    return value


def split_commas(value: Any) -> Any:
    """Take a text apart at its commas; anything else stays as it is."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


PlainAddress = Annotated[str, AfterValidator(plain_address)]
"""A base address inside our own network; plain ``http`` is allowed."""

PartnerAddress = Annotated[str, AfterValidator(partner_address)]
"""A base address at a third party; plain ``http`` only on this machine."""

OutsideAddress = Annotated[str, AfterValidator(outside_address)]
"""An address that somebody outside gave us; never plain ``http``."""

Credential = Annotated[SecretStr, AfterValidator(sendable)]
"""A secret that travels in a header."""

HookAddress = Annotated[SecretStr, AfterValidator(hook_address)]
"""An address to post to that is itself the credential; plain ``http`` only on this machine."""

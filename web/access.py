"""Who may do what: the one place that decides, for pages and for the API alike.

    open to all   health, metrics, webhooks (they are signed), files of the pages, the API's description, signing in
    viewer        everything that only looks
    operator      what acts, as `ACTIONS` says
    admin         what acts and is not listed: nothing is open because somebody forgot it

What acts must also come from our own pages. A browser says where a request begins, and a page elsewhere cannot lie
about that: `Sec-Fetch-Site`, or `Origin` where a browser does not send it. A token proves more than that, because no
browser adds it by itself.
"""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from models import Role

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
#: What machines reach without being known, and what everybody needs before they are.
_MACHINES = re.compile(r"/(health|metrics|webhooks|static)(/|$)")
_OPEN = re.compile(r"/sign-in|/api/openapi\.json")
#: The least role for what acts.
ACTIONS = (
    (re.compile(r"(/api/v1)?/runs/\d+/cancel"), Role.OPERATOR),
    (re.compile(r"/api/v1/imports/stock"), Role.OPERATOR),
    (re.compile(r"/sign-out(/everywhere)?"), Role.VIEWER),
)
_FOR_PROGRAMS = re.compile(r"/(api(?!/docs$)|health|metrics|webhooks|static)(/|$)")
_LOCAL = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]{0,2000}")
_PORTS = {"http": 80, "https": 443}


def needed(method: str, path: str) -> Role | None:
    """Return the least role for a request; None when it is open to all."""
    if _MACHINES.match(path) or _OPEN.fullmatch(path):
        return None
    if method in SAFE:
        return Role.VIEWER
    return next((role for pattern, role in ACTIONS if pattern.fullmatch(path)), Role.ADMIN)


def may_come_from_anywhere(method: str, path: str) -> bool:
    """Return whether it does not matter which page a request begins on."""
    return method in SAFE or _MACHINES.match(path) is not None


def is_ours(headers: Mapping[str, str]) -> bool:
    """Return whether a browser says that a request begins on a page of ours."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    try:
        origin = urlsplit(headers.get("origin", ""))
        port = origin.port or _PORTS[origin.scheme]
        host = urlsplit(f"{origin.scheme}://{headers.get('host', '')}")
        return (host.hostname, host.port or _PORTS[origin.scheme]) == (origin.hostname, port) and bool(host.hostname)
    except (KeyError, ValueError):
        return False


def for_programs(path: str) -> bool:
    """Return whether an address is one of programs, which want an error as JSON."""
    return _FOR_PROGRAMS.match(path) is not None


def local(target: str) -> str:
    """Return a place of ours to go to after signing in; the overview if it is elsewhere."""
    return target if _LOCAL.fullmatch(target) else "/"

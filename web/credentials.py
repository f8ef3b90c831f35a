"""Who asks: a browser that somebody signed in with, or a program that has a token.

Each question goes to Postgres, through the user's row: who was disabled, signed out or lost a role is so with the next
request, on every web process. Only while Postgres itself is away, and nobody can be disabled either, does a process
believe for a while whom it has seen lately: those on call go on reading the page that tells them so.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Engine, text
from starlette.requests import cookie_parser
from starlette.responses import Response

from models import Role
from workers import tickets
from workers.actions import Actor

#: Names of the cookie; a browser gives the first one back over TLS only, and only to the host that set it.
COOKIES = ("__Host-headrace", "headrace")
#: Seconds after which a browser is signed out: without a request, and however busy it is.
IDLE, LONGEST = 12 * 3_600, 7 * 86_400
#: Seconds for which somebody is believed without Postgres, and how many are remembered.
BELIEVED, REMEMBERED = 900, 1_000

_GOOD = "u.disabled_at IS NULL AND s.expires_at > now() AND s.seen_at > now() - make_interval(secs => :idle)"
SIGNED_IN = text(f"""
    SELECT u.id, u.name, u.role, s.seen_at < now() - interval '1 minute' AS stale
    FROM sign_ins s JOIN users u ON u.id = s.user_id WHERE s.digest = :digest AND {_GOOD}
""")
SEEN = text("UPDATE sign_ins SET seen_at = now() WHERE digest = :digest")
PROGRAM = text("""
    SELECT u.id, u.name, u.role, coalesce(t.used_at < now() - interval '1 minute', true) AS stale
    FROM api_tokens t JOIN users u ON u.id = t.user_id
    WHERE t.digest = :digest AND t.revoked_at IS NULL AND u.disabled_at IS NULL
""")
USED = text("UPDATE api_tokens SET used_at = now() WHERE digest = :digest")
BEGIN = text("""
    INSERT INTO sign_ins (digest, user_id, expires_at) VALUES (:digest, :user, now() + make_interval(secs => :longest))
""")
END = text("DELETE FROM sign_ins WHERE digest = ANY(:digests)")
END_ALL = text("DELETE FROM sign_ins WHERE user_id = :user")


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who is known."""

    id: int
    name: str
    role: Role

    @property
    def actor(self) -> Actor:
        """How the audit calls them."""
        return Actor(self.name, self.role)


class Credentials:
    """Tells who asks.

    Args:
        engine: The database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = Lock()
        self._seen: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()

    def of(self, headers: Mapping[str, str]) -> Caller | None:
        """Return who asks, or None when nobody is known.

        Raises:
            SQLAlchemyError: If Postgres does not answer.
        """
        found, used, secrets = _presented(headers)
        callers = (self._ask(found, used, tickets.digest(secret)) for secret in secrets)
        return next((caller for caller in callers if caller), None)

    def believed(self, headers: Mapping[str, str]) -> Caller | None:
        """Return who asks, as far as it is remembered here: for reading, while Postgres does not answer."""
        recalled = (self._recalled(tickets.digest(secret)) for secret in _presented(headers)[2])
        return next((caller for caller in recalled if caller), None)

    def _ask(self, found: Any, used: Any, digest: bytes) -> Caller | None:
        with self._engine.begin() as connection:
            row = connection.execute(found, {"digest": digest, "idle": IDLE}).one_or_none()
            if row is not None and row.stale:
                connection.execute(used, {"digest": digest})
        caller = None if row is None else Caller(row.id, row.name, Role(row.role))
        self._remember(digest, caller)
        return caller

    def _remember(self, digest: bytes, caller: Caller | None) -> None:
        with self._lock:
            self._seen.pop(digest, None)
            if caller is not None:
                self._seen[digest] = caller, time.monotonic() + BELIEVED
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)

    def _recalled(self, digest: bytes) -> Caller | None:
        with self._lock:
            caller, until = self._seen.get(digest, (None, 0.0))
        return caller if time.monotonic() < until else None


def has_token(headers: Mapping[str, str]) -> bool:
    """Return whether a request comes with a token, good or not."""
    return headers.get("authorization", "").lower().startswith("bearer ")


def has_cookie(headers: Mapping[str, str]) -> bool:
    """Return whether a browser sends what it was given here."""
    return bool(_cookies(headers))


def begin(connection: Connection, user_id: int, headers: Mapping[str, str]) -> str:
    """Sign a browser in; what it had before is worth nothing from now on. Returns the cookie's value."""
    end(connection, headers)
    secret = tickets.draw()
    connection.execute(BEGIN, {"digest": tickets.digest(secret), "user": user_id, "longest": LONGEST})
    return secret


def end(connection: Connection, headers: Mapping[str, str]) -> None:
    """Sign a browser out."""
    if digests := [tickets.digest(secret) for secret in _cookies(headers)]:
        connection.execute(END, {"digests": digests})


def end_all(connection: Connection, user_id: int) -> int:
    """Sign a user out everywhere; return from how many browsers."""
    return connection.execute(END_ALL, {"user": user_id}).rowcount


def give(response: Response, secret: str, *, secure: bool) -> None:
    """Let a browser keep its secret: out of reach of scripts, and never sent along from other sites' forms."""
    name = COOKIES[0] if secure else COOKIES[1]
    response.set_cookie(name, secret, max_age=LONGEST, path="/", secure=secure, httponly=True, samesite="lax")


def take(response: Response) -> None:
    """Let a browser forget its secrets."""
    for name in COOKIES:
        response.delete_cookie(name, path="/", secure=name.startswith("__Host-"), httponly=True, samesite="lax")


def _presented(headers: Mapping[str, str]) -> tuple[Any, Any, list[str]]:
    if has_token(headers):
        return PROGRAM, USED, [headers["authorization"].partition(" ")[2].strip()]
    return SIGNED_IN, SEEN, _cookies(headers)


def _cookies(headers: Mapping[str, str]) -> list[str]:
    kept = cookie_parser(headers.get("cookie", ""))
    return [kept[name] for name in COOKIES if kept.get(name)]

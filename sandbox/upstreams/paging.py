"""How a list is asked for and walked: checked parameters, opaque cursors, and the page after a position.

A cursor carries the (time, number) of the last item served, a digest of the filters it was given out for, and its
birth; a signature keeps it opaque in earnest. Another list or other filters are a `cursor_mismatch`, old age is
`cursor_expired`.
"""

import base64
import binascii
import hashlib
import hmac
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

import orjson

from sandbox.upstreams.keyset import Keyset
from sandbox.upstreams.problem import Problem

Position = tuple[int, int]

_START: Position = (-1, -1)
_DEFAULT_LIMIT = 100
_MOST = 500
_SIGNATURE_BYTES = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Query:
    """One checked request for a page. `filters` is everything that a cursor is bound to."""

    filters: dict[str, str]
    limit: int
    include_deleted: bool
    since_us: int | None
    cursor: str | None

    @property
    def start(self) -> Position:
        """Where the first page begins: `updated_since` is inclusive."""
        return _START if self.since_us is None else (self.since_us, -1)


def parse(parameters: Mapping[str, str], kind: str, filters: frozenset[str]) -> Query:
    """Check the parameters of a list of `kind` that knows these extra filters.

    Raises:
        Problem: 400 for an unknown parameter or a value out of range.
    """
    known = filters | {"updated_since", "include_deleted", "limit", "cursor"}
    for name in parameters:
        if name not in known:
            raise Problem(
                400, "unknown_parameter", f"There is no parameter {name!r}; known are {', '.join(sorted(known))}."
            )
    bound = {name: value for name, value in parameters.items() if name not in {"limit", "cursor"}}
    return Query(
        filters={"kind": kind, **bound},
        limit=_limit(parameters.get("limit", str(_DEFAULT_LIMIT))),
        include_deleted=_boolean(parameters.get("include_deleted", "false")),
        since_us=_instant(parameters["updated_since"]) if "updated_since" in parameters else None,
        cursor=parameters.get("cursor"),
    )


def _limit(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MOST:
        return int(text)
    raise Problem(400, "invalid_parameter", f"limit must be a whole number from 1 to {_MOST}.")


def _boolean(text: str) -> bool:
    if text in {"true", "false"}:
        return text == "true"
    raise Problem(400, "invalid_parameter", "include_deleted must be true or false.")


def _instant(text: str) -> int:
    try:
        moment: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Problem(
            400, "invalid_parameter", "updated_since must be a time with a zone, such as 2026-11-23T05:00:00Z."
        )
    return (moment - _EPOCH) // timedelta(microseconds=1)


class Cursors:
    """Gives out cursors and takes them back."""

    def __init__(self) -> None:
        self._key = os.urandom(16)

    def write(self, query: Query, position: Position) -> str:
        """Make the cursor that continues this query after `position`."""
        body = orjson.dumps([_digest(query.filters), time.time(), *position])
        return base64.urlsafe_b64encode(self._sign(body) + body).decode().rstrip("=")

    def read(self, query: Query, lifetime_s: float) -> Position:
        """Find where the query continues: after its cursor, or at its start.

        Raises:
            Problem: 400 `cursor_invalid` or `cursor_mismatch`, 410 `cursor_expired`.
        """
        if query.cursor is None:
            return query.start
        digest, born, at, number = self._open(query.cursor)
        if digest != _digest(query.filters):
            raise Problem(400, "cursor_mismatch", "The cursor belongs to another list or other filters; repeat those.")
        if time.time() - born > lifetime_s:
            raise expired()
        return at, number

    def _open(self, cursor: str) -> tuple[str, float, int, int]:
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not body or not hmac.compare_digest(signature, self._sign(body)):
            raise Problem(400, "cursor_invalid", "This is no cursor of ours; start again without one.")
        digest, born, at, number = orjson.loads(body)
        return digest, born, at, number

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[:_SIGNATURE_BYTES]


def expired() -> Problem:
    """Say that a cursor has expired."""
    return Problem(410, "cursor_expired", "The cursor has expired; start again from your last updated_since.")


def _digest(filters: Mapping[str, str]) -> str:
    return hashlib.blake2b(orjson.dumps(sorted(filters.items())), digest_size=9).hexdigest()


@dataclass(frozen=True, slots=True)
class Page:
    """The things on a page, where the next one starts, and whether there is one."""

    numbers: list[int]
    end: Position
    has_more: bool


@dataclass(frozen=True, slots=True)
class Selection:
    """What a query may see: everything that passes `keep`, or only those `among` when it is clear that they are few."""

    keyset: Keyset
    keep: Callable[[int], bool]
    among: Sequence[int] | None = None


def turn(selection: Selection, start: Position, limit: int, *, repeat: int = 0) -> Page:
    """Take the page of `limit` things after `start`.

    `repeat` is a fault: that many things before `start` come once more, in the place of new ones.
    """
    keyset = selection.keyset
    behind = filter(selection.keep, keyset.before(*start)) if repeat else iter(())
    repeated = list(islice(behind, min(repeat, limit - 1)))[::-1]
    room = limit - len(repeated)
    fresh = list(islice(filter(selection.keep, keyset.after(*start, selection.among)), room + 1))
    served = fresh[:room]
    end = (keyset.updated[served[-1]], served[-1]) if served else start
    return Page(repeated + served, end, len(fresh) > room)

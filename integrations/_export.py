"""A list that a partner writes into a file of JSON lines: begun, waited for, and read a piece at a time.

The file may be larger than any memory. So each piece is asked for by its range of bytes, cut at the last whole line,
and becomes a page like any other: its cursor names the export and the byte where the next piece begins, and a walk that
breaks off goes on there. The file often lies with somebody else, at an address that is itself the credential: our own
credential is not sent there, and the address is kept in memory only.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from integrations._errors import CursorExpired, Rejected, Throttled, Unavailable
from integrations._http import HttpUpstream
from integrations._origin import origin
from integrations._page import Reject, reject
from integrations._partner_options import Ask, Export, Method
from integrations._path import look
from integrations._reply import Reply
from integrations._settings import outside_address
from integrations._source import label_or_none

_RANGE = re.compile(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15})")
_GONE = frozenset({400, 401, 403, 404, 410})
_BEHIND_THE_END = 416

Asker = Callable[[Method, str, bytes | None], Reply]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the file: its lines, those that are no JSON, and where the next piece begins."""

    raws: list[Any]
    rejects: list[Reject]
    as_of: datetime
    following: str | None


class Exports:
    """Begins exports of one partner and reads their files.

    Args:
        upstream: The name for messages.
        base_url: The partner's own address: a file on the same server is read without asking where that is.
        ask: Puts a question to the partner.
    """

    def __init__(self, upstream: str, base_url: str, ask: Asker) -> None:
        self._upstream = upstream
        self._base_url = base_url
        self._ask = ask
        #: The address of the file of the export that was looked at last.
        self._known: tuple[str, str] | None = None

    def part(self, export: Export, cursor: str | None) -> Part:
        """Begin an export, or read the piece at a cursor.

        Raises:
            Throttled: The file is not ready.
            CursorExpired: The export failed there, or its file is gone: begin again.
            IntegrationError: See ``integrations._errors``.
        """
        if cursor is None:
            return self._begun(export)
        offset, _, about = cursor.partition(" ")
        url = self._address(export, about)
        if url is None:
            return Part([], [], datetime.now(UTC), None)
        reply = self._piece(url, int(offset), export.chunk)
        if reply is None:
            return Part([], [], datetime.now(UTC), None)
        lines, end, more = _cut(reply, int(offset))
        raws, rejects = _parsed(lines, export.only_with)
        return Part(raws, rejects, _clock(reply), f"{end} {about}" if more else None)

    def _begun(self, export: Export) -> Part:
        reply = self._put(export.start, "")
        found = look(reply.json(), export.id)
        about = label_or_none(str(found)) if isinstance(found, str | int) else None
        if about is None:
            raise reply.odd("no id of an export")
        return Part([], [], _clock(reply), f"0 {about}")

    def _address(self, export: Export, about: str) -> str | None:
        """Return where the file lies; None when it would be empty."""
        if self._known is not None and self._known[0] == about:
            return self._known[1]
        payload = self._put(export.status, about).json()
        state, url = look(payload, export.state), look(payload, export.url)
        if state in export.failed:
            raise self._expired(f"says that its export ended as {state}", 0)
        if state not in export.done:
            raise Throttled(
                f"{self._upstream} is still writing its export: it is looked at again in {export.poll:.0f} s.",
                upstream=self._upstream,
                retry_after=export.poll,
            )
        if not isinstance(url, str) or not url:
            return None
        self._known = (about, url)
        return url

    def _put(self, ask: Ask, about: str) -> Reply:
        return self._ask(ask.method, ask.path.replace("{id}", about), ask.content(about))

    def _piece(self, url: str, offset: int, size: int) -> Reply | None:
        """Read a range of the file; None behind its end."""
        ours = origin(self._base_url, url) == origin(self._base_url, "")
        address = url if ours else self._checked(url)
        headers = {"Range": f"bytes={offset}-{offset + size - 1}", "Accept-Encoding": "identity"}
        with contextlib.closing(HttpUpstream(self._upstream, address, None, breaker=None, outside=not ours)) as http:
            try:
                return http.send("GET", url, headers=headers)
            except Rejected as error:
                if error.status == _BEHIND_THE_END and offset == 0:
                    return None
                if error.status not in _GONE and error.status != _BEHIND_THE_END:
                    raise
                self._known = None
                raise self._expired("no longer has the file of its export", error.status) from error

    def _checked(self, url: str) -> str:
        """Let only an address of the public internet be asked, whoever wrote it."""
        try:
            outside_address(url.partition("?")[0])
        except ValueError as error:
            raise Unavailable(
                f"{self._upstream} keeps its export where we do not look ({error}): ask the upstream.",
                upstream=self._upstream,
            ) from None
        return url

    def _expired(self, what: str, status: int) -> CursorExpired:
        return CursorExpired(
            f"{self._upstream} {what}: another one is begun.", upstream=self._upstream, status=status, code="no_export"
        )


def _cut(reply: Reply, offset: int) -> tuple[list[bytes], int, bool]:
    """Return the whole lines of a piece, the byte behind them, and whether more comes."""
    start, total = 0, len(reply.body)
    if reply.status == 206:  # noqa: PLR2004 - HTTP: partial content
        said = _RANGE.fullmatch(reply.headers.get("content-range", ""))
        if said is None or int(said[1]) != offset:
            raise reply.odd("another piece of its export than was asked for")
        start, total = offset, int(said[2])
    body = reply.body[offset - start :]
    if offset + len(body) >= total:
        return body.split(b"\n"), total, False
    end = body.rfind(b"\n") + 1
    if end == 0:
        raise reply.odd("an export with a line that is longer than a piece of it")
    return body[:end].split(b"\n"), offset + end, True


def _parsed(lines: list[bytes], only_with: str) -> tuple[list[Any], list[Reject]]:
    raws: list[Any] = []
    rejects: list[Reject] = []
    for line in lines:
        if not line.strip():
            continue
        try:
            raw = orjson.loads(line)
        except orjson.JSONDecodeError:
            rejects.append(reject(line.decode(errors="replace"), "a line that is no JSON"))
            continue
        if not only_with or look(raw, only_with) is not None:
            raws.append(raw)
    return raws, rejects


def _clock(reply: Reply) -> datetime:
    return reply.clock() or datetime.now(UTC)

"""How partners cut their lists into pages, each way a small object: what is asked, and where the next page starts.

What a page says of the next one becomes a cursor, a text that is saved with the page and handed back. A list that is
paged by number or offset moves under whoever reads it: an item that changes may slip from a page not yet read to one
that was. `Offset` therefore reads a few items twice; what still slips through is met by the next full walk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urljoin

from integrations._page import next_links
from integrations._path import look
from integrations._reply import Reply


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for one page: a path below the base address or a whole link, and the parameters."""

    address: str
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came: from where, the reply, its JSON, how many items were on it, and the cursor it was asked with."""

    url: str
    reply: Reply
    payload: Any
    found: int
    cursor: str | None


class Paging(Protocol):
    """One way of cutting a list into pages."""

    def ask(self, path: str, filters: Mapping[str, Any], cursor: str | None) -> Question:
        """Say what to ask for the page at a cursor, or for the first one."""

    def following(self, answer: Answer) -> str | None:
        """Return the cursor of the page after this one; None at the end."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A text in the body names the next page; it is sent together with the same filters."""

    #: Path of it in the body, and the parameter that takes it.
    field: str = "cursor"
    param: str = "cursor"

    def ask(self, path: str, filters: Mapping[str, Any], cursor: str | None) -> Question:
        return Question(path, {**filters, self.param: cursor} if cursor else filters)

    def following(self, answer: Answer) -> str | None:
        found = look(answer.payload, self.field)
        if found is None or found == "":
            return None
        if isinstance(found, bool) or not isinstance(found, str | int):
            raise answer.reply.odd(f"a page whose {self.field} is no text")
        return str(found)


@dataclass(frozen=True, slots=True)
class Token(Cursor):
    """A cursor that stands for the whole question: the filters were given with the first page and are not repeated."""

    def ask(self, path: str, filters: Mapping[str, Any], cursor: str | None) -> Question:
        return Question(path, {self.param: cursor} if cursor else filters)


@dataclass(frozen=True, slots=True)
class Link:
    """A ``Link`` header with ``rel=next`` is the next page; it is followed on the same server only."""

    def ask(self, path: str, filters: Mapping[str, Any], cursor: str | None) -> Question:
        return Question(cursor, {}) if cursor else Question(path, filters)

    def following(self, answer: Answer) -> str | None:
        found = next(iter(next_links(answer.reply.headers.get("link", ""))), None)
        return found and urljoin(answer.url, found)


@dataclass(frozen=True, slots=True)
class Number:
    """Pages have numbers; only one without an item is behind the end, for a short page may be just short."""

    param: str = "page"
    first: int = 1

    def ask(self, path: str, filters: Mapping[str, Any], cursor: str | None) -> Question:
        return Question(path, {**filters, self.param: cursor or str(self.first)})

    def following(self, answer: Answer) -> str | None:
        return str(int(answer.cursor or self.first) + 1) if answer.found else None


@dataclass(frozen=True, slots=True)
class Offset:
    """A page begins after so many items; it reaches back over the last few, as the list moves while it is read."""

    param: str = "offset"
    overlap: int = 5

    def ask(self, path: str, filters: Mapping[str, Any], cursor: str | None) -> Question:
        return Question(path, {**filters, self.param: cursor or "0"})

    def following(self, answer: Answer) -> str | None:
        fresh = answer.found - self.overlap
        return str(int(answer.cursor or 0) + fresh) if fresh > 0 else None

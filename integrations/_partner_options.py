"""What differs between partners who keep stock, as values: where things lie, how they are asked for, what they mean.

Nothing here does anything to a partner. `integrations._partner` reads these and asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import orjson

from integrations._paging import Cursor, Paging
from integrations._path import check_path, look

Order = Literal["asc", "desc", "none"]
"""Whether a list comes in order of change, oldest first, newest first, or in none that says anything."""

Deletion = Literal["flag", "404", "absent"]
"""How a partner tells that a level is gone: marked on the list, by 404 when asked by id, or only by its absence."""

Method = Literal["GET", "POST"]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Where the parts of one stock level lie in what a partner sends; each is a path (``integrations._path``)."""

    #: Several paths where only together they name a level.
    id: str | tuple[str, ...]
    location_id: str
    on_hand: str
    updated_at: str
    #: Empty when a level does not carry it: then `StockPartner.skus` finds it by `sku_key`.
    sku: str = ""
    #: What a sku is looked up by.
    sku_key: str = ""
    reserved: str = ""
    incoming: str = ""
    #: Without one, of two states of the same moment that which was read later is kept.
    version: str = ""
    #: Where a level that is gone is marked, and by what.
    deleted: str = ""
    deleted_when: Any = True
    #: Quantities come as decimal text, such as "12.00"; a real fraction is refused.
    decimals: bool = False

    def __post_init__(self) -> None:
        for path in (*self.id_paths, *(self._path(name) for name in _PATHS)):
            if path:
                check_path(path)

    @property
    def id_paths(self) -> tuple[str, ...]:
        """The paths that together are the id."""
        return (self.id,) if isinstance(self.id, str) else self.id

    def draw(self, raw: Any) -> dict[str, Any]:
        """Take out of an item what a level is made of; what is missing is left out."""
        found = {name: look(raw, self._path(name)) for name in _PATHS if self._path(name)}
        found |= {name: str(found[name]) for name in ("sku", "location_id") if type(found.get(name)) is int}
        found["id"] = self._id([look(raw, path) for path in self.id_paths])
        if self.deleted:
            found["deleted"] = found["deleted"] == self.deleted_when
            if found["deleted"] and found["on_hand"] is None:
                found["on_hand"] = 0
        if self.decimals:
            found |= {name: _whole(found[name]) for name in _QUANTITIES if name in found}
        return {name: value for name, value in found.items() if value is not None}

    def key(self, raw: Any) -> str | None:
        """Return what the sku of an item is looked up by."""
        found = look(raw, self.sku_key) if self.sku_key else None
        return found if isinstance(found, str) and found else None

    def _path(self, name: str) -> str:
        return str(getattr(self, name))

    @staticmethod
    def _id(parts: list[Any]) -> str | None:
        whole = all(isinstance(part, str | int) and not isinstance(part, bool) and part != "" for part in parts)
        return "/".join(str(part) for part in parts) if whole else None


_DECIMAL = re.compile(r"(-?[0-9]{1,12})(?:\.0*)?")
_QUANTITIES = ("on_hand", "reserved", "incoming")
_PATHS = ("sku", "location_id", "updated_at", "version", "deleted", *_QUANTITIES)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A list in pages."""

    path: str
    #: Path of the items in the body; empty when the body is the list.
    items: str = ""
    paging: Paging = field(default_factory=Cursor)
    method: Method = "GET"
    #: Parameter that asks for what changed since a moment; empty when there is none, and then all is read each time.
    since: str = ""
    #: Whether what changed at that very moment is listed too.
    since_inclusive: bool = True
    #: Whether the moment is written as ISO 8601 or in seconds since 1970.
    since_as: Literal["iso", "epoch"] = "iso"
    order: Order = "none"
    #: Sent with each page that is not named by a token or a link; in the query of a GET, in the body of a POST.
    params: Mapping[str, Any] = field(default_factory=dict)
    #: Path of the partner's own clock in the body; without it the ``Date`` header is taken.
    as_of: str = ""
    #: Whether it answers an ETag of the first page with 304 when nothing changed.
    etag: bool = False

    def filters(self, since: datetime | None) -> dict[str, Any]:
        """Return what is asked for, but the page."""
        if since is None or not self.since:
            return dict(self.params)
        asked = since.astimezone(UTC) - timedelta(seconds=0 if self.since_inclusive else 1)
        epoch = self.since_as == "epoch"
        return {**self.params, self.since: str(int(asked.timestamp())) if epoch else _iso(asked)}


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One question; ``{id}`` in its path or its body stands for what it is asked about."""

    path: str
    method: Method = "GET"
    body: Mapping[str, Any] = field(default_factory=dict)

    def content(self, about: str) -> bytes | None:
        """Return the body about something."""
        if self.method == "GET":
            return None
        return orjson.dumps(self.body).replace(b"{id}", orjson.dumps(about)[1:-1])


@dataclass(frozen=True, kw_only=True)
class Export:
    """A list that the partner writes into a file of JSON lines, everything, and in no order."""

    #: Begins an export, and where its id lies in the answer.
    start: Ask
    id: str
    #: Asks how far it is, where its state lies, and which states are the end.
    status: Ask
    state: str
    done: frozenset[str]
    failed: frozenset[str]
    #: Path of the file's address.
    url: str
    #: A line without a value at this path is something else, such as the parent of lines.
    only_with: str = ""
    #: Seconds between two looks at an export that is not ready.
    poll: float = 10.0
    #: Bytes of the file that are read and written together; a line must be shorter.
    chunk: int = 2**20

    order: Order = "none"
    since: str = ""


@dataclass(frozen=True, kw_only=True)
class Skus:
    """Where the skus of levels are looked up that carry another key: many at once, a page of levels at a time."""

    path: str
    #: The field of the question's body that takes the keys, and how many it takes.
    keys: str
    most: int = 1_000
    #: Path of the answer's objects, and where the key and the sku lie in one.
    items: str
    id: str
    sku: str


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the partner lists its locations, all in one answer."""

    path: str
    items: str = ""
    id: str = "id"
    name: str = "name"


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _whole(value: Any) -> Any:
    """Return decimal text as the whole number that it is; what is none stays, to be refused with the rest."""
    found = _DECIMAL.fullmatch(value) if isinstance(value, str) else None
    return int(found[1]) if found else value

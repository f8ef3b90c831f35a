"""A page of a listing as a walk gets it from any upstream: good items, refused ones, and where the next page starts.

Every item is judged alone, so one item without a sku becomes a ``Reject`` beside its page's good items.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import orjson
from pydantic import BaseModel

from integrations._errors import Rejected
from integrations._reply import Reply
from integrations._source import label_or_none

T = TypeVar("T", bound=BaseModel)

_LINK = re.compile(r"<([^>]*)>([^<]*)")
_NEXT = re.compile(r"""\brel\s*=\s*["']?[^"',;]*\bnext\b""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reject:
    """An item that would not validate, for the quarantine."""

    external_id: str | None
    """The upstream's id of the item, if it has a usable one: it can be fetched again by it."""
    reason: str
    """What is wrong, field by field, for people."""
    raw: dict[str, Any] | str
    """The item as received; as JSON text where it is no object or holds what a database cannot."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing."""

    items: list[T]
    rejects: list[Reject]
    next_cursor: str | None
    """Where the next page starts; bound to the filters it was given for. None at the end."""
    has_more: bool
    as_of: datetime
    """When the upstream answered, by its own clock, in UTC (by ours if it did not say)."""
    etag: str | None
    """Hand it back with the same question to learn cheaply that nothing changed."""
    not_modified: bool
    """Nothing changed since the ETag that was handed in; there are no items."""


def reject(raw: Any, reason: str, external_id: str | None = None) -> Reject:
    """Set an item aside; without an id of ours the item's own ``id`` is taken if it is usable."""
    text = orjson.dumps(raw).decode()
    keep_object = isinstance(raw, dict) and "\\u0000" not in text
    found = external_id or (label_or_none(raw.get("id")) if isinstance(raw, dict) else None)
    return Reject(found, reason, raw if keep_object else text)


def malformed_item(reply: Reply, reason: str) -> Rejected:
    """Return the error for the answer of an upstream that is one item, and a bad one."""
    return Rejected(
        f"{reply.upstream} answered {reply.asked} with a malformed item ({reason}): ask the upstream.",
        upstream=reply.upstream,
        status=reply.status,
        code="malformed_item",
    )


def next_links(header: str) -> list[str]:
    """Return the targets of a ``Link`` header that are said to be the next page."""
    return [link for link, rest in _LINK.findall(header) if _NEXT.search(rest)]

"""A stream: one kind of thing synced from an upstream, and how far we have read it.

The high-water mark moves only at the end of a complete walk. Between two pages the cursor is the checkpoint: it is
saved in the transaction that wrote the page, so a crash resumes exactly there. `fence` grows with every walk that
takes the stream; a page is written only under the current number, so two walks can never interleave.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Identity, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base


class Stream(Base):
    """One stream of an upstream."""

    __tablename__ = "streams"
    __table_args__ = (UniqueConstraint("upstream", "name"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    upstream: Mapped[str]
    name: Mapped[str]
    #: Everything the upstream changed up to here has been read. Empty before the first complete walk.
    high_water: Mapped[datetime | None]
    #: Fencing number of the walk that holds the stream, and the run that performs it.
    fence: Mapped[int] = mapped_column(server_default="0")
    run_id: Mapped[int | None]
    #: The unfinished walk: whether it reads everything, where it began, where it goes on; empty between walks.
    walk_full: Mapped[bool | None]
    walk_since: Mapped[datetime | None]
    walk_cursor: Mapped[str | None]
    #: Start of the walk by the upstream's clock.
    walk_started: Mapped[datetime | None]
    #: Latest change seen in the walk.
    walk_max_seen: Mapped[datetime | None]
    #: `{"seen": 0, "changed": 0, ...}` of the current or last walk.
    counts: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    #: ETag of the first page of the last complete walk and the `since` it answered.
    etag: Mapped[str | None]
    etag_since: Mapped[datetime | None]
    #: End of the last complete walk and of the last complete full walk, by our clock.
    walked_at: Mapped[datetime | None]
    full_walked_at: Mapped[datetime | None]
    #: Items missing from two full walks whose deletion waits for an operator's approval.
    held_deletions: Mapped[int] = mapped_column(server_default="0")


class StreamMove(Base):
    """One move of a stream's high-water mark."""

    __tablename__ = "stream_moves"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    stream_id: Mapped[int] = mapped_column(ForeignKey("streams.id", ondelete="CASCADE"), index=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    moved_from: Mapped[datetime | None]
    moved_to: Mapped[datetime | None]
    #: `walk`, or the operator's reason for a rewind.
    reason: Mapped[str]
    run_id: Mapped[int | None]


class Sighting(Base):
    """An item seen by the full walk under way; what has no sighting at its end is missing upstream."""

    __tablename__ = "sightings"

    stream_id: Mapped[int] = mapped_column(ForeignKey("streams.id", ondelete="CASCADE"), primary_key=True)
    source_id: Mapped[str] = mapped_column(primary_key=True)


class Quarantine(Base):
    """An item that would not validate, kept as it came until a later delivery of it is good."""

    __tablename__ = "quarantine"
    __table_args__ = (
        UniqueConstraint("stream_id", "fingerprint"),
        Index("quarantine_open", "stream_id", postgresql_where=text("resolved_at IS NULL")),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    stream_id: Mapped[int] = mapped_column(ForeignKey("streams.id", ondelete="CASCADE"))
    #: The upstream's id of the item, where it had one.
    external_id: Mapped[str | None]
    #: The external id, or a digest of the raw item when it has none: one row an item.
    fingerprint: Mapped[str]
    #: What is wrong with it, naming the field.
    reason: Mapped[str]
    #: The item as it came, cut to 10,000 characters.
    raw: Mapped[str]
    times: Mapped[int] = mapped_column(server_default="1")
    first_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    resolved_at: Mapped[datetime | None]

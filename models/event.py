"""An event: one received webhook, kept with its raw bytes, and what it caused.

The unique key of sender and event id is what makes a duplicate harmless: it bumps `duplicates` and nothing else.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base


class Verdict(StrEnum):
    """What the receiver decided about an event whose signature was right."""

    ACCEPTED = "accepted"
    IGNORED = "ignored"
    MALFORMED = "malformed"


class Event(Base):
    """One received webhook."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("source", "external_id"),
        CheckConstraint(f"verdict IN ({', '.join(repr(str(v)) for v in Verdict)})", "verdict"),
        Index("events_received", "received_at"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: The integration it came from, the last part of the address.
    source: Mapped[str]
    #: The sender's id of the event, the same on every redelivery.
    external_id: Mapped[str]
    #: The sender's name for what happened; empty when the body could not be read.
    type: Mapped[str]
    verdict: Mapped[str]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: Redacted: signatures and credentials are left out.
    headers: Mapped[dict[str, Any]]
    body: Mapped[bytes]
    #: Deliveries after the first.
    duplicates: Mapped[int] = mapped_column(server_default="0")
    #: The run it caused; empty for an ignored event.
    run_id: Mapped[int | None] = mapped_column(BigInteger)

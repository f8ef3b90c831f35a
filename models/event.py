"""An event: one received webhook, kept with its raw bytes, and what it caused.

The unique key of sender and event id is what makes a duplicate harmless: it bumps `duplicates` and nothing else. What
was rejected has no id that could be believed: there the reason and a digest of the body stand in its place.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base


class Verdict(StrEnum):
    """What the receiver decided."""

    #: A job answers it.
    ACCEPTED = "accepted"
    #: It is genuine, and no job answers its type.
    IGNORED = "ignored"
    #: It is genuine, and cannot be read.
    MALFORMED = "malformed"
    #: It proves nothing: nobody acts on it, and a few are kept to see what a sender does wrong.
    REJECTED = "rejected"


class Event(Base):
    """One received webhook."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("source", "external_id"),
        CheckConstraint(f"verdict IN ({', '.join(repr(str(v)) for v in Verdict)})", "verdict"),
        Index("events_received", "received_at"),
        Index("events_rejected", "received_at", postgresql_where="verdict = 'rejected'"),
        Index("events_joined", "joined_run", postgresql_where="joined_run IS NOT NULL"),
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
    #: Byte for byte; of a rejected one at most the first 64 KiB.
    body: Mapped[bytes]
    #: Why it was rejected, in a word, or cannot be read, in a sentence.
    reason: Mapped[str | None]
    #: Where it came from, as the web process saw it; empty for one that was backfilled.
    address: Mapped[str | None]
    #: Which of the source's secrets it was signed with when it came; 0 is the newest.
    secret: Mapped[int | None]
    #: Deliveries after the first.
    duplicates: Mapped[int] = mapped_column(server_default="0")
    #: The newest run it caused, or joined; empty for one that no job answers.
    run_id: Mapped[int | None] = mapped_column(BigInteger)
    #: That run, if it was waiting already for another event of the same entity when this one came.
    joined_run: Mapped[int | None] = mapped_column(BigInteger)

"""An upstream: one account at a third party, what operators decided about it, and whether it is left alone.

Runs that meet a paused upstream are snoozed: they burn no attempt and go on when it is resumed. So are runs that meet
an open circuit, until its next probe. The circuit itself is in Redis; what is here is for people and for whoever must
not ask Redis, written by the process that saw the change. It may be out of date, so nothing is held beyond its next
probe, and one that was not probed for minutes is not told as open. An upstream that asked us to stay away is here too.
"""

from datetime import datetime

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base


class Upstream(Base):
    """One upstream; a row exists once an operator touched it, its circuit opened, or it asked us to stay away."""

    __tablename__ = "upstreams"
    __table_args__ = (
        CheckConstraint("(circuit_opened_at IS NULL) = (next_probe_at IS NULL)", "probed"),
        CheckConstraint("(throttled_at IS NULL) = (throttled_until IS NULL)", "throttled"),
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    paused_at: Mapped[datetime | None]
    paused_by: Mapped[str | None]
    reason: Mapped[str | None]
    #: Since when its circuit is open; empty while it is closed.
    circuit_opened_at: Mapped[datetime | None]
    #: When a call may try again.
    next_probe_at: Mapped[datetime | None]
    #: First line of the failure that opened it or kept it open.
    circuit_error: Mapped[str | None]
    #: When the circuit became what is said here, by the clock of whoever keeps it: nothing older is written over it.
    circuit_told_at: Mapped[datetime | None]
    #: Since when and until when it wants to be left in peace; in the past once that is over.
    throttled_at: Mapped[datetime | None]
    throttled_until: Mapped[datetime | None]
    #: First line of how it said so.
    throttle_reason: Mapped[str | None]

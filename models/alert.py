"""An alert: something that should not go on, from when it was found until it was over; and who asked for silence.

One row is one episode of a kind and a subject. While it is open no second one can be: the unique index says so, however
many look at the same moment. A notice is one message about it to one channel; the primary key makes it be written once,
and its run is what delivers it.
"""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base
from models.schedule import Slot


class Kind(StrEnum):
    """What alerts are about. No constraint lists them: a kind is code that looks for it."""

    #: A schedule whose fire came too late, or has not come.
    MISSED = "missed"
    #: A queue whose oldest due run waits for too long.
    LATE = "late"
    #: A queue that no worker serves.
    UNSERVED = "unserved"
    #: A stream that was not read to its end for too long.
    STALE = "stale"
    #: A job of which more and more runs are dead.
    DYING = "dying"
    #: What should be equal differs.
    DRIFT = "drift"
    #: An upstream that has been left alone for too long.
    CIRCUIT = "circuit"
    #: Something that a person paused, and perhaps forgot.
    HELD = "held"
    #: Nothing is wrong: somebody tries whether alerts arrive.
    TEST = "test"


class What(StrEnum):
    """What a notice says of its alert."""

    OPENED = "opened"
    RESOLVED = "resolved"


class Alert(Base):
    """One episode."""

    __tablename__ = "alerts"
    __table_args__ = (
        Index("alerts_open", "kind", "subject", unique=True, postgresql_where=text("resolved_at IS NULL")),
        CheckConstraint("last_seen_at >= opened_at", "seen"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: Names the episode to the outside, the same in every message and in no other installation.
    key: Mapped[UUID] = mapped_column(server_default=func.gen_random_uuid())
    kind: Mapped[str]
    #: What it happened to: a queue, a schedule, a job.
    subject: Mapped[str]
    #: What is the case, as of the last look, and what to do about it.
    sentence: Mapped[str]
    opened_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: The last look at which it was the case.
    last_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    resolved_at: Mapped[datetime | None]


class AlertNotice(Base):
    """One message about an alert to one channel."""

    __tablename__ = "alert_notices"
    __table_args__ = (CheckConstraint(f"what IN ({', '.join(repr(str(w)) for w in What)})", "what"),)

    alert_id: Mapped[int] = mapped_column(ForeignKey("alerts.id", ondelete="CASCADE"), primary_key=True)
    what: Mapped[str] = mapped_column(primary_key=True)
    #: Name of the integration that carries it.
    channel: Mapped[str] = mapped_column(primary_key=True)
    #: The run that delivers it. No foreign key: the run may be pruned first.
    run_id: Mapped[int | None]


class Silence(Base):
    """A time in which alerts are recorded and nobody is told; an empty name stands for all."""

    __tablename__ = "silences"

    kind: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    #: When it ends by itself.
    until: Mapped[datetime]
    silenced_at: Mapped[datetime] = mapped_column(server_default=func.now())
    silenced_by: Mapped[str]
    reason: Mapped[str | None]


#: What a look for missed fires reads, once a minute, among all that ever fired.
Index(
    "slots_missed",
    Slot.recorded_at,
    postgresql_where=text("outcome IN ('caught_up', 'missed', 'refused')"),
)

"""A schedule is a rule in time; a slot is one planned fire of it, with exactly one recorded outcome.

Any number of schedulers may run. The unique slot makes a double fire impossible; the slot, its run and the
schedule's next fire are one transaction, so a fire is neither lost nor half done.
"""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base


class Schedule(Base):
    """A rule declared on a job, synchronised from the code when a scheduler starts."""

    __tablename__ = "schedules"
    __table_args__ = (
        Index("schedules_due", "next_fire_at", postgresql_where=text("retired_at IS NULL AND paused_at IS NULL")),
    )

    #: Name of the job.
    name: Mapped[str] = mapped_column(primary_key=True)
    #: The rule as declared: `every 3600 s` or `cron 0 3 * * *`.
    rule: Mapped[str]
    #: IANA name of the zone in which a cron rule reads the clock.
    zone: Mapped[str]
    next_fire_at: Mapped[datetime]
    paused_at: Mapped[datetime | None]
    paused_by: Mapped[str | None]
    reason: Mapped[str | None]
    #: When it fires again by itself; empty while only a person can resume it.
    paused_until: Mapped[datetime | None]
    #: Set when the code no longer declares it.
    retired_at: Mapped[datetime | None]


class Slot(Base):
    """One planned fire."""

    __tablename__ = "slots"
    __table_args__ = (
        UniqueConstraint("schedule", "fire_at"),
        CheckConstraint(
            "outcome IN ('ran', 'caught_up', 'coalesced', 'missed', 'skipped_paused', 'skipped_calendar', "
            "'fired_by_hand')",
            "outcome",
        ),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    schedule: Mapped[str] = mapped_column(ForeignKey("schedules.name", ondelete="CASCADE"))
    #: Nominal time of the fire.
    fire_at: Mapped[datetime]
    #: `ran`; `caught_up`: missed, and made up for by a run; `coalesced` into a later slot after downtime, or into a run
    #: of the schedule that is unfinished; `missed`, and not made up for; `skipped_paused`; `skipped_calendar`: on a day
    #: that the schedule leaves out; `fired_by_hand`.
    outcome: Mapped[str]
    #: The run it caused, or the one it was folded into.
    run_id: Mapped[int | None] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(server_default=func.now())

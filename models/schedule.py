"""A schedule is a rule in time; a slot is one planned fire of it, with exactly one recorded outcome.

Most are declared on jobs, and each deploy brings their rows in line with the code. An operator may let one fire by
another rule, which then stays until it is given back, or make a new one for any job.

Any number of schedulers may run. The unique slot makes a double fire impossible; the slot, its run and the schedule's
next fire are one transaction, so a fire is neither lost nor half done.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base


class Schedule(Base):
    """A rule in time for a job."""

    __tablename__ = "schedules"
    __table_args__ = (Index("schedules_due", "next_fire_at", postgresql_where=text("retired_at IS NULL")),)

    #: Name of the job that declares it; or what the operator who made it called it.
    name: Mapped[str] = mapped_column(primary_key=True)
    #: The job that it starts, if an operator made it; else it is the one of its name.
    job: Mapped[str | None]
    #: With which it starts that job.
    args: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    #: By which it fires: `every 1 h`, `cron 0 3 * * *` or `at 2026-12-01T08:00:00+01:00`.
    rule: Mapped[str]
    #: IANA name of the zone in which the rule reads the clock.
    zone: Mapped[str]
    #: What the code declares; empty if an operator made the schedule.
    declared_rule: Mapped[str | None]
    declared_zone: Mapped[str | None]
    #: What the code declared when an operator gave it another rule; empty while it fires as declared. Once the code
    #: declares something else than this, somebody has to choose.
    replaced_rule: Mapped[str | None]
    replaced_zone: Mapped[str | None]
    #: The operator who made it or changed its rule.
    changed_by: Mapped[str | None]
    #: What is made up for after downtime, and what a fire does that meets an unfinished run (`jobs/_fire_policy.py`).
    missed: Mapped[str] = mapped_column(server_default="once")
    overlap: Mapped[str] = mapped_column(server_default="join")
    #: Seconds.
    jitter: Mapped[float] = mapped_column(server_default="0")
    #: Empty when it never fires again.
    next_fire_at: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]
    paused_by: Mapped[str | None]
    reason: Mapped[str | None]
    #: When it fires again by itself; empty while only a person can resume it.
    paused_until: Mapped[datetime | None]
    #: Set when the code no longer declares it, or an operator took it away.
    retired_at: Mapped[datetime | None]


class Slot(Base):
    """One planned fire."""

    __tablename__ = "slots"
    __table_args__ = (
        UniqueConstraint("schedule", "fire_at"),
        CheckConstraint(
            "outcome IN ('ran', 'caught_up', 'coalesced', 'missed', 'skipped_paused', 'skipped_calendar', "
            "'refused', 'fired_by_hand')",
            "outcome",
        ),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    schedule: Mapped[str] = mapped_column(ForeignKey("schedules.name", ondelete="CASCADE"))
    #: Nominal time of the fire.
    fire_at: Mapped[datetime]
    #: `ran`; `caught_up`: missed, and made up for by a run; `coalesced` into a later slot after downtime, or into a run
    #: of the schedule that is unfinished; `missed`, and not made up for; `skipped_paused`; `skipped_calendar`: on a day
    #: that the schedule leaves out; `refused`: its job did not take the arguments; `fired_by_hand`.
    outcome: Mapped[str]
    #: The run it caused, or the one it was folded into.
    run_id: Mapped[int | None] = mapped_column(BigInteger)
    #: Why it became that, where the outcome alone does not say it.
    note: Mapped[str | None]
    recorded_at: Mapped[datetime] = mapped_column(server_default=func.now())

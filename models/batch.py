"""A batch: runs that were enqueued together, counted until the last of them has ended.

The counters are kept by Postgres (`runs_moved` in revision 0006) in the statement that moves a member, whoever moves
it. The statement that brings the last member to its end also writes the callback's run, once.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Identity, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base


class Batch(Base):
    """One batch."""

    __tablename__ = "batches"
    __table_args__ = (
        CheckConstraint("least(succeeded, dead, cancelled) >= 0", "not_negative"),
        CheckConstraint("total >= succeeded + dead + cancelled", "total"),
        # Rewritten with every set of members that end: room on the page keeps those updates in place.
        {"postgresql_with": {"fillfactor": "50"}},
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: What it is, for people.
    name: Mapped[str]
    #: Members; empty until all of them are written.
    total: Mapped[int | None]
    #: Members in each final state. A member that is run again is taken off and counted anew.
    succeeded: Mapped[int] = mapped_column(server_default=text("0"))
    dead: Mapped[int] = mapped_column(server_default=text("0"))
    cancelled: Mapped[int] = mapped_column(server_default=text("0"))
    #: The run to write when all have ended, and when all have succeeded: job, queue, priority, key, args, max_attempts.
    on_finish: Mapped[dict[str, Any] | None]
    on_success: Mapped[dict[str, Any] | None]
    #: The runs that were written.
    finish_run_id: Mapped[int | None]
    success_run_id: Mapped[int | None]
    #: When all had ended, and when all had succeeded, for the first time; never taken back.
    finished_at: Mapped[datetime | None]
    succeeded_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

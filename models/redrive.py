"""A redrive: dead runs that are run again with care, and what became of each of them.

The runs it took stay dead until their turn, so nothing has to be undone for those that never come to it. Who moves
them on, and when it stops by itself, is told in `workers/redrive.py`.
"""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, Double, ForeignKey, Identity, Index, Integer, SmallInteger, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base


class Fate(StrEnum):
    """What became of one run of a redrive; the first attempt decides between the first two."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: Somebody cancelled or removed it after it was moved.
    GONE = "gone"
    #: It was not dead any more when its turn came.
    PASSED = "passed"
    #: The redrive stopped before the run started: it is dead as before.
    KEPT = "kept"


class Redrive(Base):
    """One careful retry of many runs. The counts always add up to what `redriven` says."""

    __tablename__ = "redrives"
    __table_args__ = (
        CheckConstraint("canary > 0", "canary"),
        CheckConstraint("rate > 0", "rate"),
        CheckConstraint("stop_at BETWEEN 0 AND 100", "stop_at"),
        Index("redrives_open", "id", postgresql_where=text("ended_at IS NULL")),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: The selection in the words of the command line.
    selection: Mapped[str]
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: Runs that are tried before all others; empty for none.
    canary: Mapped[int | None] = mapped_column(Integer)
    #: Runs that become due in one second at most; empty for no limit.
    rate: Mapped[float | None] = mapped_column(Double)
    #: It stops when more than this share of the tried runs, in percent, failed again; 100 never stops.
    stop_at: Mapped[int] = mapped_column(SmallInteger)
    #: When the next run may become due, under a rate.
    next_due_at: Mapped[datetime] = mapped_column(server_default=func.now())
    total: Mapped[int] = mapped_column(server_default="0")
    #: Runs that were moved and not put back; of them, how many have which verdict.
    moved: Mapped[int] = mapped_column(server_default="0")
    succeeded: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")
    gone: Mapped[int] = mapped_column(server_default="0")
    #: Runs that were not moved, or put back.
    passed: Mapped[int] = mapped_column(server_default="0")
    kept: Mapped[int] = mapped_column(server_default="0")
    #: From here on nothing more is moved; `why` says who or what stopped it.
    stopped_at: Mapped[datetime | None]
    why: Mapped[str | None]
    #: Every run has a verdict.
    ended_at: Mapped[datetime | None]


class Redriven(Base):
    """One run of a redrive. `run_id` is no foreign key: a run may be pruned while its verdict is still counted."""

    __tablename__ = "redriven"
    __table_args__ = (
        CheckConstraint(f"fate IN ({', '.join(repr(str(v)) for v in Fate)})", "fate"),
        # A run belongs to one redrive at a time.
        Index("redriven_run", "run_id", unique=True, postgresql_where=text("fate IS NULL")),
        Index("redriven_next", "redrive_id", "run_id", postgresql_where=text("fate IS NULL AND moved_at IS NULL")),
        Index("redriven_open", "redrive_id", "run_id", postgresql_where=text("fate IS NULL AND moved_at IS NOT NULL")),
    )

    redrive_id: Mapped[int] = mapped_column(ForeignKey("redrives.id", ondelete="CASCADE"), primary_key=True)
    run_id: Mapped[int] = mapped_column(primary_key=True)
    #: When it became waiting; empty before its turn.
    moved_at: Mapped[datetime | None]
    #: What the run was when it was moved, for putting it back; a higher attempt means that it has started since.
    attempt: Mapped[int | None] = mapped_column(Integer)
    failures: Mapped[int | None] = mapped_column(SmallInteger)
    deaths: Mapped[int | None] = mapped_column(SmallInteger)
    finished_at: Mapped[datetime | None]
    fate: Mapped[str | None]

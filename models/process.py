"""A process of ours and its heartbeat: how the system knows whose work to rescue.

A worker renews `heartbeat_at` from a thread and a connection of its own. When the row goes stale its running runs
are taken back; should the process only have been frozen, the fencing number makes its late outcome fall through.
"""

from datetime import datetime

from sqlalchemy import Double, Identity, SmallInteger, func
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base


class Process(Base):
    """One started process: worker, relay, scheduler or web."""

    __tablename__ = "processes"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    kind: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    version: Mapped[str]
    #: Queues a worker serves; empty for other kinds.
    queues: Mapped[list[str]] = mapped_column(ARRAY(TEXT), server_default="{}")
    #: Names of the jobs that a worker's code has, former names too; of a scheduler, of those with a schedule.
    jobs: Mapped[list[str]] = mapped_column(ARRAY(TEXT), server_default="{}")
    threads: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: Last sign of life, by the database's clock.
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: Seconds by which its host's clock was ahead of the database's then, at least; negative if it was behind.
    clock_skew: Mapped[float | None] = mapped_column(Double)
    #: Set when it said goodbye, or when it was found dead.
    stopped_at: Mapped[datetime | None]

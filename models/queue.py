"""A queue as operators see it: known since its first use, perhaps limited, perhaps paused.

A paused queue keeps its runs in Postgres: the relay pushes none of them and a claim refuses those already pushed.
"""

from sqlalchemy import CheckConstraint, Integer
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base, Pausable


class Queue(Pausable, Base):
    """One queue."""

    __tablename__ = "queues"
    __table_args__ = (CheckConstraint("concurrency > 0", "concurrency"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    #: Runs of it that may be under way at the same time, on all workers together; empty for no limit.
    concurrency: Mapped[int | None] = mapped_column(Integer)

"""A queue as operators see it: known since its first use, and perhaps paused.

A paused queue keeps its runs in Postgres: the relay pushes none of them and a claim refuses those already pushed.
"""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base


class Queue(Base):
    """One queue."""

    __tablename__ = "queues"

    name: Mapped[str] = mapped_column(primary_key=True)
    #: Set while an operator holds the queue; work in progress goes on.
    paused_at: Mapped[datetime | None]
    paused_by: Mapped[str | None]
    reason: Mapped[str | None]

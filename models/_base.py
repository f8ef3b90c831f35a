"""The base of all tables: naming of constraints, column types, and the columns every business table has."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, DateTime, Integer, MetaData, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}


class Base(DeclarativeBase):
    """Declares a table. Text is unbounded, times carry a zone, whole numbers are 64 bits, JSON is jsonb."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        int: BigInteger,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
    }


class Kept:
    """The columns of every business table. Rows are never erased: `deleted_at` says when one stopped to count."""

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
    deleted_at: Mapped[datetime | None]


class Pausable:
    """The columns of what operators may pause, and of how gently it goes on afterwards."""

    #: Set while an operator holds it; work in progress goes on.
    paused_at: Mapped[datetime | None]
    paused_by: Mapped[str | None]
    reason: Mapped[str | None]
    #: When it goes on by itself; empty while only a person can resume it.
    paused_until: Mapped[datetime | None]
    #: When it went on last, and for how many seconds after that only part of the backlog is let through.
    resumed_at: Mapped[datetime | None]
    ramp_seconds: Mapped[int | None] = mapped_column(Integer)

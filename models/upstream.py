"""An upstream: one account at a third party, and what operators decided about it.

Runs that meet a paused upstream are snoozed: they burn no attempt and go on when it is resumed.
"""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base


class Upstream(Base):
    """One upstream; a row exists once an operator touched it."""

    __tablename__ = "upstreams"

    name: Mapped[str] = mapped_column(primary_key=True)
    paused_at: Mapped[datetime | None]
    paused_by: Mapped[str | None]
    reason: Mapped[str | None]

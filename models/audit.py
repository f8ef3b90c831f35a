"""What an operator did, to what, and why; append-only."""

from datetime import datetime
from typing import Any

from sqlalchemy import Identity, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base


class AuditEntry(Base):
    """One action of one operator."""

    __tablename__ = "audit"
    __table_args__ = (Index("audit_of", "target", "at"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: The person or account, e.g. the login name on the command line.
    actor: Mapped[str]
    #: Their role, if they came by the page or the API; empty for the command line, where the machine's account counts.
    role: Mapped[str | None]
    #: Verb and noun, e.g. `queues pause`.
    action: Mapped[str]
    target: Mapped[str]
    #: How many rows it touched.
    count: Mapped[int]
    details: Mapped[dict[str, Any] | None]

"""A call: one request that an attempt made to the outside, and what came of it.

Together they are the journal of effects: "did we charge?" is answered from here, also after a worker was killed. What
may change something there is written before it is sent, by a statement of its own; what came of it follows with the
outcomes of attempts. So a row without an end, of an attempt that is over, says that nobody knows: ask the upstream by
the idempotency key. What only reads is written when it has ended.

Of an attempt with very many calls the first and the last are kept. Nothing in here is secret: paths without their ids,
no query, no body.
"""

from datetime import datetime

from sqlalchemy import ForeignKey, Integer, SmallInteger, func
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base
from models.run import GROWING


class Call(Base):
    """One request of an attempt to the outside, with all its tries."""

    __tablename__ = "calls"
    __table_args__ = (GROWING,)

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    #: The run's fencing number during the attempt.
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    #: Its number among the calls of the attempt, from 1; what is missing in between was left out.
    place: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    #: Name of the integration.
    upstream: Mapped[str]
    method: Mapped[str]
    #: The path, its ids replaced: `/v1/refunds/{id}`.
    template: Mapped[str]
    #: By which the upstream recognises a repetition; empty if it was given none.
    idempotency_key: Mapped[str | None]
    began_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: How long it took, with the waits between tries; empty until it has ended.
    milliseconds: Mapped[int | None] = mapped_column(Integer)
    #: How often it was sent; 0 if it never left.
    tries: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    #: HTTP status of the last try; empty if that had no answer.
    status: Mapped[int | None] = mapped_column(SmallInteger)
    #: Class of what went wrong; empty if nothing did.
    error: Mapped[str | None]
    #: The upstream's own name for the last try.
    request_id: Mapped[str | None]

"""An adjustment: what the warehouse has to be told of a level, because an order takes, gives back or has shipped stock.

It is written in the transaction that reserves, releases or hands over, and told afterwards. All open adjustments of a
level are told with one request, whose key and whose idea of the level's version are kept here before it is sent. So
whoever asks again after a crash asks the very same, and the warehouse does it once.
"""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base, Kept

_OPEN = text("told_at IS NULL AND deleted_at IS NULL")


class Adjustment(Kept, Base):
    """One change of a level at the warehouse, for one order.

    One whose level is gone at the warehouse carries `deleted_at`: what was told of it is forgotten there.
    """

    __tablename__ = "stock_adjustments"
    __table_args__ = (
        CheckConstraint("on_hand <> 0 OR reserved <> 0", "says_something"),
        CheckConstraint("on_hand <= 0", "takes_away"),
        CheckConstraint("(asked_key IS NULL) = (asked_at IS NULL)", "asked"),
        Index("stock_adjustments_open", "level_id", postgresql_where=_OPEN),
        # What leaves a level for an order leaves it once.
        Index(
            "stock_adjustments_shipped",
            "order_id",
            "level_id",
            unique=True,
            postgresql_where=text("on_hand <> 0 AND deleted_at IS NULL"),
        ),
        Index("stock_adjustments_order", "order_id", "level_id"),
        Index("stock_adjustments_asked", "asked_key", postgresql_where=text("asked_key IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    level_id: Mapped[int] = mapped_column(ForeignKey("stock_levels.id"))
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    #: Pieces by which what the warehouse has on hand and what it keeps for us changes.
    on_hand: Mapped[int] = mapped_column(server_default="0")
    reserved: Mapped[int] = mapped_column(server_default="0")
    #: The request that tells it, shared by all that are told together: its `Idempotency-Key`, the version of the level
    #: that it expects, and when it was decided.
    asked_key: Mapped[str | None]
    asked_version: Mapped[int | None]
    asked_at: Mapped[datetime | None]
    #: When the warehouse was known to have done it.
    told_at: Mapped[datetime | None]

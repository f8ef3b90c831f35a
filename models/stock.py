"""The shop's own truth: products, locations, how much of each is where, and the ledger that explains it.

A stock level is a running total; every change of `on_hand` is a movement, written in the same transaction, so the
sum of a level's movements equals its `on_hand` at every moment. A sync writes the difference, never the figure alone.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CHAR,
    CheckConstraint,
    Computed,
    ForeignKey,
    Identity,
    Index,
    SmallInteger,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base, Kept


class Product(Kept, Base):
    """A thing that is sold."""

    __tablename__ = "products"
    __table_args__ = (
        # A withdrawn product gives its sku free.
        Index("products_sku_key", "sku", unique=True, postgresql_where=text("deleted_at IS NULL")),
        CheckConstraint("(price IS NULL) = (currency IS NULL)", "price_has_currency"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: The warehouse's id of it.
    source_id: Mapped[str] = mapped_column(unique=True)
    sku: Mapped[str]
    name: Mapped[str]
    brand: Mapped[str | None]
    category: Mapped[str | None]
    #: In minor units of `currency`; empty when it has none.
    price: Mapped[int | None]
    currency: Mapped[str | None] = mapped_column(CHAR(3))
    #: The warehouse's version and time of the state we hold; only a newer pair may replace it.
    source_version: Mapped[int]
    source_updated_at: Mapped[datetime]
    #: Complete full walks in a row that did not see it.
    misses: Mapped[int] = mapped_column(SmallInteger, server_default="0")


class Location(Kept, Base):
    """A place that holds stock."""

    __tablename__ = "locations"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    source_id: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    #: Who counts its stock: only a walk through this upstream may find a level of the place missing.
    upstream: Mapped[str] = mapped_column(server_default="warehouse")


class StockLevel(Kept, Base):
    """How much of a product is at a location."""

    __tablename__ = "stock_levels"
    __table_args__ = (
        UniqueConstraint("product_id", "location_id"),
        CheckConstraint("reserved >= 0", "reserved_not_negative"),
        CheckConstraint("told >= 0", "told_not_negative"),
        {"postgresql_with": {"fillfactor": "85"}},
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    source_id: Mapped[str] = mapped_column(unique=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"))
    location_id: Mapped[int] = mapped_column(ForeignKey("locations.id"), index=True)
    #: Pieces there, by the ledger. Negative upstream stock is real (it was sold twice) and accepted.
    on_hand: Mapped[int]
    #: Ours: what our orders hold. A sync never touches it.
    reserved: Mapped[int] = mapped_column(server_default="0")
    #: Theirs: what the warehouse says is held.
    source_reserved: Mapped[int] = mapped_column(server_default="0")
    incoming: Mapped[int] = mapped_column(server_default="0")
    #: The part of `source_reserved` that is there because we told of it; see `models/adjustment.py`.
    told: Mapped[int] = mapped_column(server_default="0")
    #: What may still be sold: what our orders hold counts once, also where the warehouse holds it for us.
    available: Mapped[int] = mapped_column(
        Computed("on_hand - reserved - greatest(source_reserved - told, 0::bigint)", persisted=True)
    )
    #: More was sold than was there.
    oversold: Mapped[bool] = mapped_column(Computed("on_hand < 0", persisted=True))
    #: Ours, for optimistic writes; grows with every change.
    version: Mapped[int] = mapped_column(server_default="1")
    source_version: Mapped[int]
    source_updated_at: Mapped[datetime]
    misses: Mapped[int] = mapped_column(SmallInteger, server_default="0")


class StockMovement(Kept, Base):
    """One change of a level's `on_hand`; append-only, corrections are new rows."""

    __tablename__ = "stock_movements"
    __table_args__ = (
        UniqueConstraint("level_id", "source_ref"),
        CheckConstraint("delta <> 0", "moves_something"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    level_id: Mapped[int] = mapped_column(ForeignKey("stock_levels.id"))
    delta: Mapped[int]
    #: `sync` (difference to the upstream's figure), `event` (the same, told by a webhook), `answer` (the same, told
    #: in answer to an adjustment of ours), `import` (difference to a file's), `removal` (tombstone).
    kind: Mapped[str]
    quantity_after: Mapped[int]
    reason: Mapped[str | None]
    #: What caused it, unique per level: applying the same news twice is impossible.
    source_ref: Mapped[str]
    #: When it happened, by the upstream's clock.
    occurred_at: Mapped[datetime]
    run_id: Mapped[int | None]


#: What a file is called where others have an upstream.
FILE = "file"


class StockFile(Base):
    """A file of counted stock: known by what is in it, so the same file given twice is one row and changes nothing."""

    __tablename__ = "stock_files"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: SHA-256 of its bytes.
    digest: Mapped[str] = mapped_column(unique=True)
    #: What it was called when it came first.
    name: Mapped[str]
    #: When it came: the moment of all its figures, by the database's clock.
    counted_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: Lines read and written so far: an import that broke off goes on behind them.
    lines: Mapped[int] = mapped_column(server_default="0")
    #: `{"seen": 0, "changed": 0, ...}` so far.
    counts: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    #: The run that reads it, or read it last.
    run_id: Mapped[int | None]
    finished_at: Mapped[datetime | None]


class StockFilePart(Base):
    """A piece of a file, kept until all of the file is written."""

    __tablename__ = "stock_file_parts"

    file_id: Mapped[int] = mapped_column(ForeignKey("stock_files.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[bytes]

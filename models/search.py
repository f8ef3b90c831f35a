"""What the search index still has to learn, and which physical indices exist.

A change of a product, its price or its stock leaves a mark here in the same transaction (statement-level triggers,
see the migrations). Marks are claimed in sets and deleted once every generation in the write set has the news.
"""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, Sequence, SmallInteger, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base

#: The read ordinal: drawn in a statement of its own before documents are read, sent as external version.
SEARCH_VERSIONS = Sequence("search_versions", metadata=Base.metadata)


class SearchChange(Base):
    """A mark: this product changed."""

    __tablename__ = "search_changes"
    __table_args__ = (Index("search_changes_due", "due_at"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    product_id: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: Not before this moment: the lease of a batch that took it, or the pause after a refused bulk.
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Generation(Base):
    """One physical index."""

    __tablename__ = "generations"
    __table_args__ = (
        CheckConstraint("state IN ('building', 'live', 'previous', 'failed', 'dropped')", "state"),
        Index("generations_one_live", "state", unique=True, postgresql_where=text("state IN ('live', 'building')")),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: Name of the index in Elasticsearch.
    index: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str]
    #: Digest of the mapping it was made with.
    mapping_hash: Mapped[str]
    #: Products up to this id have been read into it by the rebuild.
    scanned_to: Mapped[int] = mapped_column(server_default="0")
    #: Documents at promotion.
    documents: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    promoted_at: Mapped[datetime | None]


class SearchReject(Base):
    """A document that the index refused for its content; set aside alone, so the rest flows."""

    __tablename__ = "search_rejects"

    generation_id: Mapped[int] = mapped_column(ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True)
    product_id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]
    reason: Mapped[str]
    status: Mapped[int] = mapped_column(SmallInteger)
    at: Mapped[datetime] = mapped_column(server_default=func.now())

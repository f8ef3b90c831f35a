"""How the search stands: what searches see, how far behind it is, and what was refused.

Reads only. It answers while the search server is away too, for that is when somebody asks.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, text
from sqlalchemy.orm import Session

from integrations import IntegrationError
from integrations.elasticsearch import Elasticsearch
from jobs._documents import ALIAS, MAPPING_HASH
from jobs._generations import WRITTEN, Sight, sight
from models import Generation

_MARKS = text("""
    SELECT count(*) AS marks, extract(epoch FROM now() - min(created_at))::float8 AS age FROM search_changes
""")
_PRODUCTS = text("SELECT count(*) FROM products WHERE deleted_at IS NULL")
_REJECTS = text("""
    SELECT product_id, reason FROM search_rejects r JOIN generations g ON g.id = r.generation_id
    WHERE g.state IN ('live', 'building') ORDER BY r.at DESC LIMIT 20
""")
_REJECTED = text("""
    SELECT count(DISTINCT product_id) FROM search_rejects r JOIN generations g ON g.id = r.generation_id
    WHERE g.state IN ('live', 'building')
""")
_ROWS = select(*Generation.__table__.columns).where(Generation.state.in_(WRITTEN)).order_by(Generation.id)
_VERIFIED = text("""
    SELECT finished_at, result FROM runs WHERE job = 'search.verify' AND state = 'succeeded' ORDER BY id DESC LIMIT 1
""")


@dataclass(frozen=True)
class GenerationStatus:
    """One physical index."""

    index: str
    state: str
    mapping_current: bool
    #: Whether the search server has it; None while it does not answer.
    exists: bool | None
    #: Products up to this id have been read into it by the rebuild.
    scanned_to: int
    created_at: datetime
    promoted_at: datetime | None


@dataclass(frozen=True)
class SearchStatus:
    """How the search stands at one moment."""

    #: Why the search server cannot be asked; None when it answered.
    away: str | None
    #: Indices behind the alias; one if all is well.
    alias: list[str]
    #: Whether searches reach the live generation and every generation has its index; None while nobody can tell.
    intact: bool | None
    #: Whether the live generation has the mapping of this code; if not, rebuild.
    mapping_current: bool
    generations: list[GenerationStatus]
    #: Indices with our prefix that no row knows, perhaps of another installation.
    strangers: list[str]
    products: int
    #: Documents that searches see.
    documents: int | None
    pending_marks: int
    #: Seconds since the oldest pending change was made.
    oldest_mark_age: float | None
    #: Products that the index refused, and the latest reasons by product id.
    rejected: int
    reject_reasons: dict[int, str]
    verified_at: datetime | None
    #: What the last verification counted.
    verified: dict[str, Any] | None


def status(connection: Connection | Session, elasticsearch: Elasticsearch) -> SearchStatus:
    """Look at everything there is to know about the search, without changing any of it.

    Args:
        connection: A connection or session on the database.
        elasticsearch: The search server; it may be away.
    """
    generations = [Generation(**row._mapping) for row in connection.execute(_ROWS)]  # noqa: SLF001 - public despite its name
    seen, documents, away = _ask(generations, elasticsearch)
    live = next((g for g in generations if g.state == "live"), None)
    marks = connection.execute(_MARKS).one()
    verified = connection.execute(_VERIFIED).one_or_none()
    return SearchStatus(
        away=away,
        alias=list(seen.alias) if seen else [],
        intact=seen.intact if seen else None,
        mapping_current=live is not None and live.mapping_hash == MAPPING_HASH,
        generations=[_describe(generation, seen) for generation in generations],
        strangers=_strangers(connection, seen) if seen else [],
        products=connection.execute(_PRODUCTS).scalar_one(),
        documents=documents,
        pending_marks=marks.marks,
        oldest_mark_age=marks.age,
        rejected=connection.execute(_REJECTED).scalar_one(),
        reject_reasons={row.product_id: row.reason for row in connection.execute(_REJECTS)},
        verified_at=verified.finished_at if verified else None,
        verified=verified.result if verified else None,
    )


def _ask(generations: list[Generation], elasticsearch: Elasticsearch) -> tuple[Sight | None, int | None, str | None]:
    """Return what rows and indices say, the documents that searches see, and why nobody can tell."""
    try:
        seen = sight(generations, elasticsearch)
        return seen, elasticsearch.count(ALIAS) if seen.alias else None, None
    except IntegrationError as error:
        return None, None, str(error)


def _describe(generation: Generation, seen: Sight | None) -> GenerationStatus:
    return GenerationStatus(
        index=generation.index,
        state=generation.state,
        mapping_current=generation.mapping_hash == MAPPING_HASH,
        exists=generation.index in seen.indices if seen else None,
        scanned_to=generation.scanned_to,
        created_at=generation.created_at,
        promoted_at=generation.promoted_at,
    )


def _strangers(connection: Connection | Session, seen: Sight) -> list[str]:
    ours = set(connection.execute(select(Generation.index)).scalars())
    return sorted(seen.indices.keys() - ours)

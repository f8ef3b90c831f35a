"""Where the index and the database disagree.

Both are summed up by ranges of ids: how many documents, and the sum of their checksums. Only ranges that differ are
looked at id by id, and what differs there is read again as whole documents, twice, because the world goes on while we
look: a product with a pending mark is on its way, not drift, and one the index has refused is known. A random sample
is compared as whole documents too, since somebody who edits the index by hand need not touch the checksum.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from integrations.elasticsearch import Bucket, Elasticsearch
from jobs._context import Context
from jobs._documents import CHECKSUMS, DOCUMENTS, RANGES
from jobs._search_delivery import ORDINAL
from models import Generation

#: Ids one range covers.
RANGE = 1_000
#: Documents that are compared whole although their checksums agree.
SAMPLE = 500
#: Looks that a difference has to survive.
LOOKS = 2
_CHUNK = 1_000

_PENDING = text("SELECT DISTINCT product_id FROM search_changes WHERE product_id = ANY(:ids)")
_REJECTED = text("SELECT product_id FROM search_rejects WHERE generation_id = :generation")
_SAMPLE = text("SELECT id FROM products WHERE deleted_at IS NULL ORDER BY random() LIMIT :most")
_PRODUCTS = text("SELECT count(*) FROM products WHERE deleted_at IS NULL")
_FORGET_HEALED = text("""
    DELETE FROM search_rejects
    WHERE generation_id = :generation AND version < :version AND NOT product_id = ANY(:differing)
""")
_MARK = text("INSERT INTO search_changes (product_id) SELECT unnest(CAST(:ids AS bigint[]))")


@dataclass
class Differences:
    """Product ids by what is wrong with them; `rejected` ones are known and left alone."""

    documents: int = 0
    products: int = 0
    #: In the database, not in the index.
    missing: set[int] = field(default_factory=set)
    #: In both, with different content.
    stale: set[int] = field(default_factory=set)
    #: In the index, not in the database (any more).
    orphans: set[int] = field(default_factory=set)
    rejected: set[int] = field(default_factory=set)

    @property
    def drift(self) -> set[int]:
        """What nothing explains."""
        return self.missing | self.stale | self.orphans

    def summary(self) -> dict[str, int]:
        """Return the numbers."""
        return {name: n if isinstance(n, int) else len(n) for name, n in vars(self).items()}


def compare(context: Context, generation: Generation) -> Differences:
    """Compare a generation with the database, down to ids."""
    search = context.use(Elasticsearch)
    search.refresh(generation.index)
    with context.transaction() as session:
        version = session.execute(ORDINAL).scalar_one()
        sample = session.execute(_SAMPLE, {"most": SAMPLE}).scalars().all()
    suspects = _suspects(context, generation).union(sample)
    found: dict[int, str] = {}
    for _ in range(LOOKS):
        found = _unequal(context, generation, suspects)
        suspects = set(found)
    rejected = _rejected(context, generation, version, suspects)
    result = Differences(rejected=rejected & suspects)
    for number, kind in found.items():
        if number not in rejected:
            getattr(result, kind).add(number)
    result.documents = search.count(generation.index)
    with context.transaction() as session:
        result.products = session.execute(_PRODUCTS).scalar_one()
    return result


def mark(context: Context, products: Iterable[int]) -> None:
    """Leave a mark for each of these products, so that the index is told of them again."""
    with context.transaction() as session:
        session.execute(_MARK, {"ids": sorted(products)})


def _suspects(context: Context, generation: Generation) -> set[int]:
    """Return the ids whose checksums differ, looking only into ranges whose sums do."""
    with context.transaction() as session:
        ours = {row.low: Bucket(row.documents, row.checksum) for row in session.execute(RANGES, {"interval": RANGE})}
    theirs = context.use(Elasticsearch).checksum_buckets(generation.index, RANGE)
    suspects: set[int] = set()
    for low in sorted(low for low in ours.keys() | theirs.keys() if ours.get(low) != theirs.get(low)):
        context.check()
        suspects |= _suspects_within(context, generation, low)
    return suspects


def _suspects_within(context: Context, generation: Generation, low: int) -> set[int]:
    with context.transaction() as session:
        rows = session.execute(CHECKSUMS, {"low": low, "high": low + RANGE})
        ours = {(row.id, row.h) for row in rows}
    theirs = context.use(Elasticsearch).ids_and_checksums(generation.index, low, low + RANGE)
    return {number for number, _ in ours ^ set(theirs.items())}


def _unequal(context: Context, generation: Generation, suspects: Iterable[int]) -> dict[int, str]:
    """Return which of these differ as whole documents, and how, leaving out what is on its way."""
    ids = sorted(suspects)
    on_its_way = _pending(context, ids)
    found: dict[int, str] = {}
    for chunk in _chunks(ids):
        context.check()
        ours = _documents(context, chunk)
        theirs = {n: _shown(d) for n, d in context.use(Elasticsearch).documents(generation.index, chunk).items()}
        found |= {n: _kind(ours.get(n), theirs.get(n)) for n in chunk if ours.get(n) != theirs.get(n)}
    on_its_way |= _pending(context, ids)
    return {number: kind for number, kind in found.items() if number not in on_its_way}


def _kind(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> str:
    if theirs is None:
        return "missing"
    return "orphans" if ours is None else "stale"


def _documents(context: Context, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    with context.transaction() as session:
        rows = session.execute(DOCUMENTS, {"ids": ids})
        return {row.id: _shown(json.loads(row.document)) for row in rows}


def _shown(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "updated_at"}


def _pending(context: Context, ids: Sequence[int]) -> set[int]:
    with context.transaction() as session:
        return set(session.execute(_PENDING, {"ids": ids}).scalars())


def _rejected(context: Context, generation: Generation, version: int, differing: Iterable[int]) -> set[int]:
    """Return the refused products, after forgetting refusals of products that agree by now."""
    values = {"generation": generation.id, "version": version, "differing": list(differing)}
    with context.transaction() as session:
        session.execute(_FORGET_HEALED, values)
        return set(session.execute(_REJECTED, values).scalars())


def _chunks(ids: Sequence[int]) -> Iterable[Sequence[int]]:
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))

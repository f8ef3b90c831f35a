"""Do source, Postgres and index agree? Item by item, and the ledger with its own sums.

The stand-in tells its truth through its back door, Postgres is read directly, and the index through the official
client; nothing of the code under judgement takes part. Everything that differs is counted and a few are shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from elasticsearch import Elasticsearch
from sqlalchemy import Connection, text

from sandbox.upstreams import Admin

#: Differences that are shown, and documents read from the index at a time.
SHOWN = 20
PAGE = 1_000

Key = tuple[str, ...]
Item = tuple[Any, ...]

PRODUCTS = text("""
    SELECT source_id, sku, name, brand, category, price, trim(currency), deleted_at IS NOT NULL FROM products
""")
LEVELS = text("""
    SELECT l.source_id, p.sku, o.source_id, CASE WHEN l.deleted_at IS NULL THEN l.on_hand END,
        CASE WHEN l.deleted_at IS NULL THEN l.source_reserved END, CASE WHEN l.deleted_at IS NULL THEN l.incoming END,
        l.deleted_at IS NOT NULL
    FROM stock_levels l JOIN products p ON p.id = l.product_id JOIN locations o ON o.id = l.location_id
""")
DOCUMENTS = text("""
    SELECT p.id, p.sku, p.name, p.brand, p.category, p.price, trim(p.currency),
        coalesce(sum(l.on_hand), 0)::bigint, coalesce(sum(l.available), 0)::bigint
    FROM products p LEFT JOIN stock_levels l ON l.product_id = p.id AND l.deleted_at IS NULL
    WHERE p.deleted_at IS NULL GROUP BY p.id
""")
LEDGER = text("""
    SELECT l.source_id, l.on_hand, coalesce(sum(m.delta), 0)::bigint
    FROM stock_levels l LEFT JOIN stock_movements m ON m.level_id = l.id
    GROUP BY l.id HAVING l.on_hand <> coalesce(sum(m.delta), 0)
""")


@dataclass
class Comparison:
    """How far the three agree."""

    products: int = 0
    stock_levels: int = 0
    documents: int = 0
    mismatches: int = 0
    #: The first differences, as sentences.
    examples: list[str] = field(default_factory=list)

    def differ(self, what: str) -> None:
        """Count one difference."""
        self.mismatches += 1
        if len(self.examples) < SHOWN:
            self.examples.append(what)

    def sides(self, name: str, left: dict[Any, Item], right: dict[Any, Item], sides: tuple[str, str]) -> None:
        """Compare two mappings by key."""
        for key in left.keys() | right.keys():
            one, other = left.get(key), right.get(key)
            if one != other:
                self.differ(f"{name} {key}: {sides[0]} has {one}, {sides[1]} has {other}")


def compare(admin: Admin, connection: Connection, elasticsearch: Elasticsearch) -> Comparison:
    """Compare everything and return what was found."""
    found = Comparison()
    products = {row[0]: tuple(row[1:]) for row in connection.execute(PRODUCTS)}
    levels = {row[0]: tuple(row[1:]) for row in connection.execute(LEVELS)}
    documents = {row[0]: tuple(row[1:]) for row in connection.execute(DOCUMENTS)}
    indexed = dict(_indexed(elasticsearch))
    found.sides("product", _known(dict(_source_products(admin)), products), products, ("the warehouse", "Postgres"))
    found.sides("stock level", _known(dict(_source_levels(admin)), levels), levels, ("the warehouse", "Postgres"))
    found.sides("document of product", documents, indexed, ("Postgres", "the index"))
    for level, on_hand, movements in connection.execute(LEDGER):
        found.differ(f"ledger of {level}: {on_hand} on hand, movements sum to {movements}")
    found.products = sum(not item[-1] for item in products.values())
    found.stock_levels = sum(not item[-1] for item in levels.values())
    found.documents = len(indexed)
    return found


def _known(source: dict[str, Item], ours: dict[str, Item]) -> dict[str, Item]:
    """Leave out what was deleted at the source before we ever saw it: we owe it no row."""
    return {key: item for key, item in source.items() if key in ours or not item[-1]}


def _source_products(admin: Admin) -> Iterator[tuple[str, Item]]:
    for item in admin.products():
        price = item["price"] or {"amount": None, "currency": None}
        details = (item["sku"], item["name"], item["brand"], item["category"], price["amount"], price["currency"])
        yield item["id"], (*details, item["deleted"])


def _source_levels(admin: Admin) -> Iterator[tuple[str, Item]]:
    for item in admin.levels():
        amounts = (None,) * 3 if item["deleted"] else (item["on_hand"], item["reserved"], item["incoming"])
        yield item["id"], (item["sku"], item["location_id"], *amounts, item["deleted"])


def _indexed(elasticsearch: Elasticsearch) -> Iterator[tuple[int, Item]]:
    after: list[Any] | None = None
    while True:
        query = {"index": "products", "size": PAGE, "sort": [{"id": "asc"}], "query": {"match_all": {}}}
        hits = elasticsearch.search(**query, **({"search_after": after} if after else {}))["hits"]["hits"]  # type: ignore[arg-type]
        for hit in hits:
            d = hit["_source"]
            names = (d["sku"], d["name"], d["brand"], d["category"], d["price_cents"], d["currency"])
            yield d["id"], (*names, d["on_hand"], d["available"])
        if len(hits) < PAGE:
            return
        after = hits[-1]["sort"]

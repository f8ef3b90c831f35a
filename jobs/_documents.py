"""What a product looks like in the search index, and how its document is made.

Postgres writes the documents as ready JSON and the lines of a bulk request around them; Python only carries the bytes.
A product that is gone becomes a delete. Every document carries `h`, a checksum of all it shows, so that the database
and the index can be compared without moving either. `updated_at` stays out of the checksum: touching a row without
changing anything leaves no mark, and must not look like drift.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import text

#: Name that searches use; the physical indices behind it are called `products-<letters>`.
ALIAS = "products"

# Elasticsearch refuses a keyword above 32,766 bytes, and with it the document; a character has at most four.
_KEYWORD = {"type": "keyword", "ignore_above": 8191}
_PROPERTIES: dict[str, dict[str, Any]] = {
    "id": {"type": "long"},
    "sku": _KEYWORD,
    "name": {"type": "text"},
    "brand": _KEYWORD,
    "category": _KEYWORD,
    # Minor units as whole numbers: scaled floats lose documents at the borders of a price range.
    "price_cents": {"type": "long"},
    "currency": _KEYWORD,
    "on_hand": {"type": "long"},
    "available": {"type": "long"},
    "locations": _KEYWORD,
    "updated_at": {"type": "date"},
    "h": {"type": "long"},
}

#: While it is built nobody searches it. Tombstones outlive every batch, so a late write cannot raise the dead.
SETTINGS: Mapping[str, Any] = {"refresh_interval": "-1", "number_of_replicas": 0, "gc_deletes": "15m"}
#: From its promotion on: visible within a second, and a copy on a second node where there is one.
SERVING: Mapping[str, Any] = {"refresh_interval": "1s", "auto_expand_replicas": "0-1"}

MAPPING_HASH = hashlib.sha256(json.dumps([_PROPERTIES, dict(SETTINGS)], sort_keys=True).encode()).hexdigest()[:16]
MAPPING: Mapping[str, Any] = {
    "dynamic": "strict",
    "_meta": {"mapping_hash": MAPPING_HASH},
    "properties": _PROPERTIES,
}

_SHOWN = """
    SELECT p.id, p.updated_at, row_to_json(shown)::text AS body
    FROM products p
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(l.on_hand), 0)::bigint AS on_hand,
               coalesce(sum(l.available), 0)::bigint AS available,
               coalesce(array_agg(place.source_id ORDER BY place.source_id) FILTER (WHERE l.available > 0), '{}')
                   AS locations
        FROM stock_levels l JOIN locations place ON place.id = l.location_id
        WHERE l.product_id = p.id AND l.deleted_at IS NULL
    ) stock
    CROSS JOIN LATERAL (
        SELECT p.id, p.sku, p.name, p.brand, p.category, p.price AS price_cents, p.currency,
               stock.on_hand, stock.available, stock.locations
    ) shown
    WHERE p.deleted_at IS NULL
"""
_CHECKSUM = "('x' || left(md5(body), 8))::bit(32)::bigint"
_DOCUMENT = f"left(body, -1) || ',\"updated_at\":' || to_json(updated_at) || ',\"h\":' || {_CHECKSUM} || '}}'"

#: A bulk request for `ids` (sorted) and every index of `targets`, target by target, under the external `version`.
BULK = text(rf"""
    WITH documents AS MATERIALIZED (
        SELECT wanted.id, {_DOCUMENT} AS document
        FROM unnest(CAST(:ids AS bigint[])) wanted (id)
        LEFT JOIN ({_SHOWN} AND p.id = ANY(:ids)) shown ON shown.id = wanted.id
    )
    SELECT string_agg(
        format('{{"%s"\:{{"_index"\:"%s","_id"\:"%s","version"\:%s,"version_type"\:"external_gte"}}}}',
               CASE WHEN document IS NULL THEN 'delete' ELSE 'index' END, target, id, CAST(:version AS bigint))
        || E'\n' || coalesce(document || E'\n', ''),
        '' ORDER BY place, id)
    FROM documents CROSS JOIN unnest(CAST(:targets AS text[])) WITH ORDINALITY AS targets (target, place)
""")

#: The next ids of a walk over all products that count.
NEXT_IDS = text("""
    SELECT id FROM products WHERE id > :after AND deleted_at IS NULL ORDER BY id LIMIT :most
""")

#: Number of products and sum of checksums by ranges of `interval` ids.
RANGES = text(f"""
    SELECT id / :interval * :interval AS low, count(*) AS documents, sum({_CHECKSUM})::bigint AS checksum
    FROM ({_SHOWN}) shown GROUP BY 1
""")

#: The checksum of every product with `low` <= id < `high`.
CHECKSUMS = text(f"""
    SELECT id, {_CHECKSUM} AS h FROM ({_SHOWN} AND p.id >= :low AND p.id < :high) shown
""")

#: The documents of `ids`; products that are gone are left out.
DOCUMENTS = text(f"SELECT id, {_DOCUMENT} AS document FROM ({_SHOWN} AND p.id = ANY(:ids)) shown")

"""The index follows every change of the database and survives the loss of the search server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from integrations import Unavailable
from integrations.elasticsearch import Elasticsearch, ElasticsearchSettings
from jobs import Context, search
from jobs._documents import ALIAS, MAPPING
from sandbox.search import Search
from sandbox.services import Services

PRODUCTS = text("""
    INSERT INTO products (source_id, sku, name, brand, category, price, currency, source_version, source_updated_at)
    SELECT 'p' || i, 'SKU-' || i, 'Milk "fresh" \\ ' || chr(10) || 'é ' || i,
           CASE WHEN i % 2 = 0 THEN 'Mühle' END, 'dairy', i, 'USD', 1, now()
    FROM generate_series(1, :many) i
""")
PLACES = text("INSERT INTO locations (source_id, name) VALUES ('loc_1', 'North'), ('loc_2', 'South')")
LEVELS = text("""
    INSERT INTO stock_levels (source_id, product_id, location_id, on_hand, source_version, source_updated_at)
    SELECT p.source_id || l.source_id, p.id, l.id, l.id - 1 + p.id % 3, 1, now() FROM products p, locations l
""")
CLEAN = {"missing": 0, "stale": 0, "orphans": 0, "rejected": 0}


class Silence:
    """A reporter that keeps nothing."""

    def line(self, run_id: int, attempt: int, line: str, fields: dict[str, object]) -> None: ...

    def progress(self, run_id: int, attempt: int, progress: dict[str, object]) -> None: ...


class Shop:
    """Products, stock and an index to search them, with the words a test needs."""

    def __init__(self, engine: Engine, address: str) -> None:
        self.engine = engine
        self.es = Elasticsearch(ElasticsearchSettings(url=address))
        self.address = address
        self.clear()

    def open(self, many: int) -> "Shop":
        """Fill the shelves."""
        with self.engine.begin() as connection:
            connection.execute(PRODUCTS, {"many": many})
            connection.execute(PLACES)
            connection.execute(LEVELS)
        return self

    def clear(self) -> None:
        """Empty the search server: the workers of another test may have built an index there."""
        for index in self.es.indices(f"{ALIAS}*"):
            self.es.delete_index(index)

    def close(self) -> None:
        self.clear()
        self.es.close()

    def do(self, statement: str) -> None:
        """Change the database as any writer would."""
        with self.engine.begin() as connection:
            connection.execute(text(statement))

    def number(self, query: str) -> int:
        with self.engine.begin() as connection:
            return int(connection.execute(text(query)).scalar_one())

    def context(self, es: Elasticsearch | None = None, reporter: object = None) -> Context:
        """What a job gets; every thread takes one of its own."""
        return Context(
            run_id=1,
            attempt=1,
            job="search.test",
            slot_at=None,
            sessions=sessionmaker(self.engine, expire_on_commit=False),
            integration=lambda _: es or self.es,
            reporter=reporter or Silence(),  # type: ignore[arg-type]  # tests pass what they look at
        )

    def index(self) -> dict[str, object]:
        """Run the job that follows changes."""
        return search.index_changes(self.context()) or {}

    def verify(self, *, repair: bool = False) -> dict[str, int]:
        """Return the differences that a verification counts."""
        found = search.verify(self.context(), repair=repair) or {}
        return {name: found[name] for name in CLEAN}

    def document(self, product: int) -> dict[str, object] | None:
        """What a search shows of a product."""
        return self.es.documents(ALIAS, [product]).get(product)

    def documents(self) -> int:
        self.es.refresh(ALIAS)
        return self.es.count(ALIAS)

    def status(self) -> search.SearchStatus:
        with Session(self.engine) as session:
            return search.status(session, self.es)


@pytest.fixture
def shop(engine: Engine, services: Services) -> Iterator[Shop]:
    made = Shop(engine, services.search.url)
    yield made.open(many=30)
    made.close()


def test_the_first_run_builds_a_complete_index(shop: Shop) -> None:
    assert shop.index()["built"]

    assert shop.document(2) == {
        "id": 2,
        "sku": "SKU-2",
        "name": 'Milk "fresh" \\ \né 2',
        "brand": "Mühle",
        "category": "dairy",
        "price_cents": 2,
        "currency": "USD",
        "on_hand": 5,
        "available": 5,
        "locations": ["loc_1", "loc_2"],
        **{name: (shop.document(2) or {})[name] for name in ("updated_at", "h")},
    }
    assert shop.documents() == 30
    assert shop.verify() == CLEAN


def test_an_empty_shop_has_an_empty_index(engine: Engine, services: Services) -> None:
    shop = Shop(engine, services.search.url)

    assert shop.index()["built"]

    assert shop.documents() == 0
    assert shop.status().intact
    shop.close()


@pytest.mark.parametrize(
    ("change", "field", "shown"),
    [
        ("UPDATE products SET name = 'Oat drink' WHERE id = 3", "name", "Oat drink"),
        ("UPDATE products SET price = 9007199254740993 WHERE id = 3", "price_cents", 9007199254740993),
        ("UPDATE products SET price = NULL, currency = NULL WHERE id = 3", "price_cents", None),
        ("UPDATE stock_levels SET on_hand = -4 WHERE product_id = 3", "available", -8),
        ("UPDATE stock_levels SET reserved = 1 WHERE product_id = 3 AND location_id = 2", "locations", []),
        ("UPDATE stock_levels SET deleted_at = now() WHERE product_id = 3 AND location_id = 2", "on_hand", 0),
    ],
)
def test_a_change_is_seen_by_searches_after_the_next_run(shop: Shop, change: str, field: str, shown: object) -> None:
    shop.index()

    shop.do(change)
    result = shop.index()

    assert (result["marks"], result["products"]) == (1, 1)
    assert (shop.document(3) or {})[field] == shown
    assert shop.verify() == CLEAN


def test_a_withdrawn_product_disappears_and_a_returning_one_comes_back(shop: Shop) -> None:
    shop.index()

    shop.do("UPDATE products SET deleted_at = now() WHERE id = 3")
    shop.index()
    assert shop.document(3) is None
    assert shop.verify() == CLEAN

    shop.do("UPDATE products SET deleted_at = NULL WHERE id = 3")
    shop.index()
    assert shop.document(3) is not None
    assert shop.verify() == CLEAN


def test_nothing_is_done_when_nothing_changed(shop: Shop) -> None:
    shop.index()

    assert shop.index() == {"built": False, "marks": 0, "products": 0, "postponed": 0, "rejected": 0}


def test_more_marks_than_a_batch_holds_are_all_delivered(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs._search_changes.BATCH", 7)
    shop.index()
    shop.do("UPDATE products SET price = price + 1")

    assert shop.index()["marks"] == 30

    assert shop.verify() == CLEAN


def test_a_batch_that_died_with_its_worker_is_delivered_after_its_lease(shop: Shop) -> None:
    shop.index()
    shop.do("UPDATE products SET price = 50 WHERE id = 3")
    shop.do("UPDATE search_changes SET due_at = now() + interval '1 minute'")  # as a dead batch leaves it

    assert shop.index()["marks"] == 0
    shop.do("UPDATE search_changes SET due_at = due_at - interval '1 minute'")
    assert shop.index()["marks"] == 1

    assert shop.verify() == CLEAN


def test_the_index_heals_after_the_search_server_forgot_everything(engine: Engine, tmp_path: Path) -> None:
    server = Search(tmp_path)
    server.start()
    shop = Shop(engine, server.url).open(many=30)
    try:
        shop.index()
        search.rebuild(shop.context())  # so that a previous generation is lost as well
        shop.do("UPDATE products SET price = 50 WHERE id = 3")
        server.kill()
        with pytest.raises(Unavailable):
            shop.index()
        assert shop.status().away
        server.restart()

        assert shop.index()["built"]

        assert shop.documents() == 30
        assert (shop.document(3) or {})["price_cents"] == 50
        assert shop.verify() == CLEAN
        assert shop.status().intact
    finally:
        shop.es.close()
        server.close()


def test_a_stranger_on_the_alias_name_gives_way(shop: Shop) -> None:
    shop.es.create_index(ALIAS, MAPPING)

    shop.index()

    assert len(shop.es.alias_targets(ALIAS)) == 1
    assert shop.verify() == CLEAN


def test_an_alias_removed_by_hand_comes_back_without_a_rebuild(shop: Shop) -> None:
    shop.index()
    (live,) = shop.es.alias_targets(ALIAS)
    shop.es.create_index("products-by-hand", MAPPING)
    shop.es.swap_alias(ALIAS, add=["products-by-hand"], remove=[live])

    assert shop.index()["built"] is False

    assert shop.es.alias_targets(ALIAS) == [live]
    assert shop.status().strangers == ["products-by-hand"]


def test_the_status_tells_what_waits(shop: Shop) -> None:
    shop.index()
    shop.do("UPDATE products SET price = 50 WHERE id = 3")

    seen = shop.status()

    assert (seen.away, seen.intact, seen.mapping_current) == (None, True, True)
    assert (seen.products, seen.documents, seen.pending_marks) == (30, 30, 1)
    assert seen.oldest_mark_age is not None
    assert [(g.state, g.exists) for g in seen.generations] == [("live", True)]


def test_every_job_of_the_topic_is_recorded() -> None:
    assert [j.name for j in (search.index_changes, search.rebuild, search.verify, search.rollback)] == [
        "search.index_changes",
        "search.rebuild",
        "search.verify",
        "search.rollback",
    ]
    assert {j.queue for j in (search.index_changes, search.rebuild, search.verify, search.rollback)} == {"search"}


def test_a_product_that_was_marked_often_is_sent_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync marks a product once for every store: a batch takes all its marks and sends it once."""
    shop.index()
    monkeypatch.setattr("jobs._search_changes.BATCH", 7)
    shop.do("INSERT INTO search_changes (product_id) SELECT id FROM products, generate_series(1, 20)")
    done = shop.index()
    assert done["marks"] == 20 * shop.number("SELECT count(*) FROM products")
    assert done["products"] == shop.number("SELECT count(*) FROM products")
    assert shop.number("SELECT count(*) FROM search_changes") == 0

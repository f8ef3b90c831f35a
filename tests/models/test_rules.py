"""What the database does by itself: marks for the search index, ledgers that only grow, figures it adds up."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

PRODUCT = """
    INSERT INTO products (source_id, sku, name, price, currency, source_version, source_updated_at)
    SELECT 'p' || n, 'sku' || n, 'Tea', 349, 'USD', 1, now() FROM generate_series(1, 3) n
"""
LEVEL = """
    INSERT INTO stock_levels (source_id, product_id, location_id, on_hand, source_version, source_updated_at)
    SELECT 'l' || p.id || '-' || l.id, p.id, l.id, 12, 1, now() FROM products p, locations l
"""


@pytest.fixture
def shop(engine: Engine) -> Iterator[Connection]:
    """Three products at two locations, and no mark."""
    with engine.begin() as connection:
        connection.execute(text(PRODUCT))
        connection.execute(text("INSERT INTO locations (source_id, name) VALUES ('a', 'A'), ('b', 'B')"))
        connection.execute(text(LEVEL))
        connection.execute(text("DELETE FROM search_changes"))
        yield connection


def marks(connection: Connection) -> list[int]:
    return list(connection.execute(text("DELETE FROM search_changes RETURNING product_id")).scalars())


@pytest.mark.parametrize(
    "change",
    [
        "sku = 'new'",
        "name = 'Coffee'",
        "brand = 'Mill'",
        "category = 'Drinks'",
        "price = 350",
        "currency = 'EUR'",
        "deleted_at = now()",
        "price = NULL, currency = NULL",
    ],
)
def test_a_change_of_what_a_document_shows_leaves_one_mark(shop: Connection, change: str) -> None:
    shop.execute(text(f"UPDATE products SET {change}, source_version = 2 WHERE source_id = 'p2'"))
    (marked,) = marks(shop)
    assert marked == shop.execute(text("SELECT id FROM products WHERE source_id = 'p2'")).scalar_one()


@pytest.mark.parametrize("change", ["on_hand = 11", "reserved = 1", "source_reserved = 1", "deleted_at = now()"])
def test_a_change_of_stock_leaves_one_mark_a_product_however_many_levels_it_touched(
    shop: Connection, change: str
) -> None:
    shop.execute(text(f"UPDATE stock_levels SET {change}"))
    assert len(marks(shop)) == 3


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE products SET name = name, price = price",
        "UPDATE products SET source_version = 9, source_updated_at = now(), updated_at = now(), misses = 1",
        "UPDATE products SET name = 'x' WHERE false",
        "UPDATE stock_levels SET on_hand = on_hand, source_version = 9, misses = 1, incoming = 3, version = 5",
    ],
)
def test_an_update_that_changes_nothing_a_document_shows_leaves_no_mark(shop: Connection, statement: str) -> None:
    shop.execute(text(statement))
    assert marks(shop) == []


def test_new_products_and_new_levels_leave_marks(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text(PRODUCT))
        assert len(marks(connection)) == 3
        connection.execute(text("INSERT INTO locations (source_id, name) VALUES ('a', 'A'), ('b', 'B')"))
        assert marks(connection) == []
        connection.execute(text(LEVEL))
        assert len(marks(connection)) == 3


MOVEMENT = """
    INSERT INTO stock_movements (level_id, delta, kind, quantity_after, source_ref, occurred_at)
    SELECT min(id), {delta}, 'sync', 12, 'first', now() FROM stock_levels
"""
ENTRY = "INSERT INTO audit (actor, action, target, count) VALUES ('ada', 'queues pause', 'billing', 1)"


@pytest.mark.parametrize(
    ("insert", "statement"),
    [
        (MOVEMENT.format(delta=12), "UPDATE stock_movements SET delta = 5"),
        (MOVEMENT.format(delta=12), "DELETE FROM stock_movements"),
        (ENTRY, "UPDATE audit SET actor = 'eve'"),
        (ENTRY, "DELETE FROM audit"),
    ],
)
def test_a_ledger_refuses_to_be_rewritten(shop: Connection, insert: str, statement: str) -> None:
    shop.execute(text(insert))
    with pytest.raises(DBAPIError, match="only grows: correct it with a new row"), shop.begin_nested():
        shop.execute(text(statement))


@pytest.mark.parametrize("delta", ["0", "NULL"])
def test_a_movement_moves_something(shop: Connection, delta: str) -> None:
    with pytest.raises(DBAPIError), shop.begin_nested():
        shop.execute(text(MOVEMENT.format(delta=delta)))


def test_the_same_news_cannot_move_a_level_twice(shop: Connection) -> None:
    shop.execute(text(MOVEMENT.format(delta=12)))
    with pytest.raises(DBAPIError, match="stock_movements_level_id_source_ref_key"), shop.begin_nested():
        shop.execute(text(MOVEMENT.format(delta=12)))


def test_postgres_works_out_what_may_be_sold_and_what_was_sold_twice(shop: Connection) -> None:
    shop.execute(text("UPDATE stock_levels SET on_hand = -2, reserved = 3, source_reserved = 1"))
    assert set(map(tuple, shop.execute(text("SELECT available, oversold FROM stock_levels")))) == {(-6, True)}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stock_levels SET reserved = -1",
        "UPDATE products SET currency = NULL",
        "UPDATE products SET sku = 'same'",
    ],
)
def test_postgres_refuses_figures_that_cannot_be(shop: Connection, statement: str) -> None:
    with pytest.raises(DBAPIError), shop.begin_nested():
        shop.execute(text(statement))


def test_a_withdrawn_product_gives_its_sku_free(shop: Connection) -> None:
    shop.execute(text("UPDATE products SET deleted_at = now() WHERE source_id = 'p1'"))
    shop.execute(text("UPDATE products SET sku = 'sku1' WHERE source_id = 'p2'"))
    assert shop.execute(text("SELECT count(*) FROM products WHERE sku = 'sku1'")).scalar_one() == 2


def test_the_read_ordinal_starts_at_the_clock(shop: Connection) -> None:
    found = shop.execute(text("SELECT nextval('search_versions') > 1000 * (extract(epoch FROM now()) - 86400)"))
    assert found.scalar_one()


def test_every_foreign_key_that_cascades_is_found_by_an_index(engine: Engine) -> None:
    unindexed = text("""
        SELECT conrelid::regclass, conname FROM pg_constraint c
        WHERE contype = 'f' AND confdeltype = 'c' AND NOT EXISTS (
            SELECT 1 FROM pg_index i WHERE i.indrelid = c.conrelid AND i.indpred IS NULL AND i.indkey[0] = c.conkey[1])
    """)
    with engine.connect() as connection:
        assert connection.execute(unindexed).all() == []

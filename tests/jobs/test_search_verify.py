"""A verification finds every kind of difference, explains what is on its way, and repairs the rest."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from jobs._documents import ALIAS
from jobs._generations import write_alias
from sandbox.services import Services
from tests.jobs.test_search import CLEAN, Shop

MANY = 30


@pytest.fixture
def shop(engine: Engine, services: Services) -> Iterator[Shop]:
    made = Shop(engine, services.search.url)
    made.open(many=MANY).index()
    yield made
    made.close()


def lose(shop: Shop, product: int) -> None:
    """Take a document out of the index behind everybody's back."""
    _write(shop, f'{{"delete":{{"_index":"{_live(shop)}","_id":"{product}"}}}}\n')


def spoil(shop: Shop, product: int, *, h: int = 1, price: int = 77) -> None:
    """Write a document that the database does not hold."""
    action = f'{{"index":{{"_index":"{_live(shop)}","_id":"{product}"}}}}\n'
    _write(shop, f'{action}{{"id":{product},"price_cents":{price},"h":{h}}}\n')


def _live(shop: Shop) -> str:
    (index,) = shop.es.alias_targets(ALIAS)
    return write_alias(index)


def _write(shop: Shop, lines: str) -> None:
    outcome = shop.es.bulk(lines.encode())
    assert outcome.ok == [0]


def test_each_kind_of_difference_is_counted_and_repaired(shop: Shop) -> None:
    lose(shop, 3)
    lose(shop, 4)
    spoil(shop, 5)
    for orphan in (1_000, 1_001, 5_000_000):
        spoil(shop, orphan)

    assert shop.verify() == {"missing": 2, "stale": 1, "orphans": 3, "rejected": 0}
    assert shop.number("SELECT count(*) FROM search_changes") == 0  # to look is not to touch

    shop.verify(repair=True)
    assert shop.verify() == CLEAN  # on its way
    shop.index()

    assert shop.verify() == CLEAN
    assert shop.number("SELECT count(*) FROM search_changes") == 0
    assert shop.documents() == MANY


def test_an_edit_that_leaves_the_checksum_alone_is_found_too(shop: Shop) -> None:
    checksum = (shop.document(5) or {})["h"]
    assert isinstance(checksum, int)
    spoil(shop, 5, h=checksum)

    assert shop.verify()["stale"] == 1


def test_a_refusal_noted_late_is_forgotten_once_the_product_agrees(shop: Shop) -> None:
    shop.do("""
        INSERT INTO search_rejects (generation_id, product_id, version, reason, status)
        SELECT id, 3, 1, 'too late', 400 FROM generations WHERE state = 'live'
    """)

    assert shop.verify() == CLEAN

    assert shop.status().rejected == 0


def test_touching_a_row_is_no_difference(shop: Shop) -> None:
    shop.do("UPDATE products SET updated_at = now() + interval '1 hour'")

    assert shop.verify() == CLEAN


def test_a_pending_change_is_no_difference(shop: Shop) -> None:
    shop.do("UPDATE products SET price = 50 WHERE id = 3")
    shop.do("UPDATE products SET deleted_at = now() WHERE id = 4")

    assert shop.verify() == CLEAN


def test_the_numbers_of_both_sides_are_told(shop: Shop) -> None:
    lose(shop, 3)

    assert shop.status().documents == MANY - 1
    assert shop.status().products == MANY


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lost=st.sets(st.integers(1, MANY), max_size=5),
    spoilt=st.sets(st.integers(1, MANY), max_size=5),
    orphans=st.sets(st.integers(MANY + 1, 10_000), max_size=5),
)
def test_any_damage_is_counted_exactly_and_repaired(
    shop: Shop, lost: set[int], spoilt: set[int], orphans: set[int]
) -> None:
    for product in lost:
        lose(shop, product)
    for product in (spoilt - lost) | orphans:
        spoil(shop, product)

    found = shop.verify(repair=True)
    shop.index()

    expected = {"missing": len(lost), "stale": len(spoilt - lost), "orphans": len(orphans), "rejected": 0}
    assert found == expected
    assert shop.verify() == CLEAN

"""The guarded statements: whatever comes, in whatever order, the latest state stays and the ledger explains it."""

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session, sessionmaker

from integrations.warehouse import LevelItem, LocationItem, ProductItem
from jobs import Context
from jobs._stock import Applied, News, apply_levels, apply_locations, apply_products, twice
from models import Product, StockLevel, StockMovement
from tests.ledger import wrong_levels

BASE = datetime(2026, 11, 1, tzinfo=UTC)
SYNC = News("sync", run_id=1)
EVENT = News("event", run_id=2)
_examples = count(1)


def product(number: int = 1, *, sku: str | None = None, version: int = 1, **fields: Any) -> ProductItem:
    values = {"name": f"Product {number}", "price": {"amount": 349, "currency": "USD"}, **fields}
    stamp = (BASE + timedelta(seconds=version)).isoformat()
    return ProductItem.model_validate(
        {"id": f"prod_{number}", "sku": sku or f"SKU-{number}", "version": version, "updated_at": stamp, **values}
    )


def level(on_hand: int, *, name: str = "il_1", sku: str = "SKU-1", version: int = 1, **fields: Any) -> LevelItem:
    values = {"location_id": "loc_1", "reserved": 0, **fields}
    stamp = (BASE + timedelta(seconds=version)).isoformat()
    return LevelItem.model_validate(
        {"id": name, "sku": sku, "on_hand": on_hand, "version": version, "updated_at": stamp, **values}
    )


@pytest.fixture
def shop(sessions: sessionmaker[Session]) -> sessionmaker[Session]:
    """A shop with three products and one location, and no stock."""
    with sessions.begin() as session:
        apply_locations(session, [LocationItem(id="loc_1", name="Store 1")])
        apply_products(session, [product(number) for number in (1, 2, 3)], SYNC)
    return sessions


def put(shop: sessionmaker[Session], *items: LevelItem, news: News = SYNC) -> Applied:
    with shop.begin() as session:
        return apply_levels(session, items, news)


def put_products(shop: sessionmaker[Session], *items: ProductItem, news: News = SYNC) -> Applied:
    with shop.begin() as session:
        return apply_products(session, items, news)


def held(shop: sessionmaker[Session], source_id: str = "il_1") -> StockLevel:
    with shop() as session:
        return session.scalars(select(StockLevel).where(StockLevel.source_id == source_id)).one()


def ledger(shop: sessionmaker[Session], source_id: str = "il_1") -> list[tuple[str, int, int]]:
    with shop() as session:
        rows = select(StockMovement).join(StockLevel, StockLevel.id == StockMovement.level_id)
        found = session.scalars(rows.where(StockLevel.source_id == source_id).order_by(StockMovement.id))
        return [(row.kind, row.delta, row.quantity_after) for row in found]


def wrong(shop: sessionmaker[Session]) -> int:
    with shop() as session:
        return len(wrong_levels(session))


def test_a_change_writes_the_difference_as_a_movement(shop: sessionmaker[Session]) -> None:
    put(shop, level(10))
    applied = put(shop, level(7, version=2))
    assert (applied.changed, applied.deleted, applied.misfits) == (1, 0, [])
    assert ledger(shop) == [("sync", 10, 10), ("sync", -3, 7)]
    assert held(shop).version == 2


def test_the_same_state_moves_once_whoever_tells_it_first(shop: sessionmaker[Session]) -> None:
    assert put(shop, level(10), news=EVENT).changed == 1
    assert put(shop, level(10)).changed == 0
    assert put(shop, level(10), news=EVENT).changed == 0
    assert ledger(shop) == [("event", 10, 10)]


def test_an_older_state_never_replaces_a_newer_one(shop: sessionmaker[Session]) -> None:
    put(shop, level(7, version=2))
    assert put(shop, level(10, version=1)).changed == 0
    assert held(shop).on_hand == 7


def test_the_version_decides_between_states_of_one_moment(shop: sessionmaker[Session]) -> None:
    moment = BASE.isoformat()
    put(shop, level(7, version=2, updated_at=moment))
    assert put(shop, level(9, version=1, updated_at=moment)).changed == 0
    assert put(shop, level(8, version=3, updated_at=moment)).changed == 1


def test_the_newest_of_an_item_repeated_in_a_page_is_written_once(shop: sessionmaker[Session]) -> None:
    applied = put(shop, level(1), level(3, version=3), level(2, version=2))
    assert applied.changed == 1
    assert ledger(shop) == [("sync", 3, 3)]


def test_a_change_that_moves_nothing_leaves_no_movement(shop: sessionmaker[Session]) -> None:
    put(shop, level(5))
    assert put(shop, level(5, version=2, reserved=2)).changed == 1
    assert ledger(shop) == [("sync", 5, 5)]
    assert held(shop).available == 3


def test_negative_stock_is_accepted_and_called_oversold(shop: sessionmaker[Session]) -> None:
    put(shop, level(-4))
    assert held(shop).oversold
    assert ledger(shop) == [("sync", -4, -4)]


def test_our_own_reservations_are_never_touched(shop: sessionmaker[Session], engine: Engine) -> None:
    put(shop, level(10, reserved=1))
    with engine.begin() as connection:
        connection.execute(text("UPDATE stock_levels SET reserved = 4"))
    put(shop, level(9, version=2, reserved=2))
    row = held(shop)
    assert (row.reserved, row.source_reserved, row.available) == (4, 2, 3)


def test_a_tombstone_takes_the_stock_away_and_a_later_state_brings_it_back(shop: sessionmaker[Session]) -> None:
    put(shop, level(10))
    applied = put(shop, level(10, version=2, deleted=True), news=EVENT)
    assert (applied.changed, applied.deleted) == (1, 1)
    assert held(shop).deleted_at is not None
    put(shop, level(4, version=3))
    assert held(shop).deleted_at is None
    assert ledger(shop) == [("sync", 10, 10), ("removal", -10, 0), ("sync", 4, 4)]


def test_a_tombstone_of_what_we_never_had_removes_nothing(shop: sessionmaker[Session]) -> None:
    applied = put(shop, level(10, name="il_9", sku="SKU-unknown", deleted=True))
    assert applied == Applied(0, 0, [])


def test_a_tombstone_known_first_keeps_an_older_state_out(shop: sessionmaker[Session]) -> None:
    put(shop, level(10, version=2, deleted=True))
    assert put(shop, level(10), news=EVENT).changed == 0
    assert held(shop).deleted_at is not None


def test_a_level_of_an_unknown_product_is_a_misfit_and_the_others_are_written(shop: sessionmaker[Session]) -> None:
    applied = put(shop, level(1), level(2, name="il_2", sku="SKU-nobody"), level(3, name="il_3", location_id="loc_9"))
    assert applied.changed == 1
    assert {(one.external_id, one.reason) for one in applied.misfits} == {
        ("il_2", "there is no product with sku SKU-nobody"),
        ("il_3", "there is no location loc_9"),
    }


def test_a_level_opened_anew_for_the_same_place_continues_the_ledger(shop: sessionmaker[Session]) -> None:
    put(shop, level(10))
    applied = put(shop, level(10, version=2, deleted=True), level(6, name="il_2", version=3))
    assert (applied.changed, applied.misfits) == (2, [])
    assert ledger(shop, "il_2") == [("sync", 10, 10), ("removal", -10, 0), ("sync", 6, 6)]


def test_two_live_levels_of_one_place_are_not_both_believed(shop: sessionmaker[Session]) -> None:
    put(shop, level(10))
    applied = put(shop, level(6, name="il_2", version=2))
    assert [one.reason for one in applied.misfits] == ["the stock of SKU-1 at loc_1 is level il_1"]


def test_a_sku_that_somebody_holds_makes_a_misfit(shop: sessionmaker[Session]) -> None:
    applied = put_products(shop, product(9, sku="SKU-1", version=2))
    assert [one.reason for one in applied.misfits] == ["sku SKU-1 belongs to product prod_1"]


def test_a_sku_given_free_in_the_same_page_is_free(shop: sessionmaker[Session]) -> None:
    applied = put_products(shop, product(1, version=2, deleted=True), product(9, sku="SKU-1", version=3))
    assert (applied.changed, applied.deleted, applied.misfits) == (2, 1, [])


def test_a_product_tombstone_keeps_the_name_we_had(shop: sessionmaker[Session]) -> None:
    put_products(shop, product(1, version=2, deleted=True, name=None, price=None))
    with shop() as session:
        row = session.scalars(select(Product).where(Product.source_id == "prod_1")).one()
    assert (row.name, row.price) == ("Product 1", None)
    assert row.deleted_at is not None


def test_a_price_without_an_amount_is_no_price(shop: sessionmaker[Session]) -> None:
    put_products(shop, product(1, version=2, price={"amount": None, "currency": "USD"}))
    with shop() as session:
        row = session.scalars(select(Product).where(Product.source_id == "prod_1")).one()
    assert (row.price, row.currency) == (None, None)


def test_what_is_unchanged_is_not_even_locked(shop: sessionmaker[Session]) -> None:
    put(shop, level(10))
    with shop.begin() as other:
        other.execute(text("SELECT 1 FROM stock_levels FOR UPDATE"))
        with shop.begin() as session:
            session.execute(text("SET LOCAL lock_timeout = '2s'"))
            assert apply_levels(session, [level(10)], SYNC).changed == 0


def test_rows_are_locked_in_the_order_of_their_ids(shop: sessionmaker[Session]) -> None:
    """While the first row is held elsewhere a writer of all three waits there, and holds none of the others."""
    items = [level(5, name=f"il_{n}", sku=f"SKU-{n}") for n in (3, 2, 1)]
    put(shop, *items)
    newer = [item.model_copy(update={"updated_at": item.updated_at + timedelta(seconds=1)}) for item in items]
    with ThreadPoolExecutor(1) as pool, shop.begin() as holder:
        holder.execute(text("SELECT 1 FROM stock_levels WHERE source_id = 'il_1' FOR UPDATE"))
        writer = pool.submit(put, shop, *newer)
        until_somebody_waits(shop)
        holder.execute(text("SELECT 1 FROM stock_levels WHERE source_id <> 'il_1' FOR UPDATE NOWAIT"))
        holder.commit()
        assert writer.result().changed == 3


def until_somebody_waits(shop: sessionmaker[Session]) -> None:
    waiting = text("""SELECT count(*) FROM pg_stat_activity
                      WHERE datname = current_database() AND wait_event_type = 'Lock'""")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with shop() as session:
            if session.scalar(waiting):
                return
    raise AssertionError("nobody waited for the held row")


def test_many_writers_of_the_same_levels_neither_deadlock_nor_lose_a_piece(
    shop: sessionmaker[Session], make_context: Callable[..., Context]
) -> None:
    def write(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(12):
            items = [
                level(draw.randrange(-5, 50), name=f"il_{n}", sku=f"SKU-{n}", version=draw.randrange(1, 60))
                for n in (1, 2, 3)
            ]
            draw.shuffle(items)
            batch = items[: draw.randrange(1, 4)]
            twice(make_context(), partial(apply_levels, items=batch, news=SYNC))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write, seed) for seed in range(4)]:
            done.result()
    assert wrong(shop) == 0


States = dict[str, list[LevelItem]]


@st.composite
def histories(draw: st.DrawFn) -> tuple[States, list[tuple[str, list[tuple[str, int]]]]]:
    """Histories of three levels, and batches that tell every state at least once, in any order, with repeats."""
    mark = next(_examples)
    states: States = {}
    for number in (1, 2, 3):
        steps = draw(st.lists(st.tuples(st.integers(-9, 30), st.booleans(), st.booleans()), min_size=1, max_size=5))
        moment, name = BASE, f"il_{mark}_{number}"
        states[name] = []
        for version, (on_hand, tick, deleted) in enumerate(steps, start=1):
            moment += timedelta(seconds=int(tick))
            item = level(on_hand, name=name, sku=f"SKU-{mark}-{number}", version=version, deleted=deleted)
            states[name].append(item.model_copy(update={"updated_at": moment}))
    told = [(name, index) for name, items in states.items() for index in range(len(items))]
    repeats = draw(st.lists(st.sampled_from(told), max_size=8))
    order = draw(st.permutations(told + repeats))
    batches: list[tuple[str, list[tuple[str, int]]]] = []
    rest: Sequence[tuple[str, int]] = order
    while rest:
        size = draw(st.integers(1, 4))
        kind = draw(st.sampled_from(["sync", "event"]))
        batches.append((kind, list(rest[: size if kind == "sync" else 1])))
        rest = rest[len(batches[-1][1]) :]
    return states, batches


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories())
def test_every_order_of_pages_and_events_ends_in_the_latest_state_and_adds_up(
    shop: sessionmaker[Session], history: tuple[States, list[tuple[str, list[tuple[str, int]]]]]
) -> None:
    states, batches = history
    skus = [items[0].sku for items in states.values()]
    put_products(shop, *(product(sku=sku).model_copy(update={"id": f"p-{sku}"}) for sku in skus))
    for kind, batch in batches:
        put(shop, *(states[name][index] for name, index in batch), news=EVENT if kind == "event" else SYNC)
        assert wrong(shop) == 0
    for name, items in states.items():
        row, last = held(shop, name), items[-1]
        assert (row.source_version, row.on_hand) == (last.version, 0 if last.deleted else last.on_hand)
        assert (row.deleted_at is not None) == last.deleted

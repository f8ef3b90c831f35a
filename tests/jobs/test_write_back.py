"""The warehouse learns what our orders take, give back and have shipped: once each, whatever breaks on the way."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from integrations import NotFound, Rejected, Throttled, Unavailable
from integrations.warehouse import Warehouse, WarehouseSettings
from jobs import Context, Snooze, _adjustments, orders, warehouse
from jobs.orders import Cart, checkout, settle
from models import Adjustment, Reservation, StockLevel
from sandbox.upstreams import Upstreams
from tests.ledger import wrong_levels

BACK = "https://shop.example.com/thanks"
Item = dict[str, Any]

PAY = """
    WITH paid AS (UPDATE orders SET state = 'paid' WHERE id = :id),
         kept AS (UPDATE reservations SET state = 'committed'
                  WHERE order_line_id IN (SELECT id FROM order_lines WHERE order_id = :id))
    INSERT INTO fulfilments (order_id) VALUES (:id)
"""


class Killed(Exception):  # noqa: N818 - a moment of the story, not an error of ours
    """The worker's process ends here."""


class Mortal(Context):
    """A context whose process is killed before one of its transactions."""

    lives = 1_000

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        self.lives -= 1
        if self.lives < 0:
            raise Killed
        with super().transaction() as session:
            yield session


@dataclass
class Shop:
    """A shop, what Headrace does for it, and a warehouse that is not ours."""

    sessions: sessionmaker[Session]
    context: Context
    upstreams: Upstreams
    #: The level of the product that everybody buys, as the warehouse had it first.
    level: Item

    def buy(self, quantity: int = 1) -> int:
        with self.sessions.begin() as session:
            return checkout(session, Cart({self.level["sku"]: quantity}, BACK)).id

    def leave(self, order_id: int) -> None:
        """Let a buyer go without paying."""
        self.change("UPDATE orders SET given_up_at = now() WHERE id = :id", id=order_id)
        with self.sessions.begin() as session:
            settle(session, order_id)

    def ship(self, order_id: int) -> None:
        self.change(PAY, id=order_id)
        orders.fulfil(self.context, order_id=order_id)

    def change(self, statement: str, **values: Any) -> None:
        with self.sessions.begin() as session:
            session.execute(text(statement), values)

    def ours(self) -> StockLevel:
        with self.sessions() as session:
            return session.query(StockLevel).filter_by(source_id=self.level["id"]).one()

    def theirs(self) -> Item:
        return next(item for item in self.upstreams.admin.levels() if item["id"] == self.level["id"])

    def tell(self, context: Context | None = None) -> Item:
        return warehouse.write_back(context or self.context, level_id=self.ours().id) or {}

    def tell_until_done(self) -> None:
        """Tell as the executor would, again after each failure that asks for it."""
        for _ in range(200):
            try:
                self.tell()
            except (Unavailable, Throttled, Snooze):
                continue
            return
        raise AssertionError("the warehouse was never told all of it")

    def figures(self) -> tuple[int, int, int]:
        """Return what was there at the warehouse, taken away, reserved, and what may be sold here."""
        theirs, ours = self.theirs(), self.ours()
        left, kept = theirs["on_hand"] - self.level["on_hand"], theirs["reserved"] - self.level["reserved"]
        return left, kept, ours.available - (self.level["on_hand"] - self.level["reserved"])

    def states(self) -> list[str]:
        with self.sessions() as session:
            return [row.state for row in session.query(Reservation).order_by(Reservation.id)]


@pytest.fixture(scope="module")
def running() -> Iterator[Upstreams]:
    """One stand-in for the module, with one store: an order is served by one level."""
    with Upstreams.start(products=40, stores=1) as upstreams:
        yield upstreams


@pytest.fixture
def client(running: Upstreams) -> Iterator[Warehouse]:
    """Our client of the stand-in."""
    made = Warehouse(WarehouseSettings.model_validate({"url": running.warehouse_url, "token": running.token}))
    yield made
    made.close()
    running.admin.reset_faults()


@pytest.fixture
def shop(
    running: Upstreams, client: Warehouse, sessions: sessionmaker[Session], make_context: Callable[..., Context]
) -> Shop:
    """A shop that has just read the warehouse, and sells one product of which there is plenty."""
    context = make_context(client)
    priced = {item["sku"] for item in running.admin.products() if item["price"] and not item["deleted"]}
    level = next(item for item in running.admin.levels() if item["sku"] in priced and not item["deleted"])
    running.admin.change_level(level["id"], on_hand=1_000, reserved=7)
    warehouse.sync(context)
    found = next(item for item in running.admin.levels() if item["id"] == level["id"])
    return Shop(sessions, context, running, found)


def mortal(shop: Shop, lives: int) -> Context:
    context = Mortal(**{name: value for name, value in vars(shop.context).items() if not name.startswith("_")})
    context.lives = lives
    return context


def test_what_orders_take_give_back_and_ship_is_told_and_counts_once(shop: Shop) -> None:
    paid, left = shop.buy(5), shop.buy(3)
    assert shop.figures() == (0, 0, -8)
    assert shop.tell()["told"] == 1  # both with one request
    assert shop.figures() == (0, 8, -8)
    shop.leave(left)
    shop.ship(paid)
    assert (shop.ours().reserved, shop.states()) == (5, ["committed", "released"])
    shop.tell()
    assert shop.figures() == (-5, 0, -5)
    assert (shop.ours().reserved, shop.ours().told, shop.states()) == (0, 0, ["shipped", "released"])
    assert (warehouse.sync(shop.context) or {})["stock_levels"]["changed"] == 0
    assert (orders.check_reservations(shop.context) or {})["wrong"] == 0
    with shop.sessions() as session:
        assert wrong_levels(session) == []
        assert session.execute(text("SELECT delta, kind FROM stock_movements WHERE kind = 'answer'")).all() == [
            (-5, "answer")
        ]


def test_what_is_given_back_before_anybody_was_told_is_told_to_nobody(shop: Shop) -> None:
    shop.leave(shop.buy(3))
    before = shop.theirs()
    assert shop.tell()["told"] == 1
    assert shop.theirs() == before
    assert shop.figures() == (0, 0, 0)


def test_a_level_that_has_changed_is_looked_at_and_told_again_with_what_came_meanwhile(shop: Shop) -> None:
    shop.buy(2)
    with shop.sessions.begin() as session:
        early = _adjustments.decide(session, shop.ours().id)
    shop.buy(4)
    shop.upstreams.admin.change_level(shop.level["id"], on_hand=900)
    result = shop.tell()
    assert (result["stale"], result["told"]) == (1, 1)
    assert shop.figures() == (-100, 6, -106)
    with shop.sessions() as session:
        keys = {row.asked_key for row in session.query(Adjustment)}
    assert early is not None
    assert len(keys) == 1
    assert early.key not in keys
    with pytest.raises(Rejected, match="409"):  # it was overtaken, and stays so whenever it arrives
        shop.context.use(Warehouse).adjust(early.change)


@pytest.mark.parametrize("news_first", [False, True], ids=["", "the warehouse's own news comes first"])
@pytest.mark.parametrize("lives", range(3))
def test_a_worker_killed_before_any_of_its_transactions_repeats_nothing(
    shop: Shop, lives: int, news_first: bool
) -> None:
    """The second one follows the call: the warehouse has done it, and nobody here knows."""
    shipped, left = shop.buy(5), shop.buy(1)
    shop.buy(2)
    shop.tell()
    shop.ship(shipped)
    shop.leave(left)
    with pytest.raises(Killed):
        shop.tell(mortal(shop, lives))
    if news_first:
        warehouse.sync(shop.context)
    assert shop.figures()[2] <= -7  # never more than there is
    shop.buy(4)
    for _ in range(2):
        shop.tell()
        assert shop.figures() == (-5, 6, -11)
        assert (shop.ours().reserved, shop.ours().told) == (6, 6)
        warehouse.sync(shop.context)
    with shop.sessions() as session:
        assert session.execute(text("SELECT sum(delta) FROM stock_movements WHERE delta < 0")).scalar() == -5


HOSTILE: dict[str, Item] = {
    "done and answered with 500": {"fail_after_rate": 0.5},
    "done and cut off": {"drop_connections_rate": 0.4},
    "all of it": {"fail_after_rate": 0.2, "drop_connections_rate": 0.1, "error_rate": 0.1},
}


@pytest.mark.parametrize("faults", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_warehouse_ends_equal_to_us(shop: Shop, faults: Item) -> None:
    """Its own tills sell meanwhile, so versions are stale; sync and telling overtake each other."""
    dice = random.Random(7)
    shop.upstreams.admin.faults(**faults)
    shipped = kept = sold = 0
    for number in range(9):
        order_id, fate = shop.buy(1), dice.choice(["ship", "leave", "keep"])
        if number % 3 == 0:
            shop.tell_until_done()
        if number % 4 == 0:
            sold += 1
            shop.upstreams.admin.change_level(shop.level["id"], on_hand=shop.theirs()["on_hand"] - 1)
        if fate == "ship":
            shop.ship(order_id)
        elif fate == "leave":
            shop.leave(order_id)
        shipped, kept = shipped + (fate == "ship"), kept + (fate == "keep")
    shop.tell_until_done()
    shop.upstreams.admin.reset_faults()
    warehouse.sync(shop.context)
    assert shop.figures() == (-shipped - sold, kept, -shipped - sold - kept)
    assert (shop.ours().reserved, shop.ours().told) == (kept, kept)
    with shop.sessions() as session:
        assert wrong_levels(session) == []


def test_a_key_that_was_used_for_something_else_is_our_mistake_and_ends_the_run(shop: Shop) -> None:
    shop.buy(2)
    with shop.sessions.begin() as session:
        question = _adjustments.decide(session, shop.ours().id)
    assert question is not None
    shop.context.use(Warehouse).adjust(question.change)
    shop.change("UPDATE stock_adjustments SET reserved = 3")
    with pytest.raises(Rejected, match=r"answered 422 .* used with another body") as refused:
        shop.tell()
    assert refused.value.status == 422


def test_of_a_level_that_the_warehouse_gave_up_it_is_told_nothing_more(shop: Shop) -> None:
    shipped, left = shop.buy(5), shop.buy(3)
    shop.tell()
    shop.ship(shipped)
    shop.upstreams.admin.change_level(shop.level["id"], deleted=True)
    assert shop.tell()["gone"] == 1
    assert (shop.ours().reserved, shop.ours().told, shop.states()) == (3, 0, ["shipped", "held"])
    shop.leave(left)
    assert shop.tell() == {"level": shop.ours().id, "told": 0, "stale": 0, "gone": 0}
    assert shop.ours().reserved == 0
    with pytest.raises(NotFound):
        shop.context.use(Warehouse).level(shop.level["id"])


def test_the_warehouse_is_told_nothing_of_what_another_upstream_holds(shop: Shop) -> None:
    before = shop.theirs()
    with shop.sessions.begin() as session:
        session.execute(text("UPDATE locations SET upstream = 'tills' WHERE id = :id"), {"id": shop.ours().location_id})
    shop.ship(shop.buy(5))
    assert shop.tell()["gone"] == 1
    assert (shop.theirs(), shop.states(), shop.ours().reserved) == (before, ["shipped"], 0)


def test_what_the_warehouse_reserves_for_others_is_never_taken_for_ours(shop: Shop) -> None:
    shop.buy(4)
    shop.tell()
    shop.upstreams.admin.change_level(shop.level["id"], reserved=shop.level["reserved"] + 4 + 6)
    warehouse.sync(shop.context)
    assert shop.figures() == (0, 10, -10)
    shop.upstreams.admin.change_level(shop.level["id"], reserved=0)  # somebody cleared them all, ours too
    warehouse.sync(shop.context)
    assert shop.ours().available == shop.level["on_hand"] - 4

"""Orders from the cart to the hand-over, against a real database and a stand-in Stripe."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

import jobs
from integrations import Rejected, Unavailable
from integrations.stripe import Stripe
from integrations.warehouse import LevelItem
from jobs import Context, orders
from jobs._reservations import Share, share
from jobs._stock import News, apply_levels
from jobs.orders import BadCart, Cart, OutOfStock, checkout, settle
from models import Order
from sandbox.upstreams import Upstreams
from tests.jobs.checkouts import Shop, client_of, opened, stock

BACK = "https://shop.example.com/thanks"
RESERVED = "SELECT sum(reserved)::int FROM stock_levels"
STOCK = "SELECT string_agg(DISTINCT state, ',') FROM reservations"


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    """A stand-in Stripe."""
    with Upstreams.start(products=1, stores=1) as running:
        yield running


@pytest.fixture
def shop(upstreams: Upstreams, sessions: sessionmaker[Session], make_context: Callable[..., Context]) -> Iterator[Shop]:
    """A shop with thirty cups of tea in two stores."""
    for made in opened(upstreams, sessions, make_context):
        made.put("TEA", 10, 20)
        yield made


@pytest.fixture
def stripe(upstreams: Upstreams) -> Iterator[Stripe]:
    """Our client of the stand-in."""
    made = client_of(upstreams)
    yield made
    made.close()


def expire(shop: Shop, order_id: int) -> None:
    """Let the buyer's time run out."""
    shop.change("UPDATE orders SET expires_at = now() - interval '10 minutes' WHERE id = :id", id=order_id)


def close_late(shop: Shop) -> None:
    orders.close_late(shop.context())
    shop.drain()


def test_fifty_buyers_of_ten_pieces_at_one_moment_buy_exactly_ten(database_url: str) -> None:
    """Two kinds of cart name two products in different orders: nobody waits for another in a circle."""
    engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://", 1), pool_size=50)
    sessions, together = sessionmaker(engine), Barrier(50)
    with sessions.begin() as session:
        stock(session, "TEA", 6, 4)
        stock(session, "CUP", 60)

    def buy(number: int) -> str:
        lines = {"TEA": 1, "CUP": 1} if number % 2 else {"CUP": 1, "TEA": 1}
        try:
            with sessions.begin() as session:
                session.connection()
                together.wait(60)
                checkout(session, Cart(lines, BACK))
        except OutOfStock as error:
            return error.sku
        return "sold"

    with ThreadPoolExecutor(50) as buyers:
        assert Counter(buyers.map(buy, range(50))) == {"sold": 10, "TEA": 40}
    with sessions() as session:
        levels = "SELECT p.sku, sum(l.reserved)::int, min(l.available)::int FROM stock_levels l JOIN products p"
        rows = session.connection().exec_driver_sql(f"{levels} ON p.id = l.product_id GROUP BY 1 ORDER BY 1").all()
        assert rows == [("CUP", 10, 50), ("TEA", 10, 0)]
        runs = session.connection().exec_driver_sql("SELECT count(*) FROM runs WHERE job = 'orders.open_checkout'")
        assert runs.scalar_one() == 10
    engine.dispose()


def test_buyers_and_the_sync_write_the_same_levels_and_never_wait_in_a_circle(
    sessions: sessionmaker[Session], make_context: Callable[..., Context]
) -> None:
    """The order of the skus is the reverse of that of the levels: who locked by sku would meet the sync head-on."""
    with sessions.begin() as session:
        stock(session, "APPLE", 0, 200)
        stock(session, "BREAD", 200)

    def buy_and_leave(_round: int) -> None:
        with sessions.begin() as session:
            made = checkout(session, Cart({"APPLE": 1, "BREAD": 1}, BACK)).id
        with sessions.begin() as session:
            session.execute(text("UPDATE orders SET given_up_at = now() WHERE id = :id"), {"id": made})
            settle(session, made)

    def sync(version: int) -> None:
        levels = [("loc_1_BREAD", "BREAD", "loc_1"), ("loc_2_APPLE", "APPLE", "loc_2")]
        with sessions.begin() as session:
            apply_levels(session, [_level(*level, version) for level in levels], News("sync", 1))

    with ThreadPoolExecutor(6) as crew:
        for done in [crew.submit(work, n) for n in range(60) for work in (buy_and_leave, sync)]:
            done.result()
    assert orders.check_reservations(make_context()) == {"levels": 3, "wrong": 0}
    with sessions() as session:
        assert set(session.execute(text("SELECT reserved FROM stock_levels")).scalars()) == {0}


def _level(level_id: str, sku: str, location: str, version: int) -> LevelItem:
    moment = datetime.now(UTC) + timedelta(seconds=version)
    state = {"id": level_id, "sku": sku, "location_id": location, "on_hand": 200 + version, "reserved": 0}
    return LevelItem.model_validate(state | {"version": version, "updated_at": moment.isoformat()})


def test_a_line_is_served_by_the_fullest_level_and_spread_only_if_it_must() -> None:
    levels = [(1, "TEA", 3), (2, "TEA", 5), (3, "CUP", 1)]
    assert share({"TEA": 4}, levels) == [Share("TEA", 2, 4)]
    assert share({"TEA": 7, "CUP": 1}, levels) == [Share("TEA", 2, 5), Share("TEA", 1, 2), Share("CUP", 3, 1)]
    with pytest.raises(OutOfStock, match="TEA: 9 were asked for and 8 can be sold"):
        share({"TEA": 9}, levels)


def test_all_lines_are_kept_or_none_is_and_the_callers_transaction_goes_on(shop: Shop) -> None:
    shop.put("CUP", 1)
    with shop.sessions.begin() as session, pytest.raises(OutOfStock):
        checkout(session, Cart({"TEA": 1, "CUP": 2}, BACK))
    assert shop.one(RESERVED) == 0
    assert shop.one("SELECT count(*) FROM orders") == 0


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ({}, "at least one product"),
        ({"TEA": 0}, "at least one piece"),
        ({"NIL": 1}, "no product with sku NIL"),
        ({"FREE": 1}, "FREE has no price"),
        ({"TEA": 1, "EURO": 1}, "in EUR and USD"),
    ],
)
def test_a_cart_that_cannot_be_ordered_says_why(shop: Shop, lines: dict[str, int], why: str) -> None:
    shop.put("FREE", 1)
    shop.put("EURO", 1)
    shop.change("UPDATE products SET price = NULL, currency = NULL WHERE sku = 'FREE'")
    shop.change("UPDATE products SET currency = 'EUR' WHERE sku = 'EURO'")
    with shop.sessions.begin() as session, pytest.raises(BadCart, match=why):
        checkout(session, Cart(lines, BACK))


def test_a_caller_that_rolls_back_has_ordered_nothing(shop: Shop) -> None:
    with shop.sessions() as session:
        checkout(session, Cart({"TEA": 1}, BACK))
        session.rollback()
    assert (shop.one("SELECT count(*) FROM runs"), shop.one(RESERVED)) == (0, 0)


def test_the_buyer_gets_a_page_that_asks_for_the_order(shop: Shop, stripe: Stripe) -> None:
    order_id = shop.buy(TEA=3)
    session = stripe.fetch("checkout.session", shop.page(order_id))
    order = shop.order(order_id)
    assert order.checkout_url == session["url"]
    assert (session["amount_total"], session["currency"]) == (1500, "usd")
    assert session["client_reference_id"] == order.reference
    assert session["expires_at"] == order.expires_at.timestamp()


def test_a_page_that_was_opened_and_answered_with_500_is_found_and_not_opened_again(shop: Shop, stripe: Stripe) -> None:
    shop.upstreams.admin.faults(stripe_fail_after_rate=1)
    order_id = shop.buy(TEA=1)
    page = shop.page(order_id)
    order = shop.order(order_id)
    found = stripe.objects("checkout.session", since=order.created_at)
    assert [one["id"] for one in found if one["client_reference_id"] == order.reference] == [page]
    assert order.checkout_url == f"https://checkout.stripe.example/c/pay/{page}"


def test_a_key_with_other_parameters_is_refused_and_a_busy_one_is_tried_again(
    shop: Shop, stripe: Stripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id = shop.buy(TEA=1)
    shop.page(order_id)
    shop.change("UPDATE orders SET checkout_url = NULL, success_url = 'https://elsewhere.example.com'")
    with pytest.raises(Rejected) as caught:
        orders.open_checkout(shop.context(), order_id=order_id)
    assert caught.value.code == "idempotency_key_in_use"

    def busy(*_args: Any, **_options: Any) -> None:
        raise Rejected("stripe answered 409", upstream="stripe", status=409)

    monkeypatch.setattr(stripe._http, "send", busy)
    with pytest.raises(Unavailable):
        stripe.probe()


def test_a_paid_order_is_committed_and_handed_over_once(shop: Shop) -> None:
    order_id = shop.buy(TEA=25)
    page = shop.page(order_id)
    shop.act("pay", page)
    shop.hear(page, "checkout.session")
    shop.hear_all(order_id)
    order = shop.order(order_id)
    assert (order.state, order.received) == ("paid", 12_500)
    assert (shop.one(RESERVED), shop.one(STOCK)) == (25, "committed")
    assert shop.one("SELECT result FROM runs WHERE job = 'orders.fulfil'") == {
        "order": order_id,
        "picks": [
            {"sku": "TEA", "location": "loc_1", "quantity": 5},
            {"sku": "TEA", "location": "loc_2", "quantity": 20},
        ],
    }
    with pytest.raises(jobs.Cancel, match="not handed over"):
        orders.fulfil(shop.context(), order_id=order_id)
    orders.check_reservations(shop.context())


def test_money_that_takes_days_keeps_its_stock_until_it_bounces(shop: Shop) -> None:
    order_id = shop.buy(TEA=2)
    page = shop.page(order_id)
    shop.act("pay_later", page)
    shop.hear_all(order_id)
    assert (shop.order(order_id).state, shop.one(RESERVED)) == ("awaiting_payment", 2)
    expire(shop, order_id)
    close_late(shop)
    assert shop.order(order_id).state == "awaiting_payment", "its page is closed already: nobody is late"
    shop.act("bounce", page)
    shop.hear_all(order_id)
    assert (shop.order(order_id).state, shop.one(RESERVED), shop.one(STOCK)) == ("payment_failed", 0, "released")


def test_a_declined_card_changes_nothing_and_money_that_arrives_pays(shop: Shop) -> None:
    order_id = shop.buy(TEA=2)
    page = shop.page(order_id)
    shop.act("decline", page)
    shop.hear_all(order_id)
    assert shop.order(order_id).state == "pending"
    shop.act("pay_later", page)
    shop.act("arrive", page)
    shop.hear_all(order_id)
    assert shop.order(order_id).state == "paid"


def test_an_order_whose_time_is_up_is_closed_at_stripe_and_gives_its_stock_back(shop: Shop, stripe: Stripe) -> None:
    order_id = shop.buy(TEA=2)
    page = shop.page(order_id)
    close_late(shop)
    assert shop.order(order_id).state == "pending", "its time is not up"
    expire(shop, order_id)
    close_late(shop)
    assert (shop.order(order_id).state, shop.one(RESERVED)) == ("expired", 0)
    assert stripe.fetch("checkout.session", page)["status"] == "expired"
    shop.hear(page, "checkout.session")
    assert shop.one(RESERVED) == 0


def test_whoever_pays_in_the_last_second_has_paid(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """We fetched an open page, the buyer pays, and Stripe refuses to close it."""
    order_id = shop.buy(TEA=2)
    page = shop.page(order_id)
    expire(shop, order_id)
    close = Stripe.expire_checkout

    def late(stripe: Stripe, session_id: str) -> dict[str, Any]:
        shop.act("pay", page)
        return close(stripe, session_id)

    monkeypatch.setattr(Stripe, "expire_checkout", late)
    close_late(shop)
    assert (shop.order(order_id).state, shop.one(STOCK)) == ("paid", "committed")


def test_an_order_that_never_got_a_page_is_given_up_and_gets_none_later(shop: Shop) -> None:
    order_id = shop.buy(TEA=2)
    shop.change("UPDATE runs SET state = 'dead'")
    expire(shop, order_id)
    close_late(shop)
    assert (shop.order(order_id).state, shop.one(RESERVED)) == ("expired", 0)
    assert "nothing to open" in str(orders.open_checkout(shop.context(), order_id=order_id))


def test_an_order_that_may_just_be_opening_is_not_given_up(shop: Shop) -> None:
    order_id = shop.buy(TEA=2)
    shop.change("UPDATE runs SET state = 'dead'")
    shop.change("UPDATE orders SET opening_at = now()")
    expire(shop, order_id)
    close_late(shop)
    assert (shop.order(order_id).state, shop.one(RESERVED)) == ("pending", 2)


def paid(shop: Shop, quantity: int = 2) -> tuple[int, str]:
    """Return a paid order that was not handed over yet, and its payment."""
    order_id = shop.buy(TEA=quantity)
    page = shop.page(order_id)
    shop.act("pay", page)
    looked = jobs.find("stripe.observe").run(shop.context(), {"kind": "checkout.session", "object_id": page})
    assert looked is not None
    assert looked["orders"] == [order_id]
    shop.change("UPDATE runs SET due_at = now() + interval '1 day' WHERE job = 'orders.fulfil'")
    assert shop.order(order_id).state == "paid"
    return order_id, shop.one("SELECT payment FROM checkout_sessions WHERE source_id = :id", id=page)


def test_an_order_that_is_refunded_before_it_was_handed_over_is_withdrawn_and_comes_back_if_that_fails(
    shop: Shop, stripe: Stripe
) -> None:
    order_id, payment = paid(shop)
    refund = stripe._client.v1.refunds.create({"payment_intent": payment}).id
    shop.hear(refund, "refund")
    assert (shop.order(order_id).state, shop.one(RESERVED)) == ("refunded", 0)
    shop.change("UPDATE runs SET due_at = now() WHERE job = 'orders.fulfil' AND state = 'waiting'")
    shop.drain()
    assert shop.one("SELECT deleted_at IS NOT NULL FROM fulfilments") is True
    shop.act("fail_refund", refund)
    shop.hear(refund, "refund")
    assert (shop.order(order_id).state, shop.one(RESERVED), shop.one(STOCK)) == ("paid", 2, "committed")
    states = "SELECT string_agg(state, ',' ORDER BY id) FROM runs WHERE job = 'orders.fulfil'"
    assert shop.one(states) == "cancelled,succeeded"
    assert shop.one("SELECT deleted_at IS NULL AND handed_at IS NOT NULL FROM fulfilments") is True


def test_an_order_that_is_paid_again_after_its_stock_was_sold_is_held(shop: Shop, stripe: Stripe) -> None:
    order_id, payment = paid(shop, 20)
    refund = stripe._client.v1.refunds.create({"payment_intent": payment}).id
    shop.hear(refund, "refund")
    shop.buy(TEA=30)
    shop.act("fail_refund", refund)
    shop.hear(refund, "refund")
    order = shop.order(order_id)
    assert order.state == "held"
    assert "its stock had been given back" in (order.reason or "")
    assert shop.one(RESERVED) == 30
    orders.check_reservations(shop.context())


def test_refunds_and_disputes_after_the_hand_over_leave_the_stock_where_it_is(shop: Shop, stripe: Stripe) -> None:
    order_id = shop.buy(TEA=2)
    page = shop.page(order_id)
    shop.act("pay", page)
    shop.hear_all(order_id)
    payment = shop.one("SELECT payment FROM checkout_sessions")
    first = stripe._client.v1.refunds.create({"payment_intent": payment, "amount": 300}).id
    shop.hear(first, "refund")
    assert (shop.order(order_id).state, shop.order(order_id).refunded) == ("partially_refunded", 300)
    dispute = shop.act("dispute", payment)["id"]
    shop.hear(dispute, "dispute")
    assert shop.order(order_id).state == "disputed"
    shop.act("lose", dispute)
    shop.hear(dispute, "dispute")
    assert shop.order(order_id).state == "dispute_lost"
    shop.act("win", dispute)
    rest = stripe._client.v1.refunds.create({"payment_intent": payment}).id
    shop.hear(dispute, "dispute")
    shop.hear(rest, "refund")
    assert (shop.order(order_id).state, shop.order(order_id).refunded) == ("refunded", 1000)
    assert (shop.one(RESERVED), shop.one(STOCK)) == (2, "committed")


def test_another_amount_than_was_due_is_held_and_not_shipped(shop: Shop) -> None:
    order_id = shop.buy(TEA=2)
    shop.act("pay", shop.page(order_id), amount=999)
    shop.hear_all(order_id)
    order = shop.order(order_id)
    assert (order.state, order.received) == ("held", 999)
    assert "999 was received and 1000 was due" in (order.reason or "")
    assert shop.one("SELECT count(*) FROM fulfilments") == 0


def test_a_payment_that_names_somebody_elses_order_belongs_to_none(shop: Shop, stripe: Stripe) -> None:
    order_id = shop.buy(TEA=1)
    payment = stripe._client.v1.payment_intents.create(
        {"amount": 500, "currency": "usd", "confirm": True, "metadata": {"order_id": str(order_id)}}
    )
    shop.hear(payment.id, "payment_intent")
    assert shop.order(order_id).state == "pending"
    assert shop.one("SELECT order_id FROM payments WHERE source_id = :id", id=payment.id) is None


def test_reservations_that_do_not_add_up_are_said(shop: Shop) -> None:
    shop.buy(TEA=1)
    assert orders.check_reservations(shop.context()) == {"levels": 2, "wrong": 0}
    shop.change("UPDATE stock_levels SET reserved = reserved + 1")
    with pytest.raises(orders.ReservationsWrong, match="reservations of 2 of 2 levels"):
        orders.check_reservations(shop.context())


def test_an_order_has_a_key_of_its_own_that_no_restored_database_draws_again(shop: Shop) -> None:
    with shop.sessions() as session:
        found = [session.get_one(Order, shop.buy(TEA=1)) for _ in range(2)]
    assert len({order.checkout_key for order in found}) == 2
    assert all(order.checkout_key == f"order:{order.reference}:checkout" for order in found)

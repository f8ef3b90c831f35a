"""What Stripe has is what it shows when asked, and of two looks the later drawn one stays."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

import jobs
from integrations import Unavailable
from integrations.stripe import API_VERSION, Stripe
from jobs import Context, orders, stripe
from jobs import _snapshots as snapshots
from models import OrderState
from sandbox.upstreams import Upstreams
from tests.conftest import Notes
from tests.jobs.checkouts import KEY, Shop, client_of, opened, stock
from tests.jobs.test_order_state import HISTORY
from workers.runtime import Runtime
from workers.settings import Settings

PAYMENT = "SELECT {} FROM payments"
FULFILLED = text("""
    SELECT count(*) FROM runs WHERE job = 'orders.fulfil' AND args = jsonb_build_object('order_id', :order_id)
""")
_orders = count(1)


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    """A stand-in Stripe."""
    with Upstreams.start(products=1, stores=1) as running:
        yield running


@pytest.fixture
def client(upstreams: Upstreams) -> Iterator[Stripe]:
    """Our client of the stand-in."""
    made = client_of(upstreams)
    yield made
    made.close()


@pytest.fixture
def shop(
    client: Stripe, upstreams: Upstreams, sessions: sessionmaker[Session], make_context: Callable[..., Context]
) -> Iterator[Shop]:
    """A shop with ten cups of tea."""
    for made in opened(upstreams, sessions, make_context):
        made.context = lambda: make_context(client)
        made.put("TEA", 10)
        yield made


@pytest.fixture
def pay(upstreams: Upstreams) -> Iterator[Callable[..., dict[str, Any]]]:
    """Return a function that asks Stripe for something as another program does."""
    with httpx.Client(base_url=upstreams.stripe_url, headers={"Authorization": f"Bearer {KEY}"}) as other:

        def post(path: str, **data: str) -> dict[str, Any]:
            answer: dict[str, Any] = other.post(f"/v1/{path}", data=data).raise_for_status().json()
            return answer

        yield post


@pytest.fixture
def intent(pay: Callable[..., dict[str, Any]]) -> str:
    """A new payment intent."""
    return str(pay("payment_intents", amount="1999", currency="usd")["id"])


def look(shop: Shop, object_id: str, kind: str = "payment_intent") -> dict[str, Any]:
    return stripe.observe(shop.context(), kind=kind, object_id=object_id) or {}


def test_it_answers_every_event_that_may_change_an_order_snapshot_or_thin() -> None:
    jobs.load()
    for name in stripe.EVENTS:
        for thin in ("", "v1."):
            handler = jobs.handler_of("stripe", thin + name)
            assert handler is not None
            assert handler.name == "stripe.refresh_payment"
    assert len(stripe.EVENTS) <= 20, "Stripe lists by twenty types at most"


def test_an_event_makes_us_look_and_not_believe(shop: Shop, intent: str) -> None:
    shop.told({"object": "event", "data": {"object": {"id": intent, "object": "payment_intent", "status": "lies"}}})
    shop.drain()
    found = shop.one(PAYMENT.format("row(source_id, status, amount, amount_received, currency)::text"))
    assert found == f"({intent},requires_payment_method,1999,0,USD)"


def test_events_that_wait_for_one_object_share_one_look_and_one_that_comes_during_it_causes_another(
    shop: Shop, intent: str
) -> None:
    snapshot = {"object": "event", "data": {"object": {"id": intent, "object": "payment_intent"}}}
    thin = {"object": "v2.core.event", "related_object": {"id": intent, "type": "payment_intent"}}
    for body in (snapshot, thin, {**thin, "related_object": {"id": intent, "type": "v1.payment_intent"}}):
        shop.told(body)
    for run in shop._due():
        shop._perform(run)
    waiting = "SELECT count(*) FROM runs WHERE job = 'stripe.observe' AND state = 'waiting'"
    assert shop.one(waiting) == 1
    shop.change("UPDATE runs SET state = 'running', unique_key = NULL WHERE job = 'stripe.observe'")
    shop.told(snapshot)
    shop._perform(shop._due()[0])
    assert shop.one(waiting) == 1


def test_the_latest_look_stays_whatever_event_caused_it(
    shop: Shop, intent: str, pay: Callable[..., dict[str, Any]]
) -> None:
    first = look(shop, intent)
    pay(f"payment_intents/{intent}/cancel")
    second = look(shop, intent)
    assert second["observation"] > first["observation"]
    assert shop.one(PAYMENT.format("status")) == "canceled"


def test_the_number_is_drawn_before_the_look(
    shop: Shop,
    client: Stripe,
    intent: str,
    pay: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another look begins and ends between our drawing and our writing: it is the later one, and stays."""
    fetch = client.fetch

    def slow(*args: Any, **kwargs: Any) -> dict[str, Any]:
        monkeypatch.undo()
        found = fetch(*args, **kwargs)
        pay(f"payment_intents/{intent}/cancel")
        look(shop, intent)
        return found

    monkeypatch.setattr(client, "fetch", slow)
    assert look(shop, intent)["changed"] == 0
    assert shop.one(PAYMENT.format("status")) == "canceled"


def test_an_object_that_is_gone_is_kept_as_deleted_and_no_longer_counts(shop: Shop, client: Stripe) -> None:
    order_id = shop.buy(TEA=1)
    shop.act("pay", shop.page(order_id))
    shop.hear_all(order_id)
    payment = shop.one(PAYMENT.format("source_id"))
    refund = client._client.v1.refunds.create({"payment_intent": payment}).id
    shop.hear(refund, "refund")
    assert shop.order(order_id).state == "refunded"
    shop.change("UPDATE refunds SET source_id = 're_gone'")
    assert look(shop, "re_gone", "refund") | {"observation": 0} == {
        "object": "re_gone",
        "observation": 0,
        "changed": 1,
        "orders": [order_id],
    }
    assert shop.order(order_id).state == "paid"


def test_a_refund_of_a_payment_that_we_never_saw_leads_to_it(shop: Shop, client: Stripe) -> None:
    order_id = shop.buy(TEA=1)
    page = shop.page(order_id)
    shop.act("pay", page)
    payment = client.fetch("checkout.session", page)["payment_intent"]
    refund = client._client.v1.refunds.create({"payment_intent": payment, "amount": 100}).id
    shop.hear(refund, "refund")
    assert shop.order(order_id).state == "partially_refunded"


@pytest.mark.parametrize(
    "body",
    [b"not json", b"[]", b'{"data": {"object": {"id": "ch_1", "object": "charge"}}}', b'{"data": 1}',
     b'{"data": {"object": {"id": "../v1/balance", "object": "refund"}}}'],
)  # fmt: skip
def test_an_event_about_nothing_that_we_follow_is_noted_and_done(shop: Shop, body: bytes) -> None:
    shop.told(body)
    assert shop.drain() == [{"note": "the event names nothing that we follow"}]


def test_an_event_that_is_no_longer_kept_ends_as_cancelled(shop: Shop) -> None:
    with pytest.raises(jobs.Cancel, match="event 999 is no longer kept"):
        stripe.refresh_payment(shop.context(), event_id=999)


def test_an_event_in_another_version_of_the_api_warns(shop: Shop, intent: str) -> None:
    event = {"object": "event", "data": {"object": {"id": intent, "object": "payment_intent"}}}
    warnings = []
    for version in (API_VERSION, "2020-08-27"):
        shop.told(event | {"api_version": version})
        warnings.append([result["warning"] for result in shop.drain() if "warning" in result])
    assert warnings[0] == []
    assert "set to API version 2020-08-27" in warnings[1][0]


def test_an_object_that_lacks_what_we_need_is_asked_for_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stripe, "fetch", lambda *_args, **_options: {"id": "re_1", "amount": -1, "currency": "usd"})
    with pytest.raises(Unavailable, match="a refund without a usable status, amount"):
        look(shop, "re_1", "refund")


def test_sessions_for_something_else_are_left_alone_and_an_odd_object_hides_no_other(
    shop: Shop, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = {"id": "cs_1", "mode": "setup", "amount_total": None, "currency": None, "status": "open"}
    odd, good = {"id": "re_1"}, {"id": "re_2", "status": "pending", "amount": 1, "currency": "usd"}
    listed: dict[str, list[Any]] = {"checkout.session": [setup], "refund": [odd, good]}
    monkeypatch.setattr(Stripe, "fetch", lambda *_args, **_options: setup)
    monkeypatch.setattr(Stripe, "objects", lambda _self, kind, **_options: iter(listed.get(kind, [])))
    assert "left alone" in look(shop, "cs_1", "checkout.session")["note"]
    found = stripe.reconcile(shop.context()) or {}
    assert (found["checkout.session"], found["refund"]) == ({"seen": 1, "recovered": 0}, {"seen": 2, "recovered": 1})
    assert any("re_1: stripe showed a refund without" in line for line in notes.lines)


def test_events_that_no_endpoint_accepted_are_treated_as_received_and_once(shop: Shop) -> None:
    order_id = shop.buy(TEA=1)
    page = shop.page(order_id)
    stripe.catch_up(shop.context())
    shop.act("pay", page)
    found = stripe.catch_up(shop.context())
    assert found is not None
    assert found["recovered"] == 2  # the payment and the session; nobody answers what happens to the charge
    shop.drain()
    assert shop.order(order_id).state == "paid"
    assert (stripe.catch_up(shop.context()) or {})["recovered"] == 0


def test_the_mark_moves_behind_what_is_settled_and_what_is_listed_no_longer_begins_anew(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.upstreams.admin.stripe_events(30)
    stripe.catch_up(shop.context())
    assert shop.one("SELECT count(*) FROM event_marks") == 0, "what is young may still come by itself"
    monkeypatch.setattr(stripe, "SETTLED", -stripe.SETTLED)
    everything = stripe.catch_up(shop.context())
    assert stripe.catch_up(shop.context()) == {"listed": 0, "recovered": 0}
    shop.change("UPDATE event_marks SET external_id = 'evt_of_last_year'")
    assert stripe.catch_up(shop.context()) == everything


@pytest.mark.parametrize("job", [stripe.catch_up, stripe.reconcile])
def test_a_shop_without_stripe_misses_nothing(job: jobs.Job[[]], make_context: Callable[..., Context]) -> None:
    context = make_context()
    context.integration = Runtime(Settings({}, {})).use  # type: ignore[arg-type]
    with pytest.raises(jobs.Cancel, match="stripe is not configured: set STRIPE_API_KEY"):
        job(context)


def test_a_daily_look_finds_what_no_event_told(shop: Shop, client: Stripe) -> None:
    order_id = shop.buy(TEA=2)
    page = shop.page(order_id)
    shop.act("pay", page)
    payment = client.fetch("checkout.session", page)["payment_intent"]
    client._client.v1.refunds.create({"payment_intent": payment, "amount": 100})
    shop.act("win", shop.act("dispute", payment)["id"])
    first = stripe.reconcile(shop.context()) or {}
    assert {kind: counts["recovered"] >= 1 for kind, counts in first.items()} == dict.fromkeys(snapshots.KINDS, True)
    shop.drain()
    assert shop.order(order_id).state == "partially_refunded"
    again = stripe.reconcile(shop.context()) or {}
    assert {kind: counts["recovered"] for kind, counts in again.items()} == dict.fromkeys(snapshots.KINDS, 0)


def seen(number: int, reference: str, event: int) -> snapshots.Snapshot:
    """Return what a look at the object of an event of the history shows."""
    name, facts = HISTORY[event]
    base = {"status": facts.status, "currency": facts.currency.lower(), "amount": 1000}
    match name:
        case "payment":
            shown = base | {"id": f"pi_{number}", "amount_received": facts.amount, "metadata": {"order_id": reference}}
            return snapshots.read("payment_intent", shown)
        case "session":
            intent = {"id": f"pi_{number}", "status": facts.intent_status}
            shown = base | {"amount_total": 1000, "payment_status": facts.payment_status, "payment_intent": intent}
            return snapshots.read("checkout.session", shown | {"id": f"cs_{number}", "client_reference_id": reference})
    shown = base | {"id": f"{name}_{number}", "amount": facts.amount, "payment_intent": f"pi_{number}"}
    return snapshots.read(name, shown)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(len(HISTORY))), again=st.lists(st.integers(0, 7), max_size=3))
def test_whatever_the_order_of_looks_the_database_comes_to_one_order_and_one_fulfilment(
    sessions: sessionmaker[Session], order: list[int], again: list[int]
) -> None:
    """Numbers say which look was drawn later; they are written in any order, and some twice."""
    number = next(_orders)
    with sessions.begin() as session:
        stock(session, f"SKU-{number}", 2)
        made = orders.checkout(session, orders.Cart({f"SKU-{number}": 2}, "https://shop.example.com/thanks"))
        for event in order + again:
            snapshots.keep(session, seen(number, made.reference, event), observation=event)
            orders.settle(session, made.id)
        session.refresh(made)
        assert (made.state, made.received, made.refunded) == (OrderState.PARTIALLY_REFUNDED, 1000, 400)
        assert session.execute(FULFILLED, {"order_id": made.id}).scalar() == 1

"""A payment is what Stripe shows when asked, and of two looks the later drawn one stays."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session, sessionmaker

import jobs
from integrations.stripe import Stripe, StripeSettings
from jobs import Context, stripe
from models import Event, Payment, Verdict
from sandbox.upstreams import Upstreams

KEY = "sk_test_sandbox"
_ids = count(1)
Told = Callable[[str | bytes], dict[str, Any]]


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    """A stand-in Stripe."""
    with Upstreams.start(products=5, stores=1) as running:
        yield running


@pytest.fixture
def client(upstreams: Upstreams) -> Iterator[Stripe]:
    """Our client of the stand-in."""
    made = Stripe(StripeSettings.model_validate({"api_key": KEY, "api_base": upstreams.stripe_url}))
    yield made
    made.close()


@pytest.fixture
def shop(upstreams: Upstreams) -> Iterator[httpx.Client]:
    """What the shop's checkout does at Stripe."""
    with httpx.Client(base_url=upstreams.stripe_url, headers={"Authorization": f"Bearer {KEY}"}) as shop:
        yield shop


@pytest.fixture
def told(client: Stripe, make_context: Callable[..., Context], sessions: sessionmaker[Session]) -> Told:
    """Return a function that receives an event about an object and runs its job."""

    def receive(about: str | bytes) -> dict[str, Any]:
        body = about if isinstance(about, bytes) else orjson.dumps({"data": {"object": {"id": about}}})
        with sessions.begin() as session:
            event = Event(
                source="stripe",
                external_id=f"evt_{next(_ids)}",
                type="payment_intent.succeeded",
                verdict=Verdict.ACCEPTED,
                headers={},
                body=body,
            )
            session.add(event)
            session.flush()
            event_id = event.id
        return stripe.refresh_payment(make_context(client), event_id=event_id) or {}

    return receive


def new_payment(shop: httpx.Client, amount: int = 1999) -> str:
    answer = shop.post("/v1/payment_intents", data={"amount": str(amount), "currency": "usd"})
    return str(answer.raise_for_status().json()["id"])


def payment(sessions: sessionmaker[Session]) -> Payment:
    with sessions() as session:
        return session.scalars(select(Payment)).one()


def test_it_answers_every_event_that_may_change_a_payment() -> None:
    jobs.load()
    for name in stripe.EVENTS:
        handler = jobs.handler_of("stripe", f"payment_intent.{name}")
        assert handler is not None
        assert handler.name == "stripe.refresh_payment"


def test_an_event_makes_us_look_and_not_believe(
    shop: httpx.Client, told: Told, sessions: sessionmaker[Session]
) -> None:
    intent = new_payment(shop)
    assert told(intent)["changed"] == 1
    row = payment(sessions)
    assert (row.source_id, row.status, row.amount, row.amount_received) == (intent, "requires_payment_method", 1999, 0)
    assert row.currency == "USD"


def test_the_latest_look_stays_whatever_event_caused_it(
    shop: httpx.Client, told: Told, sessions: sessionmaker[Session]
) -> None:
    intent = new_payment(shop)
    first = told(intent)
    shop.post(f"/v1/payment_intents/{intent}/cancel").raise_for_status()
    second = told(intent)
    assert second["observation"] > first["observation"]
    assert payment(sessions).status == "canceled"


def test_a_look_with_an_older_number_changes_nothing(
    shop: httpx.Client, told: Told, sessions: sessionmaker[Session], engine: Engine
) -> None:
    intent = new_payment(shop)
    told(intent)
    with engine.begin() as connection:
        connection.execute(text("UPDATE payments SET observation = 1000, status = 'succeeded'"))
    assert told(intent)["changed"] == 0
    assert payment(sessions).status == "succeeded"


def test_the_number_is_drawn_before_the_look(
    shop: httpx.Client, client: Stripe, told: Told, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another look begins and ends between our drawing and our writing: it is the later one, and stays."""
    intent = new_payment(shop)
    fetch = client.fetch

    def slow(*args: Any, **kwargs: Any) -> dict[str, Any]:
        monkeypatch.undo()
        found = fetch(*args, **kwargs)
        shop.post(f"/v1/payment_intents/{intent}/cancel").raise_for_status()
        told(intent)
        return found

    monkeypatch.setattr(client, "fetch", slow)
    assert told(intent)["changed"] == 0
    assert payment(sessions).status == "canceled"


def test_a_payment_that_is_gone_is_kept_as_deleted(
    shop: httpx.Client, told: Told, sessions: sessionmaker[Session], engine: Engine
) -> None:
    told(new_payment(shop))
    with engine.begin() as connection:
        connection.execute(text("UPDATE payments SET source_id = 'pi_gone'"))
    assert told("pi_gone")["changed"] == 1
    assert payment(sessions).deleted_at is not None


@pytest.mark.parametrize("body", [b"not json", b"[]", b'{"data": {"object": {"id": "ch_1"}}}', b'{"data": 1}'])
def test_an_event_about_no_payment_is_noted_and_done(told: Told, body: bytes) -> None:
    assert told(body)["changed"] == 0


def test_an_event_that_is_no_longer_kept_ends_as_cancelled(
    client: Stripe, make_context: Callable[..., Context]
) -> None:
    with pytest.raises(jobs.Cancel, match="event 999 is no longer kept"):
        stripe.refresh_payment(make_context(client), event_id=999)

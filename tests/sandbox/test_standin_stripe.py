"""The official Stripe client works against the stand-in unchanged."""

import time
from collections.abc import Iterator

import httpx
import pytest
import stripe

from sandbox.upstreams import Upstreams


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    with Upstreams.start(products=1, stores=1) as running:
        yield running


@pytest.fixture
def client(upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch) -> stripe.StripeClient:
    monkeypatch.setattr(stripe, "enable_telemetry", False)
    upstreams.admin.reset_faults()
    return stripe.StripeClient("sk_test_sandbox", base_addresses={"api": upstreams.stripe_url})


def _paid(client: stripe.StripeClient, amount: int = 1_000) -> stripe.PaymentIntent:
    return client.v1.payment_intents.create(
        {"amount": amount, "currency": "usd", "confirm": True, "metadata": {"order_id": "o1"}}
    )


def test_a_payment_is_created_paid_and_fetched_with_its_charge(client: stripe.StripeClient) -> None:
    payment = _paid(client)
    fetched = client.v1.payment_intents.retrieve(payment.id, {"expand": ["latest_charge.refunds"]})
    assert (fetched.status, fetched.amount_received, fetched.metadata["order_id"]) == ("succeeded", 1_000, "o1")
    assert isinstance(fetched.latest_charge, stripe.Charge)
    assert fetched.latest_charge.refunds is not None
    assert fetched.latest_charge.refunds.data == []


def test_a_declined_card_may_be_tried_again(client: stripe.StripeClient) -> None:
    payment = client.v1.payment_intents.create({"amount": 500, "currency": "usd"})
    with pytest.raises(stripe.CardError):
        client.v1.payment_intents.confirm(payment.id, {"payment_method": "pm_card_chargeDeclined"})
    assert client.v1.payment_intents.retrieve(payment.id).status == "requires_payment_method"
    assert client.v1.payment_intents.confirm(payment.id, {"payment_method": "pm_card_visa"}).status == "succeeded"
    with pytest.raises(stripe.InvalidRequestError, match="can no longer change"):
        client.v1.payment_intents.cancel(payment.id)


def test_refunds_never_exceed_the_payment(client: stripe.StripeClient) -> None:
    payment = _paid(client)
    refund = client.v1.refunds.create({"payment_intent": payment.id, "amount": 400})
    assert client.v1.refunds.retrieve(refund.id).amount == 400
    rest = client.v1.refunds.create({"payment_intent": payment.id})
    assert rest.amount == 600
    with pytest.raises(stripe.InvalidRequestError, match="greater than"):
        client.v1.refunds.create({"payment_intent": payment.id, "amount": 1})
    listed = client.v1.refunds.list({"payment_intent": payment.id})
    assert [item.id for item in listed.data] == [rest.id, refund.id]


def test_the_same_key_repeats_the_answer_and_other_parameters_are_refused(client: stripe.StripeClient) -> None:
    once: stripe.RequestOptions = {"idempotency_key": "order:1:pay:1"}
    first = client.v1.payment_intents.create({"amount": 700, "currency": "usd"}, once)
    assert client.v1.payment_intents.create({"amount": 700, "currency": "usd"}, once).id == first.id
    with pytest.raises(stripe.IdempotencyError):
        client.v1.payment_intents.create({"amount": 701, "currency": "usd"}, once)


def test_events_are_listed_newest_first_in_pages_by_type_and_oldest_first_backwards(
    upstreams: Upstreams, client: stripe.StripeClient
) -> None:
    start = _paid(client)
    anchor = client.v1.events.list({"limit": 1}).data[0]
    assert anchor.data.object["id"] == start.id
    upstreams.admin.stripe_events(150)
    forward = [event.id for event in client.v1.events.list({"limit": 40}).auto_paging_iter()]
    after = [event.id for event in client.v1.events.list({"limit": 40, "ending_before": anchor.id}).auto_paging_iter()]
    assert len(after) >= 150
    assert after[::-1] == forward[: len(after)]
    kinds = {event.type for event in client.v1.events.list({"types": ["refund.created", "charge.refunded"]}).data}
    assert kinds == {"refund.created", "charge.refunded"}
    assert client.v1.events.retrieve(anchor.id).type == anchor.type
    undelivered = client.v1.events.list({"delivery_success": False, "limit": 100})
    assert len(undelivered.data) == 100, "nobody was there to take them"


def test_an_event_is_a_photograph(client: stripe.StripeClient) -> None:
    payment = _paid(client)
    events = client.v1.events.list({"limit": 3}).data
    assert {event.type for event in events} == {
        *("payment_intent.created", "charge.succeeded", "payment_intent.succeeded")
    }
    (created,) = (event for event in events if event.type == "payment_intent.created")
    assert (created.data.object["id"], created.data.object["status"]) == (payment.id, "requires_payment_method")


def test_strangers_unknown_ids_and_unknown_parameters_are_refused(
    upstreams: Upstreams, client: stripe.StripeClient
) -> None:
    assert httpx.get(f"{upstreams.stripe_url}/v1/events").status_code == 401
    with pytest.raises(stripe.InvalidRequestError, match="No such payment_intent"):
        client.v1.payment_intents.retrieve("pi_0")
    headers = {"Authorization": "Bearer sk_test_sandbox"}
    unknown = httpx.get(f"{upstreams.stripe_url}/v1/events?colour=red", headers=headers)
    assert unknown.json()["error"]["code"] == "parameter_unknown"


def test_stripe_can_have_a_bad_day_too(upstreams: Upstreams, client: stripe.StripeClient) -> None:
    upstreams.admin.faults(stripe_error_rate=1)
    with pytest.raises(stripe.APIError):
        client.v1.events.list()


def _opened(client: stripe.StripeClient, key: str = "k", minutes: int = 60) -> stripe.checkout.Session:
    line = {"quantity": 2, "price_data": {"currency": "usd", "unit_amount": 450, "product_data": {"name": "Tea"}}}
    asked = {
        "mode": "payment",
        "client_reference_id": "o1",
        "metadata": {"order_id": "o1"},
        "line_items": [line],
        "expires_at": int(time.time()) + 60 * minutes,
        "success_url": "https://shop.example.com",
    }
    return client.v1.checkout.sessions.create(asked, {"idempotency_key": key})  # type: ignore[arg-type]


def test_a_session_is_paid_by_its_buyer_or_expires_and_never_both(
    upstreams: Upstreams, client: stripe.StripeClient
) -> None:
    session = _opened(client, "paid")
    assert (session.amount_total, session.status, session.payment_intent) == (900, "open", None)
    upstreams.admin.stripe_act("decline", session.id)
    upstreams.admin.stripe_act("pay", session.id)
    paid = client.v1.checkout.sessions.retrieve(session.id, {"expand": ["payment_intent"]})
    assert isinstance(paid.payment_intent, stripe.PaymentIntent)
    assert (paid.payment_status, paid.payment_intent.metadata["order_id"]) == ("paid", "o1")
    with pytest.raises(stripe.InvalidRequestError, match="status of `open`"):
        client.v1.checkout.sessions.expire(session.id)
    other = client.v1.checkout.sessions.expire(_opened(client, "expired").id)
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        upstreams.admin.stripe_act("pay", other.id)
    with pytest.raises(stripe.InvalidRequestError, match="between 30 minutes and 24 hours"):
        _opened(client, "late", minutes=20)


def test_a_session_that_was_opened_and_answered_with_500_answers_so_for_ever(
    upstreams: Upstreams, client: stripe.StripeClient
) -> None:
    before = len(list(client.v1.checkout.sessions.list({"limit": 100}).auto_paging_iter()))
    upstreams.admin.faults(stripe_fail_after_rate=1)
    with pytest.raises(stripe.APIError):
        _opened(client, "unlucky")
    upstreams.admin.reset_faults()
    with pytest.raises(stripe.APIError):
        _opened(client, "unlucky")
    assert len(list(client.v1.checkout.sessions.list({"limit": 100}).auto_paging_iter())) == before + 1


def test_a_dispute_is_opened_by_a_bank_and_listed(upstreams: Upstreams, client: stripe.StripeClient) -> None:
    dispute = upstreams.admin.stripe_act("dispute", _paid(client).id)
    upstreams.admin.stripe_act("lose", dispute["id"])
    assert client.v1.disputes.list({"limit": 1}).data[0].status == "lost"


def test_stripe_may_ask_for_patience(upstreams: Upstreams, client: stripe.StripeClient) -> None:
    upstreams.admin.faults(stripe_throttle_rate=1, retry_after_s=7)
    with pytest.raises(stripe.RateLimitError) as caught:
        client.v1.events.list()
    assert (caught.value.headers or {})["Retry-After"] == "7"


def test_a_cursor_may_name_an_event_that_the_filters_leave_out(client: stripe.StripeClient) -> None:
    _paid(client)
    anchor = client.v1.events.list({"limit": 1}).data[0]
    assert client.v1.events.list({"ending_before": anchor.id, "types": ["refund.created"]}).data == []


def test_an_unknown_act_or_object_is_said(upstreams: Upstreams) -> None:
    for act, about, status in (("dance", "pi_1", 422), ("pay", "xx_1", 409), ("pay", "cs_1", 409)):
        with pytest.raises(httpx.HTTPStatusError) as caught:
            upstreams.admin.stripe_act(act, about)
        assert caught.value.response.status_code == status

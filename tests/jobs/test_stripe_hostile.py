"""A day on which Stripe does everything that it warns of, and a shop that agrees with it in the evening."""

from collections.abc import Callable, Iterator
from random import Random

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from integrations.stripe import Stripe
from jobs import Context, orders, stripe
from jobs import _snapshots as snapshots
from sandbox.services import Services
from sandbox.upstreams import Upstreams
from tests.jobs.checkouts import Shop, client_of, opened
from tests.web.serving import Web, environment, serving

HOSTILE = {
    "stripe_error_rate": 0.05,
    "stripe_fail_after_rate": 0.3,
    "stripe_throttle_rate": 0.05,
    "stripe_latency_ms": 2,
    "stripe_thin_rate": 0.5,
    "retry_after_s": 0,
    "webhook_duplicate_rate": 0.5,
    "webhook_reorder_rate": 0.5,
    "webhook_loss_rate": 0.2,
}
ORDERS = 12
SHOWN = text("SELECT id, reference, state, received, refunded FROM orders ORDER BY id")


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    """A Stripe that is rolling its webhook secret: each delivery is signed with the new one and the old one."""
    with Upstreams.start(products=1, stores=1, seed=5, stripe_secret="whsec_new,whsec_old") as running:
        yield running


@pytest.fixture
def web(services: Services, database_url: str, upstreams: Upstreams) -> Iterator[Web]:
    """A receiver that has heard of the old secret only."""
    ours = {
        "STRIPE_API_KEY": "sk_test_sandbox",
        "STRIPE_API_BASE": upstreams.stripe_url,
        "STRIPE_WEBHOOK_SECRETS": "whsec_old",
    }
    with serving(environment(services, database_url) | ours) as started:
        yield started


@pytest.fixture
def shop(upstreams: Upstreams, sessions: sessionmaker[Session], make_context: Callable[..., Context]) -> Iterator[Shop]:
    """A shop with some tea."""
    for made in opened(upstreams, sessions, make_context):
        made.put("TEA", 40, 40)
        yield made


def live(shop: Shop, client: Stripe, order_id: int, dice: Random) -> None:
    """Let one buyer, and perhaps a bank, do something of all that they may do."""
    page = client.find_checkout(shop.order(order_id).reference, since=shop.order(order_id).created_at)
    assert page is not None
    fate = dice.choice(["pay", "pay_later", "expire", "decline", "arrive", "bounce", "refund", "fail", "dispute"])
    if fate in {"arrive", "bounce"}:
        shop.act("pay_later", page["id"])
    shop.act(fate if fate in {"pay_later", "expire", "decline", "arrive", "bounce"} else "pay", page["id"])
    if fate in {"refund", "fail", "dispute"}:
        payment = client.fetch("checkout.session", page["id"])["payment_intent"]
        dispute = shop.act("dispute", payment) if fate == "dispute" else {}
        if fate != "dispute":
            part = {"payment_intent": payment, "amount": dice.choice([200, 500])}
            refund = client._client.v1.refunds.create(part).to_dict(for_json=True)  # type: ignore[arg-type]
            if fate == "fail":
                shop.act("fail_refund", refund["id"])
        elif dice.random() < 0.5:
            shop.act(dice.choice(["win", "lose"]), dispute["id"])


def truth(client: Stripe, shop: Shop) -> dict[str, int]:
    """Count, at the source, what was paid and not lost again, by the name of the order."""
    since = shop.order(1).created_at
    payments = {one["id"]: one for one in client.objects("payment_intent", since=since)}
    received = {one["metadata"].get("order_id"): one["amount_received"] for one in payments.values()}
    for refund in client.objects("refund", since=since):
        if refund["status"] != "failed":
            received[payments[refund["payment_intent"]]["metadata"].get("order_id")] -= refund["amount"]
    return {name: amount for name, amount in received.items() if amount}


def test_whatever_stripe_does_in_a_day_both_sides_agree_in_the_evening(
    shop: Shop, web: Web, upstreams: Upstreams
) -> None:
    client, dice = client_of(upstreams), Random(11)
    upstreams.admin.send_webhooks_to(web.url)
    upstreams.admin.faults(**HOSTILE)
    bought = [shop.buy(TEA=1) for _ in range(ORDERS)]
    shop.drain()
    assert shop.one("SELECT count(*) FROM checkout_sessions") == ORDERS
    upstreams.admin.faults(stripe_error_rate=0, stripe_fail_after_rate=0, stripe_throttle_rate=0)
    for order_id in bought:
        live(shop, client, order_id, dice)
        shop.drain()
    upstreams.admin.reset_faults()
    stats = upstreams.admin.stripe_events(1, wait_s=30)
    assert stats["delivered"]
    lost = upstreams.admin.stats()["webhooks"]["stripe"]["lost"]
    recovered = (stripe.catch_up(shop.context()) or {})["recovered"]
    assert recovered > 0
    assert lost > 0
    shop.drain()
    stripe.reconcile(shop.context())
    shop.drain()
    with shop.sessions() as session:
        shown = session.execute(SHOWN).all()
    assert {row.reference: row.received - row.refunded for row in shown if row.received != row.refunded} == truth(
        client, shop
    )
    assert len({row.state for row in shown}) >= 5
    _judge_the_rest(shop)
    client.close()


def _judge_the_rest(shop: Shop) -> None:
    """Every order was opened once and shipped once or never, its stock adds up, and nothing is left to do."""
    # The levels are made up: nobody can be told of them.
    left = "SELECT count(*) FROM runs WHERE state NOT IN ('succeeded', 'cancelled') AND job <> 'warehouse.write_back'"
    assert shop.one(left) == 0
    assert shop.one("SELECT count(DISTINCT order_id) FROM checkout_sessions") == ORDERS
    handed = "SELECT count(*) FROM runs WHERE job = 'orders.fulfil' AND state = 'succeeded'"
    assert shop.one(handed) == shop.one("SELECT count(*) FROM fulfilments WHERE handed_at IS NOT NULL") > 0
    assert shop.one("SELECT count(*) FROM events WHERE duplicates > 0") > 0
    assert shop.one("SELECT count(*) FROM events WHERE type LIKE 'v1.%'") > 0
    assert orders.check_reservations(shop.context()) == {"levels": 2, "wrong": 0}
    again = stripe.reconcile(shop.context()) or {}
    assert {kind: counts["recovered"] for kind, counts in again.items()} == dict.fromkeys(snapshots.KINDS, 0)

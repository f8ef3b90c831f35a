"""What the stand-ins send arrives, signed so that the official packages agree, at least once."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import stripe
from standardwebhooks import Webhook

from sandbox.upstreams import Upstreams


@dataclass
class Receiver:
    """A real server that keeps what it gets; the first `failures` posts are answered with 503."""

    failures: int = 0
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.got.append((self.path, {name.lower(): text for name, text in self.headers.items()}, body))
            self.send_response(503 if len(kept.got) <= kept.failures else 204)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kept.url = f"http://127.0.0.1:{server.server_port}"
    yield kept
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    with Upstreams.start(products=200, stores=4) as running:
        yield running


@pytest.fixture
def sending(upstreams: Upstreams, receiver: Receiver) -> Iterator[Upstreams]:
    upstreams.admin.reset_faults()
    upstreams.admin.send_webhooks_to(receiver.url)
    yield upstreams
    upstreams.admin.send_webhooks_to(None)


def test_a_sale_arrives_as_a_signed_stock_change(sending: Upstreams, receiver: Receiver) -> None:
    outcome = sending.admin.sell(50, wait_s=30)
    assert outcome["delivered"]
    assert outcome["messages"] == len(receiver.got) >= 40
    for path, headers, body in receiver.got:
        assert path == "/webhooks/warehouse"
        message = Webhook(sending.webhook_secret).verify(body, headers)
        assert set(message) == {"type", "timestamp", "data"}
    truth = {item["id"]: item for item in [*sending.admin.levels(), *sending.admin.products()]}
    latest: dict[str, Any] = {}
    for event in sorted(receiver.events(), key=lambda event: event["data"]["version"]):
        latest[event["data"]["id"]] = event["data"]
    assert all(truth[item_id] == item for item_id, item in latest.items())


def test_changes_prices_and_deletions_have_events_of_their_own(sending: Upstreams, receiver: Receiver) -> None:
    sending.admin.sell(850, wait_s=60)
    kinds = Counter(event["type"] for event in receiver.events())
    assert set(kinds) == {*("inventory_level.updated", "inventory_level.deleted", "product.updated", "product.deleted")}
    deleted = [event["data"]["deleted"] for event in receiver.events() if event["type"].endswith(".deleted")]
    assert all(deleted)


def test_a_refused_webhook_comes_again_under_the_same_id_and_a_fresh_signature(
    sending: Upstreams, receiver: Receiver
) -> None:
    receiver.failures = 3
    level = next(sending.admin.levels())
    before = sending.admin.stats()["webhooks"]["warehouse"]
    sending.admin.change_level(level["id"], on_hand=1)
    assert sending.admin.sell(1, wait_s=30)["delivered"]
    ids = Counter(headers["webhook-id"] for _, headers, _ in receiver.got)
    after = sending.admin.stats()["webhooks"]["warehouse"]
    assert sum(ids.values()) == after["sent"] - before["sent"] == len(ids) + 3
    assert after["failed"] - before["failed"] == 3
    assert after["pending"] == 0
    for _, headers, body in receiver.got:
        Webhook(sending.webhook_secret).verify(body, headers)


def test_a_receiver_that_is_away_gets_everything_once_it_is_back(sending: Upstreams, receiver: Receiver) -> None:
    sending.admin.send_webhooks_to("http://127.0.0.1:9")
    outcome = sending.admin.sell(20)
    assert not outcome["delivered"]
    sending.admin.send_webhooks_to(receiver.url)
    assert sending.admin.sell(1, wait_s=30)["delivered"]
    assert len({headers["webhook-id"] for _, headers, _ in receiver.got}) > outcome["messages"]


def test_duplicates_reordering_and_losses_happen_when_asked_for(sending: Upstreams, receiver: Receiver) -> None:
    sending.admin.faults(webhook_duplicate_rate=0.3, webhook_reorder_rate=0.3)
    sending.admin.sell(100, wait_s=30)
    ids = [headers["webhook-id"] for _, headers, _ in receiver.got]
    assert len(ids) > len(set(ids)) >= 80
    stamps = [event["timestamp"] for event in receiver.events()]
    assert stamps != sorted(stamps)
    sending.admin.faults(webhook_loss_rate=1)
    assert sending.admin.sell(10, wait_s=30)["messages"] == 0


def test_live_mode_sells_on_its_own(sending: Upstreams, receiver: Receiver) -> None:
    before = sending.admin.stats()["live"]["sold"]
    sending.admin.live(rate=500)
    deadline = time.monotonic() + 30
    while sending.admin.stats()["live"]["sold"] < before + 20:
        assert time.monotonic() < deadline, "nothing was sold"
    sending.admin.live(rate=0)
    assert sending.admin.sell(1, wait_s=30)["delivered"]
    assert receiver.got


def test_stripe_events_arrive_signed_for_the_official_package(sending: Upstreams, receiver: Receiver) -> None:
    sending.admin.faults(webhook_duplicate_rate=0.2, webhook_reorder_rate=0.2)
    outcome = sending.admin.stripe_events(100, wait_s=30)
    assert outcome["delivered"]
    client = stripe.StripeClient("sk_test_sandbox", base_addresses={"api": sending.stripe_url})
    for path, headers, body in receiver.got:
        assert path == "/webhooks/stripe"
        event = client.construct_event(body, headers["stripe-signature"], sending.stripe_secret)
        assert event["object"] == "event"
    ids = [event["id"] for event in receiver.events()]
    assert len(ids) > len(set(ids)) == outcome["happened"] >= 100
    undelivered = client.v1.events.list({"delivery_success": False})
    assert undelivered.data == []

"""The Stripe client against the stand-in Stripe, and against servers that are not quite Stripe."""

import hashlib
import hmac
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
import stripe as vendor

from integrations import (
    BadDelivery,
    BadSignature,
    IntegrationError,
    NotFound,
    Rejected,
    Throttled,
    Unauthorized,
    Unavailable,
)
from integrations.stripe import API_VERSION, Hint, Stripe, StripeSettings, hint
from sandbox.upstreams import Upstreams
from tests.integrations.scripted import Scripted, hang_up, reply

KEY = "sk_test_hunter2"
SECRET = "whsec_stripe"
NOW = 1_795_400_000
EVENT = {"id": "evt_1", "object": "event", "type": "payment_intent.succeeded", "data": {"object": {"id": "pi_1"}}}
EMPTY = {"object": "list", "data": [], "has_more": False, "url": "/v1/events"}


def _client(base: str) -> Stripe:
    return Stripe(StripeSettings.model_validate({"api_key": KEY, "api_base": base, "webhook_secrets": SECRET}))


@pytest.fixture
def stripe(upstreams: Upstreams) -> Iterator[Stripe]:
    upstreams.admin.stripe_events(25)
    made = _client(upstreams.stripe_url)
    yield made
    made.close()


@pytest.fixture
def odd(server: Scripted) -> Iterator[Stripe]:
    """A client of the scripted server."""
    made = _client(server.url)
    yield made
    made.close()


def test_events_are_walked_over_pages_newest_first(stripe: Stripe) -> None:
    events = list(stripe.events(page_size=7))
    assert len(events) >= 25
    assert len({event["id"] for event in events}) == len(events)
    assert [event["created"] for event in events] == sorted((event["created"] for event in events), reverse=True)
    assert {event["object"] for event in events} == {"event"}


def test_events_after_a_known_one_come_oldest_first(stripe: Stripe) -> None:
    newest_first = [event["id"] for event in stripe.events()]
    assert [event["id"] for event in stripe.events(after=newest_first[20], page_size=6)] == newest_first[19::-1]
    assert list(stripe.events(after=newest_first[0])) == []


def test_events_can_be_asked_for_by_type(stripe: Stripe) -> None:
    kind = "payment_intent.succeeded"
    assert {event["type"] for event in stripe.events(types=[kind])} == {kind}


def test_events_since_a_moment_are_asked_for_in_whole_seconds(server: Scripted, odd: Stripe) -> None:
    server.will(reply(200, EMPTY))
    assert list(odd.events(since=datetime.fromtimestamp(NOW, UTC))) == []
    assert f"created[gte]={NOW}" in server.seen[0].path.replace("%5B", "[").replace("%5D", "]")


def test_the_object_of_an_event_is_fetched_as_it_is_now(stripe: Stripe) -> None:
    event = next(iter(stripe.events(types=["payment_intent.succeeded"])))
    intent = stripe.fetch("payment_intent", event["data"]["object"]["id"], expand=["latest_charge"])
    assert intent["object"] == "payment_intent"
    assert intent["latest_charge"]["object"] == "charge"
    orjson.dumps(intent)  # plain data, ready for a column
    with pytest.raises(NotFound) as caught:
        stripe.fetch("charge", "ch_none")
    assert caught.value.code == "resource_missing"


def test_the_probe_is_content_with_a_stripe_that_answers(stripe: Stripe) -> None:
    stripe.probe()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"error": {"message": f"Invalid API Key provided: {KEY}"}}, Unauthorized),
        (400, {"error": {"code": "parameter_unknown", "message": f"no {KEY}"}}, Rejected),
        (402, {"error": {"code": "card_declined", "type": "card_error"}}, Rejected),
        (429, {"error": {"code": "rate_limit"}}, Throttled),
        (501, b"<html>", Unavailable),
        (200, b"<html>", Unavailable),
        (200, b"[]", Unavailable),
        (200, b"null", Unavailable),
        (200, b"{}", Unavailable),
        (200, b'{"data": 5}', Unavailable),
    ],
)
def test_every_answer_that_is_no_list_has_its_error(
    server: Scripted, odd: Stripe, status: int, body: object, kind: type[IntegrationError]
) -> None:
    server.will(reply(status, body))
    with pytest.raises(IntegrationError) as caught:
        list(odd.events())
    assert type(caught.value) is kind
    assert caught.value.upstream == "stripe"
    assert KEY not in str(caught.value)
    assert len(server.seen) == 1


def test_momentary_trouble_is_survived_by_our_tries_alone(server: Scripted, odd: Stripe) -> None:
    server.will(reply(500, {"error": {}}, {"Stripe-Should-Retry": "true"}), hang_up, reply(200, EMPTY))
    assert list(odd.events()) == []
    server.seen.clear()
    server.will(reply(500, {"error": {}}, {"Stripe-Should-Retry": "true"}))
    with pytest.raises(Unavailable):
        list(odd.events())
    assert len(server.seen) == 3


def test_an_id_that_is_no_id_is_refused_before_anything_is_sent(server: Scripted, odd: Stripe) -> None:
    server.will(reply(404, {"error": {}}))
    with pytest.raises(Rejected):
        odd.fetch("charge", "../../v1/balance?x=")
    assert all(seen.path.startswith("/v1/charges/") for seen in server.seen)


def test_nothing_is_measured_or_written_behind_our_back(
    server: Scripted, odd: Stripe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    server.will(reply(200, EMPTY))
    odd.probe()
    odd.probe()
    assert list(tmp_path.iterdir()) == []
    assert not [name for seen in server.seen for name in seen.headers if "telemetry" in name]


def test_the_version_of_the_api_is_pinned_to_the_one_whose_shapes_the_client_knows(
    server: Scripted, odd: Stripe
) -> None:
    server.will(reply(200, EMPTY))
    odd.probe()
    assert server.seen[0].headers["stripe-version"] == API_VERSION == vendor.api_version


def test_a_request_that_is_still_under_way_is_asked_for_again_later(server: Scripted, odd: Stripe) -> None:
    server.will(reply(409, {"error": {"type": "idempotency_error", "message": "in progress"}}))
    with pytest.raises(Unavailable, match="still busy"):
        odd.expire_checkout("cs_1")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"data": {"object": {"id": "x_1", "object": "refund"}}, "api_version": "v"}, Hint("refund", "x_1", "v")),
        ({"related_object": {"id": "x_1", "type": "v1.dispute"}}, Hint("dispute", "x_1", None)),
        ({"related_object": {"id": "x_1", "type": "checkout.session"}}, Hint("checkout.session", "x_1", None)),
        ({"related_object": {"id": "x_1", "type": "v2.core.account"}}, None),
        ({"data": {"object": {"object": "refund"}}}, None),
        ({"data": {"object": ["refund"]}}, None),
    ],
)
def test_an_event_names_an_object_whether_it_is_thin_or_not(body: object, kind: Hint | None) -> None:
    assert hint(orjson.dumps(body)) == kind


def _signed(body: bytes, timestamp: int = NOW) -> list[tuple[str, str]]:
    digest = hmac.new(SECRET.encode(), b"%d.%b" % (timestamp, body), hashlib.sha256).hexdigest()
    return [("stripe-signature", f"t={timestamp},v1={digest}")]


def test_a_delivery_says_what_happened_to_what(odd: Stripe) -> None:
    body = orjson.dumps(EVENT)
    delivery = odd.verify(_signed(body), body, NOW)
    assert (delivery.external_id, delivery.type, delivery.subject) == ("evt_1", "payment_intent.succeeded", "pi_1")


def test_a_thin_event_is_read_too(odd: Stripe) -> None:
    thin = {"id": "evt_2", "object": "v2.core.event", "type": "v1.refund.updated", "related_object": {"id": "re_1"}}
    body = orjson.dumps(thin)
    delivery = odd.verify(_signed(body), body, NOW)
    assert (delivery.external_id, delivery.type, delivery.subject) == ("evt_2", "v1.refund.updated", "re_1")


def test_a_forged_or_stale_delivery_is_refused(odd: Stripe) -> None:
    body = orjson.dumps(EVENT)
    for now, sent, reason in ((NOW, body + b" ", "mismatch"), (NOW + 301, body, "stale"), (NOW - 301, body, "early")):
        with pytest.raises(BadSignature) as caught:
            odd.verify(_signed(body), sent, now)
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"[" * 100_000, b"[]", b"null", b"1", b"{}", b"NaN",
             orjson.dumps({**EVENT, "object": "charge"}), orjson.dumps({**EVENT, "object": ["event"]}),
             orjson.dumps({**EVENT, "id": None}), orjson.dumps({**EVENT, "id": ""}),
             orjson.dumps({**EVENT, "type": 1})],
)  # fmt: skip
def test_a_genuine_delivery_that_is_no_event_is_a_bad_delivery(odd: Stripe, body: bytes) -> None:
    with pytest.raises(BadDelivery):
        odd.verify(_signed(body), body, NOW)


def test_what_the_stand_in_really_sends_is_believed_and_no_longer_missing(
    upstreams: Upstreams, server: Scripted
) -> None:
    settings = {"api_key": KEY, "api_base": upstreams.stripe_url, "webhook_secrets": "whsec_sandbox_stripe_secret"}
    stripe = Stripe(StripeSettings.model_validate(settings))
    upstreams.admin.send_webhooks_to(server.url)
    assert upstreams.admin.stripe_events(5, wait_s=20)["delivered"]
    upstreams.admin.send_webhooks_to(None)
    ours = [seen for seen in server.seen if seen.path == "/webhooks/stripe"]
    known = {event["id"] for event in stripe.events()}
    missing = {event["id"] for event in stripe.events(undelivered=True)}
    arrived = {stripe.verify(seen.headers, seen.body, time.time()).external_id for seen in ours}
    assert arrived
    assert arrived <= known
    assert arrived.isdisjoint(missing)

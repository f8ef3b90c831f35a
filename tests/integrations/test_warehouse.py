"""The warehouse client against the stand-in warehouse, and against servers that break the contract."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from integrations import (
    BadDelivery,
    BadSignature,
    CursorExpired,
    IntegrationError,
    NotFound,
    Rejected,
    Throttled,
    Unauthorized,
    Unavailable,
)
from integrations.warehouse import LevelItem, Page, ProductItem, Warehouse, WarehouseSettings
from sandbox.upstreams import Upstreams
from tests.integrations.scripted import Scripted, reply

SECRET = "whsec_" + base64.b64encode(b"w" * 32).decode()
STANDING_SECRET = "whsec_c2FuZGJveC13YXJlaG91c2Utc2VjcmV0"
NOW = 1_795_400_000
LEVEL = {
    "id": "il_1", "sku": "S", "location_id": "loc_1", "on_hand": 1, "reserved": 0, "incoming": 0,
    "updated_at": "2026-11-23T05:00:00Z", "version": 1, "deleted": False,
}  # fmt: skip
LAST = {"next_cursor": None, "has_more": False}


def _client(url: str, token: str) -> Warehouse:
    return Warehouse(WarehouseSettings.model_validate({"url": url, "token": token, "webhook_secrets": SECRET}))


@pytest.fixture
def warehouse(upstreams: Upstreams) -> Iterator[Warehouse]:
    made = _client(upstreams.warehouse_url, upstreams.token)
    yield made
    made.close()


@pytest.fixture
def odd(server: Scripted) -> Iterator[Warehouse]:
    """A client of the scripted server."""
    made = _client(server.url, "t")
    yield made
    made.close()


def _walk(ask: Callable[..., Page[LevelItem]] | Callable[..., Page[ProductItem]], **question: Any) -> list[Any]:
    items: list[Any] = []
    cursor = None
    while True:
        page = ask(cursor=cursor, **question)
        assert page.rejects == []
        items.extend(page.items)
        if not page.has_more:
            return items
        cursor = page.next_cursor


def test_a_walk_sees_every_item_once_in_the_order_of_change(warehouse: Warehouse, upstreams: Upstreams) -> None:
    levels = _walk(warehouse.levels, limit=17)
    truth = {item["id"]: item["on_hand"] for item in upstreams.admin.levels()}
    assert {level.id: level.on_hand for level in levels} == truth
    assert len(levels) == len(truth)
    assert [level.updated_at for level in levels] == sorted(level.updated_at for level in levels)
    assert len(_walk(warehouse.products, limit=7)) == sum(1 for _ in upstreams.admin.products())


def test_a_question_since_a_moment_includes_that_moment(warehouse: Warehouse) -> None:
    last = _walk(warehouse.levels)[-1]
    assert last.id in {level.id for level in _walk(warehouse.levels, updated_since=last.updated_at)}
    assert _walk(warehouse.levels, updated_since=last.updated_at + timedelta(microseconds=1)) == []


def test_a_moment_is_asked_for_in_utc(server: Scripted, odd: Warehouse) -> None:
    server.will(reply(200, {"data": [], "page": LAST}))
    odd.levels(updated_since=datetime.fromisoformat("2026-11-23T06:00:00+01:00"))
    assert "updated_since=2026-11-23T05%3A00%3A00.000000Z" in server.seen[0].path


def test_an_unchanged_listing_is_told_cheaply(warehouse: Warehouse, upstreams: Upstreams) -> None:
    first = warehouse.products()
    again = warehouse.products(etag=first.etag)
    assert (again.not_modified, again.items, again.has_more, again.etag) == (True, [], False, first.etag)
    upstreams.admin.change_product(first.items[0].id, name="Renamed")
    changed = warehouse.products(etag=first.etag)
    assert not changed.not_modified
    assert changed.items[-1].name == "Renamed"


def test_a_page_knows_the_time_by_the_warehouses_clock(warehouse: Warehouse, upstreams: Upstreams) -> None:
    upstreams.admin.faults(clock_skew_s=86_400)
    ahead = warehouse.products(limit=1).as_of - datetime.now(UTC)
    assert timedelta(hours=23) < ahead < timedelta(hours=25)
    assert warehouse.products(limit=1).as_of.utcoffset() == timedelta(0)


def test_one_thing_is_fetched_by_its_id(warehouse: Warehouse) -> None:
    level = warehouse.levels(limit=1).items[0]
    product = warehouse.products(limit=1).items[0]
    assert warehouse.level(level.id) == level
    assert warehouse.product(product.id) == product
    with pytest.raises(NotFound):
        warehouse.level("il_none")
    with pytest.raises(NotFound):
        warehouse.product("../../admin/stats?x=")


def test_deleted_things_are_listed_as_such_and_not_found_by_id(warehouse: Warehouse, upstreams: Upstreams) -> None:
    level = warehouse.levels(limit=1).items[0]
    upstreams.admin.change_level(level.id, deleted=True)
    tombstones = [item.id for item in _walk(warehouse.levels) if item.deleted]
    assert level.id in tombstones
    assert level.id not in {item.id for item in _walk(warehouse.levels, include_deleted=False)}
    with pytest.raises(NotFound):
        warehouse.level(level.id)


def test_a_negative_stock_is_let_in(warehouse: Warehouse, upstreams: Upstreams) -> None:
    level = next(item for item in _walk(warehouse.levels) if not item.deleted)
    upstreams.admin.change_level(level.id, on_hand=-5)
    assert warehouse.level(level.id).on_hand == -5


def test_every_location_is_listed(warehouse: Warehouse) -> None:
    assert len(warehouse.locations()) == 4
    assert {level.location_id for level in _walk(warehouse.levels)} == {loc.id for loc in warehouse.locations()}


def test_malformed_items_stand_beside_the_good_ones(warehouse: Warehouse, upstreams: Upstreams) -> None:
    upstreams.admin.faults(malformed_rate=0.3)
    page = warehouse.levels()
    assert page.items
    assert page.rejects
    assert len(page.items) + len(page.rejects) == 120
    assert all(reject.reason for reject in page.rejects)
    # By id the same items are sound (unless deleted meanwhile): that is how the quarantine heals.
    alive = [reject for reject in page.rejects if isinstance(reject.raw, dict) and not reject.raw.get("deleted")]
    named = [reject.external_id for reject in alive if reject.external_id]
    assert [warehouse.level(name).id for name in named] == named


def test_an_item_still_malformed_by_id_is_rejected(warehouse: Warehouse, upstreams: Upstreams) -> None:
    upstreams.admin.faults(malformed_rate=1.0, malformed_sticky=True)
    name = next(reject.external_id for reject in warehouse.products().rejects if reject.external_id)
    with pytest.raises(Rejected) as caught:
        warehouse.product(name)
    assert caught.value.code == "malformed_item"


@pytest.mark.parametrize("question", [{"include_deleted": False}, {"updated_since": datetime(2026, 1, 1, tzinfo=UTC)}])
def test_a_cursor_taken_to_another_question_has_expired(warehouse: Warehouse, question: dict[str, Any]) -> None:
    cursor = warehouse.levels(limit=1).next_cursor
    with pytest.raises(CursorExpired, match="the walk starts again"):
        warehouse.levels(limit=1, cursor=cursor, **question)


def test_an_old_and_an_invented_cursor_have_expired(warehouse: Warehouse, upstreams: Upstreams) -> None:
    with pytest.raises(CursorExpired):
        warehouse.levels(cursor="invented")
    cursor = warehouse.levels(limit=1).next_cursor
    upstreams.admin.faults(expire_cursors_rate=1.0)
    with pytest.raises(CursorExpired) as caught:
        warehouse.levels(limit=1, cursor=cursor)
    assert caught.value.status == 410


@pytest.mark.parametrize(
    ("faults", "kind"),
    [
        ({"error_rate": 1.0}, (Unavailable, Throttled)),  # a 503 may say for how long
        ({"drop_connections_rate": 1.0}, Unavailable),
        ({"page_not_json_rate": 1.0}, Unavailable),
        ({"gzip_bomb": True}, Unavailable),
        ({"throttle_rate": 1.0, "retry_after_s": 60}, Throttled),
        ({"cross_origin_next": True}, Rejected),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_every_way_to_fail_has_its_error(
    warehouse: Warehouse, upstreams: Upstreams, faults: dict[str, float | bool], kind: Any
) -> None:
    upstreams.admin.faults(**faults)
    with pytest.raises(IntegrationError) as caught:
        warehouse.levels(limit=1)
    assert isinstance(caught.value, kind)
    assert caught.value.upstream == "warehouse"


def test_throttling_by_seconds_and_by_date_asks_for_the_same_wait(warehouse: Warehouse, upstreams: Upstreams) -> None:
    upstreams.admin.faults(throttle_rate=1.0, retry_after_s=60, clock_skew_s=-5000)
    for _ in range(2):
        with pytest.raises(Throttled) as caught:
            warehouse.levels()
        assert caught.value.retry_after == pytest.approx(60, abs=2)


def test_a_wrong_token_is_unauthorized_and_the_probe_says_so(warehouse: Warehouse, upstreams: Upstreams) -> None:
    warehouse.probe()
    with pytest.raises(Unauthorized, match="check that our credential is current"):
        _client(upstreams.warehouse_url, "wrong").probe()


@pytest.mark.parametrize(
    "body",
    [[], None, {}, {"data": {}}, {"data": []}, {"data": [], "page": None}, {"data": [], "page": {"has_more": "no"}},
     {"data": [], "page": {"has_more": True}}, {"data": [], "page": {"has_more": True, "next_cursor": ""}}],
)  # fmt: skip
def test_a_page_that_is_no_whole_page_is_unavailable(server: Scripted, odd: Warehouse, body: object) -> None:
    server.will(reply(200, body))
    with pytest.raises(Unavailable, match=r"answered 200 to GET /v1/inventory-levels with a page"):
        odd.levels()


def test_rejects_carry_what_is_needed_to_fetch_and_to_understand_them(server: Scripted, odd: Warehouse) -> None:
    items = [LEVEL, {**LEVEL, "sku": None}, ["il_2"], {"id": "a\x00b"}, None, {**LEVEL, "id": 5}]
    server.will(reply(200, {"data": items, "page": LAST, "meta": {"as_of": "2026-11-23T05:10:00Z"}}))
    page = odd.levels()
    assert [item.id for item in page.items] == ["il_1"]
    assert [reject.external_id for reject in page.rejects] == ["il_1", None, None, None, None]
    assert page.rejects[0].raw == {**LEVEL, "sku": None}
    assert page.rejects[0].reason == "sku: Input should be a valid string"
    # A database can hold none of these as an object, so they stay text.
    assert [reject.raw for reject in page.rejects[1:4]] == ['["il_2"]', '{"id":"a\\u0000b"}', "null"]
    assert page.as_of == datetime(2026, 11, 23, 5, 10, tzinfo=UTC)


def test_without_a_stated_time_the_date_header_counts(server: Scripted, odd: Warehouse) -> None:
    server.will(reply(200, {"data": [], "page": LAST, "meta": {"as_of": "soon"}}))
    assert abs(odd.levels().as_of - datetime.now(UTC)) < timedelta(minutes=1)


def test_only_a_next_link_is_held_against_our_address(server: Scripted, odd: Warehouse) -> None:
    link = '<https://docs.example/>; rel="help", </v1/inventory-levels?cursor=x>; rel="next"'
    server.will(reply(200, {"data": [], "page": LAST}, {"Link": link}))
    assert odd.levels().items == []
    server.will(reply(200, {"data": [], "page": LAST}, {"Link": "<https://evil.example/>; rel=next"}))
    with pytest.raises(Rejected, match="a link to another server"):
        odd.levels()


@pytest.mark.parametrize(
    "body", [{"data": [{"id": "loc_1"}], "page": LAST}, {"data": [], "page": {"has_more": True, "next_cursor": "x"}}]
)
def test_half_a_list_of_locations_is_unavailable(server: Scripted, odd: Warehouse, body: object) -> None:
    server.will(reply(200, body))
    with pytest.raises(Unavailable):
        odd.locations()


def _signed(body: bytes, timestamp: int = NOW, external_id: str = "msg_1") -> list[tuple[str, str]]:
    digest = hmac.new(b"w" * 32, b"%b.%d.%b" % (external_id.encode(), timestamp, body), hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return [("webhook-id", external_id), ("webhook-timestamp", str(timestamp)), ("webhook-signature", signature)]


def test_a_delivery_says_what_happened_to_what(odd: Warehouse) -> None:
    body = orjson.dumps({"type": "inventory_level.updated", "timestamp": "2026-11-23T05:00:00Z", "data": LEVEL})
    delivery = odd.verify(_signed(body), body, NOW)
    assert (delivery.external_id, delivery.type, delivery.subject) == ("msg_1", "inventory_level.updated", "il_1")
    assert delivery.signed_at == datetime.fromtimestamp(NOW, UTC)
    assert odd.parse_event(body) == ("inventory_level.updated", LevelItem.model_validate(LEVEL))


def test_a_forged_delivery_is_refused(odd: Warehouse) -> None:
    with pytest.raises(BadSignature) as caught:
        odd.verify(_signed(b"{}"), b'{"type":"x"}', NOW)
    assert (caught.value.reason, caught.value.upstream) == ("mismatch", "warehouse")


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"[" * 100_000, b"[]", b"null", b"1", b"{}", b'{"type":1}', b'{"type":""}',
             b'{"type":"a\\u0000"}', b'{"type":"' + b"x" * 256 + b'"}'],
)  # fmt: skip
def test_a_genuine_delivery_that_cannot_be_read_is_a_bad_delivery(odd: Warehouse, body: bytes) -> None:
    with pytest.raises(BadDelivery):
        odd.verify(_signed(body), body, NOW)
    with pytest.raises(BadDelivery):
        odd.parse_event(body)


@pytest.mark.parametrize(
    "event", [{"type": "robot.revolted", "data": LEVEL}, {"type": "product.updated", "data": LEVEL},
              {"type": "product.updated"}, {"type": "inventory_level.updated", "data": {**LEVEL, "on_hand": 1.5}}],
)  # fmt: skip
def test_an_event_of_unknown_type_or_with_a_malformed_item_is_a_bad_delivery(
    odd: Warehouse, event: dict[str, object]
) -> None:
    with pytest.raises(BadDelivery):
        odd.parse_event(orjson.dumps(event))


def test_an_id_too_long_to_keep_is_a_bad_delivery(odd: Warehouse) -> None:
    body = orjson.dumps({"type": "product.updated"})
    assert odd.verify(_signed(body, external_id="m" * 255), body, NOW).external_id == "m" * 255
    with pytest.raises(BadDelivery, match="webhook-id"):
        odd.verify(_signed(body, external_id="m" * 256), body, NOW)


def test_what_the_stand_in_really_sends_is_believed_and_read(upstreams: Upstreams, server: Scripted) -> None:
    settings = {"url": upstreams.warehouse_url, "token": "t", "webhook_secrets": STANDING_SECRET}
    warehouse = Warehouse(WarehouseSettings.model_validate(settings))
    upstreams.admin.send_webhooks_to(server.url)
    assert upstreams.admin.sell(5, wait_s=20)["delivered"]
    upstreams.admin.send_webhooks_to(None)
    ours = [seen for seen in server.seen if seen.path == "/webhooks/warehouse"]
    assert ours
    for seen in ours:
        delivery = warehouse.verify(seen.headers, seen.body, time.time())
        event_type, item = warehouse.parse_event(seen.body)
        assert (delivery.type, delivery.subject) == (event_type, item.id)
    with pytest.raises(BadSignature):
        warehouse.verify(ours[0].headers, ours[0].body.replace(b":", b": ", 1), time.time())

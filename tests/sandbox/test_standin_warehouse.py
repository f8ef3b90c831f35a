"""The stand-in warehouse keeps the contract of the built-in connector, point by point."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from sandbox.upstreams import Upstreams

PRODUCTS, STORES = 60, 5
Item = dict[str, Any]


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    with Upstreams.start(products=PRODUCTS, stores=STORES) as running:
        yield running


@pytest.fixture
def warehouse(upstreams: Upstreams) -> Iterator[httpx.Client]:
    upstreams.admin.reset_faults()
    headers = {"Authorization": f"Bearer {upstreams.token}"}
    with httpx.Client(base_url=upstreams.warehouse_url, headers=headers) as client:
        yield client


def walk(warehouse: httpx.Client, path: str, **filters: str) -> list[Item]:
    items: list[Item] = []
    cursor: dict[str, str] = {}
    while True:
        page = warehouse.get(path, params={**filters, **cursor}).json()
        items += page["data"]
        if not page["page"]["has_more"]:
            assert page["page"]["next_cursor"] is None
            return items
        cursor = {"cursor": page["page"]["next_cursor"]}


def refusal(answer: httpx.Response) -> tuple[int, str]:
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == answer.status_code
    assert set(problem) == {"type", "title", "status", "detail", "code"}
    return answer.status_code, problem["code"]


def test_every_level_of_every_store_is_listed_once_in_order(warehouse: httpx.Client) -> None:
    levels = walk(warehouse, "/v1/inventory-levels", limit="37", include_deleted="true")
    keys = [(level["updated_at"], level["id"]) for level in levels]
    assert len(levels) == PRODUCTS * STORES
    assert keys == sorted(set(keys))
    assert len({level["updated_at"] for level in levels}) < len(levels), "real systems have ties"


def test_items_have_exactly_the_fields_of_the_contract(warehouse: httpx.Client) -> None:
    level = walk(warehouse, "/v1/inventory-levels")[0]
    assert list(level) == [
        *(
            "id",
            "sku",
            "location_id",
            "on_hand",
            "reserved",
            "available",
            "incoming",
            "updated_at",
            "version",
            "deleted",
        )
    ]
    assert level["available"] == level["on_hand"] - level["reserved"]
    assert level["updated_at"].endswith("Z")
    assert len(level["updated_at"]) == len("2026-11-23T05:00:00.123456Z")
    product = walk(warehouse, "/v1/products")[0]
    assert list(product) == ["id", "sku", "name", "brand", "category", "price", "updated_at", "version", "deleted"]
    assert product["price"]["currency"] == "USD"


def test_the_locations_are_the_stores(warehouse: httpx.Client) -> None:
    page = warehouse.get("/v1/locations").json()
    listed = {location["id"] for location in page["data"]}
    assert len(listed) == STORES
    assert listed == {level["location_id"] for level in walk(warehouse, "/v1/inventory-levels")}
    assert page["page"] == {"next_cursor": None, "has_more": False}


@pytest.mark.parametrize("path", ["/v1/products", "/v1/inventory-levels"])
def test_each_item_can_be_fetched_by_its_id(warehouse: httpx.Client, path: str) -> None:
    item = walk(warehouse, path)[3]
    answer = warehouse.get(f"{path}/{item['id']}")
    assert answer.json() == item
    assert warehouse.get(f"{path}/{item['id']}", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert refusal(warehouse.get(f"{path}/{item['id']}0")) == (404, "not_found")


@pytest.mark.parametrize("token", [None, "Bearer wrong", "Basic c2FuZGJveC10b2tlbg==", "Bearer"])
def test_without_the_token_nothing_is_shown(upstreams: Upstreams, token: str | None) -> None:
    headers = {} if token is None else {"Authorization": token}
    answer = httpx.get(f"{upstreams.warehouse_url}/v1/products", headers=headers)
    assert refusal(answer) == (401, "unauthorized")


def test_updated_since_is_inclusive(warehouse: httpx.Client) -> None:
    levels = walk(warehouse, "/v1/inventory-levels")
    since = levels[100]["updated_at"]
    expected = [level for level in levels if level["updated_at"] >= since]
    assert walk(warehouse, "/v1/inventory-levels", updated_since=since, limit="7") == expected
    assert any(level["updated_at"] == since for level in expected)


def test_levels_can_be_filtered_by_location_and_sku(warehouse: httpx.Client) -> None:
    levels = walk(warehouse, "/v1/inventory-levels")
    one = levels[17]
    here = [level for level in levels if level["location_id"] == one["location_id"]]
    assert walk(warehouse, "/v1/inventory-levels", location_id=one["location_id"], limit="9") == here
    of_sku = [level for level in levels if level["sku"] == one["sku"]]
    assert walk(warehouse, "/v1/inventory-levels", sku=one["sku"], limit="2") == of_sku
    both = walk(warehouse, "/v1/inventory-levels", sku=one["sku"], location_id=one["location_id"])
    assert both == [one]
    assert walk(warehouse, "/v1/inventory-levels", sku="nothing") == []
    assert walk(warehouse, "/v1/inventory-levels", location_id="loc_0") == []


@pytest.mark.parametrize("limit", ["0", "501", "-1", "ten", "1.5", "", "9" * 5_000])
def test_a_limit_out_of_range_is_refused(warehouse: httpx.Client, limit: str) -> None:
    assert refusal(warehouse.get("/v1/products", params={"limit": limit})) == (400, "invalid_parameter")


@pytest.mark.parametrize("since", ["yesterday", "2026-11-23", "2026-11-23T05:00:00"])
def test_a_time_without_a_zone_is_refused(warehouse: httpx.Client, since: str) -> None:
    assert refusal(warehouse.get("/v1/products", params={"updated_since": since})) == (400, "invalid_parameter")


def test_unknown_parameters_and_paths_are_refused(warehouse: httpx.Client) -> None:
    assert refusal(warehouse.get("/v1/products?colour=red")) == (400, "unknown_parameter")
    assert refusal(warehouse.get("/v1/products?sku=1")) == (400, "unknown_parameter")
    assert refusal(warehouse.get("/v1/elsewhere")) == (404, "not_found")


def test_a_cursor_is_bound_to_its_list_and_filters(warehouse: httpx.Client) -> None:
    first = warehouse.get("/v1/inventory-levels", params={"limit": "5", "include_deleted": "true"})
    cursor = first.json()["page"]["next_cursor"]
    assert refusal(warehouse.get("/v1/inventory-levels", params={"cursor": cursor})) == (400, "cursor_mismatch")
    other_list = warehouse.get("/v1/products", params={"cursor": cursor, "include_deleted": "true"})
    assert refusal(other_list) == (400, "cursor_mismatch")
    other_limit = {"cursor": cursor, "include_deleted": "true", "limit": "50"}
    assert warehouse.get("/v1/inventory-levels", params=other_limit).status_code == 200
    for forged in ("x", "é", "AAAA" * 20, cursor[:-4]):
        answer = warehouse.get("/v1/inventory-levels", params={"cursor": forged})
        assert refusal(answer) == (400, "cursor_invalid")


def test_an_old_cursor_expires(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    cursor = warehouse.get("/v1/inventory-levels").json()["page"]["next_cursor"]
    upstreams.admin.faults(cursor_lifetime_s=0)
    assert refusal(warehouse.get("/v1/inventory-levels", params={"cursor": cursor})) == (410, "cursor_expired")


def test_the_link_header_leads_to_the_next_page(warehouse: httpx.Client) -> None:
    first = warehouse.get("/v1/products", params={"limit": "4"})
    second = warehouse.get(first.links["next"]["url"]).json()
    ids = [item["id"] for item in first.json()["data"] + second["data"]]
    assert ids == [item["id"] for item in walk(warehouse, "/v1/products")][:8]


def test_an_unchanged_first_page_is_304_until_something_changes(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    first = warehouse.get("/v1/inventory-levels", params={"limit": "5"})
    etag = {"If-None-Match": first.headers["etag"]}
    again = warehouse.get("/v1/inventory-levels", params={"limit": "5"}, headers=etag)
    assert (again.status_code, again.content) == (304, b"")
    assert warehouse.get("/v1/inventory-levels", params={"limit": "6"}, headers=etag).status_code == 200
    # Given a change far behind the first page, a walk must not stop at the first page.
    last = walk(warehouse, "/v1/inventory-levels")[-1]
    upstreams.admin.change_level(last["id"], on_hand=77)
    assert warehouse.get("/v1/inventory-levels", params={"limit": "5"}, headers=etag).status_code == 200


def test_every_answer_tells_its_id_the_date_and_the_budget(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    upstreams.admin.faults(rate_limit=3, rate_window_s=1)
    answers = [warehouse.get("/v1/locations") for _ in range(20)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert refusal(refused[0]) == (429, "rate_limited")
    assert int(refused[0].headers["retry-after"]) == int(refused[0].headers["ratelimit-reset"]) == 1
    assert refused[0].headers["ratelimit-remaining"] == "0"
    assert {answer.headers["ratelimit-limit"] for answer in answers} == {"3"}
    assert len({answer.headers["x-request-id"] for answer in answers}) == 20
    date = parsedate_to_datetime(answers[0].headers["date"])
    assert abs(date - datetime.now(UTC)) < timedelta(seconds=30)


def test_deleted_items_are_tombstones_and_404_by_id(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    product = walk(warehouse, "/v1/products")[0]
    revived = upstreams.admin.change_product(product["id"], deleted=True)
    assert (revived["deleted"], revived["version"]) == (True, product["version"] + 1)
    assert product["id"] not in {item["id"] for item in walk(warehouse, "/v1/products")}
    assert walk(warehouse, "/v1/products", include_deleted="true")[-1]["id"] == product["id"]
    assert refusal(warehouse.get(f"/v1/products/{product['id']}")) == (404, "deleted")
    levels = walk(warehouse, "/v1/inventory-levels", sku=product["sku"], include_deleted="true")
    assert [level["deleted"] for level in levels] == [True] * STORES
    back = upstreams.admin.change_product(product["id"], cents=123)
    assert back["price"] == {"amount": 123, "currency": "USD"}
    assert len(walk(warehouse, "/v1/inventory-levels", sku=product["sku"])) == STORES


def test_an_adjustment_happens_once_per_key(warehouse: httpx.Client) -> None:
    level = walk(warehouse, "/v1/inventory-levels")[0]
    body = {
        "sku": level["sku"],
        "location_id": level["location_id"],
        "delta": -5,
        "reason": "damaged",
        "expected_version": level["version"],
    }
    answers = [
        warehouse.post("/v1/inventory-adjustments", json=body, headers={"Idempotency-Key": "once"}) for _ in range(3)
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert answers[0].json() == answers[2].json() == warehouse.get(f"/v1/inventory-levels/{level['id']}").json()
    assert answers[0].json()["on_hand"] == level["on_hand"] - 5
    assert answers[0].json()["version"] == level["version"] + 1
    assert answers[2].headers["idempotent-replayed"] == "true"


def test_stale_reused_keyless_and_senseless_adjustments_are_refused(warehouse: httpx.Client) -> None:
    level = walk(warehouse, "/v1/inventory-levels")[0]
    body = {"inventory_level_id": level["id"], "delta": 1, "reason": "found"}

    def post(changes: dict[str, Any], key: str = "") -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return warehouse.post("/v1/inventory-adjustments", json={**body, **changes}, headers=headers)

    assert refusal(post({"expected_version": level["version"] + 1}, "stale")) == (409, "stale_version")
    assert post({}, "used").status_code == 201
    assert refusal(post({"delta": 2}, "used")) == (422, "idempotency_key_reused")
    assert refusal(post({})) == (400, "idempotency_key_required")
    assert refusal(post({"delta": "2"}, "text")) == (400, "invalid_body")
    assert refusal(post({"inventory_level_id": "il_0"}, "unknown")) == (404, "not_found")


def test_the_catalogue_is_the_real_one_and_stable(warehouse: httpx.Client) -> None:
    products = {item["sku"]: item for item in walk(warehouse, "/v1/products")}
    bananas = products["SKU-1082185"]
    assert (bananas["name"], bananas["category"]) == ("Bananas 40 LB", "Produce > Tropical Fruit")
    assert bananas["brand"] == "National 2"


def test_the_snapshot_is_what_a_full_walk_finds(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    upstreams.admin.sell(200)
    for path, truth in (
        ("/v1/products", upstreams.admin.products()),
        ("/v1/inventory-levels", upstreams.admin.levels()),
    ):
        walked = walk(warehouse, path, include_deleted="true", limit="500")
        assert {item["id"]: item for item in walked} == {item["id"]: item for item in truth}

"""Each failure switch does to a client what it says, and nothing once it is back at rest."""

import gzip
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from sandbox.upstreams import Upstreams

LEVELS = "/v1/inventory-levels"


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    with Upstreams.start(products=100, stores=5) as running:
        yield running


@pytest.fixture
def warehouse(upstreams: Upstreams) -> Iterator[httpx.Client]:
    upstreams.admin.reset_faults()
    headers = {"Authorization": f"Bearer {upstreams.token}"}
    with httpx.Client(base_url=upstreams.warehouse_url, headers=headers) as client:
        yield client


def pages(warehouse: httpx.Client, limit: int) -> Iterator[list[Any]]:
    parameters = {"limit": str(limit), "include_deleted": "true"}
    while True:
        page = warehouse.get(LEVELS, params=parameters).json()
        yield page["data"]
        if not page["page"]["has_more"]:
            return
        parameters["cursor"] = page["page"]["next_cursor"]


def test_errors_come_in_about_the_share_asked_for(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    upstreams.admin.faults(error_rate=0.5)
    statuses = [warehouse.get("/v1/locations").status_code for _ in range(60)]
    assert 10 < statuses.count(200) < 50
    assert {500, 502, 503} >= set(statuses) - {200} != set()


def test_a_busy_warehouse_says_when_to_come_back(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    upstreams.admin.faults(busy_rate=1, retry_after_s=4)
    answer = warehouse.get("/v1/locations")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "4")


def test_throttling_asks_for_seconds_and_dates_in_turn(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    upstreams.admin.faults(throttle_rate=1, retry_after_s=7)
    answers = [warehouse.get("/v1/locations") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [429, 429]
    seconds, date = sorted((answer.headers["retry-after"] for answer in answers), key=len)
    assert seconds == "7"
    assert 5 <= (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds() <= 8


def test_latency_makes_every_answer_wait(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    upstreams.admin.faults(latency_ms=120)
    assert warehouse.get("/v1/locations").elapsed >= timedelta(milliseconds=115)


@pytest.mark.parametrize("path", [LEVELS, "/v1/products"])
def test_malformed_items_are_the_same_on_every_walk_and_sound_by_id(
    upstreams: Upstreams, warehouse: httpx.Client, path: str
) -> None:
    sound = {item["id"]: item for item in warehouse.get(path, params={"limit": "500"}).json()["data"]}
    upstreams.admin.faults(malformed_rate=0.3)
    listed = [warehouse.get(path, params={"limit": "500"}).json()["data"] for _ in range(2)]
    assert listed[0] == listed[1]
    broken = [item for item in listed[0] if item not in sound.values()]
    assert len(sound) * 0.1 < len(broken) < len(sound) * 0.5
    named = [item["id"] for item in broken if isinstance(item, dict) and "id" in item]
    assert warehouse.get(f"{path}/{named[0]}").json() == sound[named[0]]
    upstreams.admin.faults(malformed_nameless=False)
    listed_with_ids = warehouse.get(path, params={"limit": "500"}).json()["data"]
    assert {item["id"] for item in listed_with_ids} == set(sound)
    assert len(named) < len(broken)
    upstreams.admin.faults(malformed_nameless=True, malformed_sticky=True)
    assert warehouse.get(f"{path}/{named[0]}").json() != sound[named[0]]


def test_a_page_may_be_html_with_status_200(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    upstreams.admin.faults(page_not_json_rate=1)
    answer = warehouse.get(LEVELS)
    assert (answer.status_code, answer.text[:6]) == (200, "<html>")


def test_a_page_repeats_the_end_of_the_one_before(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    undisturbed = [item for page in pages(warehouse, 100) for item in page]
    upstreams.admin.faults(duplicate_items=3)
    walked = list(pages(warehouse, 100))
    assert walked[1][:3] == walked[0][-3:]
    assert max(len(page) for page in walked) == 100
    unique = list({item["id"]: item for page in walked for item in page}.values())
    assert unique == undisturbed


def test_items_move_under_the_cursor_and_are_all_met_in_their_final_state(
    upstreams: Upstreams, warehouse: httpx.Client
) -> None:
    upstreams.admin.faults(moving_items=10)
    walked = [item for page in pages(warehouse, 50) for item in page]
    upstreams.admin.reset_faults()
    last_seen = {item["id"]: item for item in walked}
    assert len(walked) > len(last_seen) == 500
    # What moved while the very last page was served is the next sync's to find.
    missed = [item for item in upstreams.admin.levels() if last_seen[item["id"]] != item]
    assert len(missed) <= 10


def test_cursors_expire_at_random(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    cursor = warehouse.get(LEVELS).json()["page"]["next_cursor"]
    upstreams.admin.faults(expire_cursors_rate=1)
    answer = warehouse.get(LEVELS, params={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (410, "cursor_expired")


def test_connections_drop_in_the_middle_of_the_body(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    upstreams.admin.faults(drop_connections_rate=1)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
        warehouse.get(LEVELS)


def test_a_gzip_bomb_is_small_outside_and_huge_inside(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    upstreams.admin.faults(gzip_bomb=True)
    with warehouse.stream("GET", LEVELS) as answer:
        packed = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert len(packed) < 100_000
    assert len(gzip.decompress(packed)) > 50_000_000


@pytest.mark.parametrize("skew_s", [-3_600, 3_600])
def test_a_wrong_clock_shows_in_the_date_and_the_page(
    upstreams: Upstreams, warehouse: httpx.Client, skew_s: int
) -> None:
    upstreams.admin.faults(clock_skew_s=skew_s)
    answer = warehouse.get("/v1/locations")
    expected = datetime.now(UTC) + timedelta(seconds=skew_s)
    assert abs(parsedate_to_datetime(answer.headers["date"]) - expected) < timedelta(seconds=30)
    assert abs(datetime.fromisoformat(answer.json()["meta"]["as_of"]) - expected) < timedelta(seconds=30)


def test_a_cursor_may_lead_back_to_itself(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    upstreams.admin.faults(cursor_loop=True)
    first = warehouse.get(LEVELS).json()["page"]["next_cursor"]
    assert warehouse.get(LEVELS, params={"cursor": first}).json()["page"] == {"next_cursor": first, "has_more": True}


def test_empty_pages_may_promise_more_for_ever(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    upstreams.admin.faults(endless_empty_pages=True)
    walk = pages(warehouse, 10)
    assert [next(walk) for _ in range(5)] == [[]] * 5


def test_the_next_link_may_lead_elsewhere(upstreams: Upstreams, warehouse: httpx.Client) -> None:
    upstreams.admin.faults(cross_origin_next=True)
    assert warehouse.get(LEVELS).links["next"]["url"].startswith("https://elsewhere.example/v1/inventory-levels?")


def test_unknown_switches_and_positions_are_refused_and_reset_puts_all_back(upstreams: Upstreams) -> None:
    admin = upstreams.admin
    for wrong in ({"error_rats": 1}, {"error_rate": 2}, {"latency_ms": -1}):
        with pytest.raises(httpx.HTTPStatusError, match="422"):
            admin.faults(**wrong)
    resting = admin.reset_faults()
    assert admin.faults(error_rate=1)["error_rate"] == 1
    assert admin.reset_faults() == resting == admin.faults()

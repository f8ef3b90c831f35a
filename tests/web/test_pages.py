"""The pages and the JSON beside them, as they arrive without a script."""

import re
from datetime import UTC, datetime

import httpx
import pytest
from sqlalchemy import Engine, text

from tests.web.people import SECRETS
from tests.web.serving import until
from tests.web.shop import fill, trouble

EVERYWHERE = ("/", "/nope", "/api/docs", "/api/nope", "/health", "/metrics", "/webhooks/x", "/static/headrace.css")


@pytest.fixture
def shop(client: httpx.Client, engine: Engine) -> httpx.Client:
    """A client of a web process that already shows this filled shop, and not that of the test before."""
    with engine.begin() as connection:
        fill(connection)
    with engine.connect() as connection:
        filled_at = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    until(lambda: taken_at(client) > filled_at)
    return client


def taken_at(client: httpx.Client) -> datetime:
    """Return the moment, by the database's clock, of what the web process shows now."""
    seen = client.get("/api/v1/overview").json()["overview"]
    return datetime.fromisoformat(seen["taken_at"]) if seen else datetime.min.replace(tzinfo=UTC)


@pytest.mark.parametrize("path", EVERYWHERE)
def test_every_answer_carries_the_headers_that_keep_a_browser_safe(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_an_empty_system_teaches_how_to_begin(client: httpx.Client) -> None:
    until(lambda: "No run yet." in client.get("/").text)
    page = client.get("/").text
    for sentence in (
        "No stock has moved yet.",
        "No webhook yet.",
        "No index yet.",
        "No stream yet.",
        "No schedule yet.",
    ):
        assert sentence in page


def test_the_page_says_first_and_in_words_that_everything_flows(shop: httpx.Client) -> None:
    # A busy machine may let the search server's answer come too late for one look: that look is not green.
    until(lambda: "Everything flows: 2 workers at work" in shop.get("/").text)
    page = shop.get("/").text
    assert page.index("Everything flows") < page.index("Runs by state")


def test_the_page_shows_the_numbers_that_are_in_the_database(shop: httpx.Client) -> None:
    page = shop.get("/").text
    assert re.search(r"succeeded</dt><dd>901</dd>", page)
    assert re.search(r"<dt>products</dt><dd>1,234</dd>", page)
    assert re.search(r"<dt>accepted</dt><dd>391</dd>", page)
    assert re.search(r"<dt>drift at last check</dt><dd>0</dd>", page)


def test_every_table_has_a_caption_and_scoped_headings_and_every_time_its_exact_value(shop: httpx.Client) -> None:
    page = shop.get("/").text
    assert page.count("<table") == page.count("<caption") == 6
    assert "<th>" not in page
    assert re.search(r'<time datetime="\d{4}-[^"]+" title="\d{4}-\d\d-\d\d [^"]+ UTC">', page)


def test_the_live_fragment_is_the_part_of_the_page_that_changes(shop: httpx.Client) -> None:
    fragment = shop.get("/", params={"fragment": "live"}).text
    assert "<html" not in fragment
    assert "Latest stock movements" in fragment


def test_troubles_are_listed_with_what_to_do(shop: httpx.Client, engine: Engine) -> None:
    with engine.begin() as connection:
        trouble(connection)
    until(lambda: "No relay is alive" in shop.get("/").text)
    page = shop.get("/").text
    assert "1 thing broken, 4 to look at" in page
    assert "<code>headrace queues resume stripe</code>" in page
    assert "set STRIPE_API_KEY" not in page.partition("Recent runs")[0]


def test_what_upstreams_and_errors_say_cannot_become_markup(client: httpx.Client, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO runs (job, queue, args, state, max_attempts, error)"
                " VALUES ('<b>x</b>', '<i>q', '{}', 'dead', 1, '<script>alert(1)</script>')"
            )
        )
        connection.execute(text("INSERT INTO queues VALUES ('<u>', now(), '<em>', '`<s>`')"))
    until(lambda: "alert(1)" in client.get("/").text)
    page = client.get("/").text
    for tag in ("<script>alert", "<b>", "<i>", "<u>", "<em>", "<s>"):
        assert tag not in page


def test_arguments_and_bodies_are_not_shown(client: httpx.Client, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO runs (job, queue, args, state, max_attempts) "
                """VALUES ('a.b', 'q', '{"card": "never shown"}', 'waiting', 1)"""
            )
        )
        connection.execute(
            text(
                "INSERT INTO events (source, external_id, type, verdict, headers, body)"
                " VALUES ('s', '1', 'x', 'ignored', '{}', 'a secret, never shown')"
            )
        )
    until(lambda: "a.<wbr>b" in client.get("/").text)
    assert "never shown" not in client.get("/").text
    assert "never shown" not in client.get("/api/v1/overview").text


def test_an_unknown_address_is_a_page_for_people_and_a_problem_for_programs(client: httpx.Client) -> None:
    for_people, for_programs = client.get("/nope"), client.get("/api/nope")
    assert (for_people.status_code, for_programs.status_code) == (404, 404)
    assert for_people.headers["content-type"].startswith("text/html")
    assert "The overview" in for_people.text
    assert for_programs.headers["content-type"] == "application/problem+json"


def test_a_method_that_is_not_taken_is_told_which_is(client: httpx.Client) -> None:
    answer = client.post("/", headers={"Authorization": f"Bearer {SECRETS['admin']}"})
    assert answer.status_code == 405
    assert sorted(answer.headers["allow"].split(", ")) == ["GET", "HEAD"]


def test_a_monitor_may_ask_for_the_head_alone(client: httpx.Client) -> None:
    answer = client.head("/health/live")
    assert (answer.status_code, answer.content) == (200, b"")


def test_the_description_of_the_api_names_what_the_overview_answers(shop: httpx.Client) -> None:
    schema = shop.get("/api/openapi.json").json()
    answer = shop.get("/api/v1/overview").json()
    described = schema["components"]["schemas"]["Snapshot"]["properties"]
    assert set(schema["paths"]) == {
        "/api/v1/imports/stock",
        "/api/v1/overview",
        "/api/v1/runs/{run_id}",
        "/api/v1/runs/{run_id}/cancel",
        "/api/v1/schedules/{name}",
    }
    assert set(described) == set(answer["overview"])
    assert answer["overview"]["queues"][0]["name"] == "alerts"
    assert answer["overview"]["index"]["drift"] == 0


def test_a_schedule_has_a_page_with_its_fires_and_what_they_became(shop: httpx.Client, engine: Engine) -> None:
    slot = (
        "INSERT INTO slots (schedule, fire_at, outcome, note) VALUES ('warehouse.sync', :at, 'skipped_paused', :note)"
    )
    with engine.begin() as connection:
        connection.execute(text(slot), {"at": "2026-11-25T04:00Z", "note": "kim had paused it: stocktaking"})
    assert 'href="/schedules/warehouse.sync"' in shop.get("/").text
    page = shop.get("/schedules/warehouse.sync").text
    assert "kim had paused it: stocktaking" in page
    assert page.count('<th scope="row"') >= 20
    asked = shop.get("/schedules/warehouse.sync", params={"at": "2026-11-25T04:00"}).text
    assert "2026-11-25 04:00:00 UTC: it was skipped: kim had paused it: stocktaking" in asked
    told = shop.get("/api/v1/schedules/warehouse.sync").json()
    assert {slot["outcome"] for slot in told["slots"]} == {"ran", "skipped_paused"}
    assert len(told["fires"]) == 20


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/schedules/nothing", 404),
        ("/schedules/%00", 404),
        ("/schedules/%ff", 404),
        ("/schedules/" + "x" * 5_000, 404),
        ("/api/v1/schedules/nothing", 404),
        ("/api/v1/schedules/%00", 404),
        ("/schedules/warehouse.sync?at=%00", 200),
        ("/schedules/warehouse.sync?at=9999-12-31T23:59", 200),
        ("/schedules/warehouse.sync?at=0001-01-01T00:00%2B14:00", 200),
        ("/schedules/warehouse.sync?at=<script>", 200),
        ("/schedules/warehouse.sync?before=" + "9" * 99, 200),
        ("/schedules/warehouse.sync?before=-1", 200),
        ("/schedules/warehouse.sync?before=1&before=2", 200),
    ],
)
def test_no_question_about_a_schedule_is_answered_with_a_mistake(shop: httpx.Client, path: str, status: int) -> None:
    answer = shop.get(path)
    assert answer.status_code == status
    assert "<script>" not in answer.text


def test_the_operations_are_listed_on_a_page_without_anything_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/api/docs").text
    assert "/api/v1/overview" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)


def test_prometheus_reads_the_census_and_the_receiver(shop: httpx.Client) -> None:
    shop.post("/webhooks/nobody")
    metrics = shop.get("/metrics").text
    for line in (
        'headrace_up{part="postgres"} 1.0',
        'headrace_runs{state="succeeded"} 901.0',
        'headrace_queue_waiting{queue="search"} 4.0',
        'headrace_processes{kind="worker"} 2.0',
        "headrace_search_pending_changes 3.0",
        'headrace_webhooks_total{reason="unknown_source",source="unknown",status="404"}',
    ):
        assert line in metrics
    assert re.search(r'headrace_stream_freshness_seconds\{stream="warehouse/products"\} 11\d\d', metrics)


RETURNED = """
    WITH declared AS (
        INSERT INTO schedules (name, rule, zone, next_fire_at) VALUES ('canary.search', 'every 1 min', 'UTC', now())
    ), returned AS (
        INSERT INTO runs (job, queue, args, state, max_attempts, slot_at, finished_at, result)
        SELECT 'canary.search', 'search', '{}', 'succeeded', 3, at - interval '2500 ms', at,
               '{"relay_ms": 1250, "search_ms": 8}' FROM (SELECT now() - interval '30 s' AS at) AS sent
        RETURNING id, slot_at
    )
    INSERT INTO slots (schedule, fire_at, outcome, run_id) SELECT 'canary.search', slot_at, 'ran', id FROM returned
"""


def test_prometheus_reads_the_round_trips_of_the_canaries(client: httpx.Client, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text(RETURNED))
    until(lambda: "headrace_canary_round_trip_seconds{" in client.get("/metrics").text)  # a look is good for a second
    metrics = client.get("/metrics").text
    assert 'headrace_canary_round_trip_seconds{queue="search"} 2.5' in metrics
    assert 'headrace_canary_part_seconds{part="relay",queue="search"} 1.25' in metrics
    assert re.search(r'headrace_canary_age_seconds\{queue="search"\} 3\d\.', metrics)
    assert 'queue="stripe"} ' not in metrics.partition("headrace_canary")[2]


def test_a_run_says_over_the_api_why_it_waits(shop: httpx.Client, engine: Engine) -> None:
    with engine.begin() as connection:
        run_id = connection.execute(text("SELECT max(id) FROM runs WHERE state = 'waiting'")).scalar_one()
    answer = shop.get(f"/api/v1/runs/{run_id}").json()
    assert (answer["id"], answer["state"], answer["waits_for"]["kind"]) == (run_id, "waiting", "due")
    assert answer["why"].startswith("waits until its time comes")
    assert "args" not in answer


def test_a_run_says_over_the_api_what_it_asked_of_the_outside(shop: httpx.Client, engine: Engine) -> None:
    insert = text(
        "INSERT INTO calls (run_id, attempt, place, upstream, method, template, idempotency_key)"
        " SELECT max(id), 99, 3, 'stripe', 'POST', '/v1/refunds', 'k1' FROM runs RETURNING run_id"
    )
    with engine.begin() as connection:
        run_id = connection.execute(insert).scalar_one()
    answer = shop.get(f"/api/v1/runs/{run_id}").json()
    (call,) = answer["calls"]
    assert (call["method"], call["template"], call["outcome"]) == ("POST", "/v1/refunds", "unknown")
    assert (call["idempotency_key"], call["milliseconds"]) == ("k1", None)
    assert answer["calls_left_out"] == {"99": 2}


@pytest.mark.parametrize("run_id", ["0", "999999999", "9" * 30, "one", "-1"])
def test_a_run_that_is_not_there_is_a_problem_and_no_mistake_of_ours(client: httpx.Client, run_id: str) -> None:
    answer = client.get(f"/api/v1/runs/{run_id}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")

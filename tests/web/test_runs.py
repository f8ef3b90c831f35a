"""The page of a run, and cancelling it there and over the API."""

from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text

from tests.web.people import SECRETS
from tests.workers import rows

INSERT = """
    INSERT INTO runs (job, queue, args, state, attempt, failures, max_attempts, process_id, started_at, finished_at,
                      error, progress)
    VALUES ('warehouse.sync', 'warehouse', CAST(:args AS jsonb), :state, 1, 1, 10, :process, now() - interval '5 s',
            CASE WHEN :state IN ('dead', 'succeeded', 'cancelled') THEN now() END, '<b>it broke</b>',
            '{"done": 3, "total": 9}')
    RETURNING id
"""
ENDED = """
    INSERT INTO attempts (run_id, number, started_at, outcome, error_class, error, traceback)
    VALUES (:run, 1, now() - interval '9 s', 'failed', 'OSError', 'no <mill>', 'Traceback: Bearer hunter2')
"""
CALLED = """
    INSERT INTO calls (run_id, attempt, place, upstream, method, template, status, milliseconds, tries)
    VALUES (:run, 1, 1, 'warehouse', 'POST', '/v1/inventory-adjustments', 503, 1250, 3)
"""
SAID = """
    INSERT INTO log_lines (run_id, attempt, line, fields)
    SELECT :run, 1, 'line ' || n || ' <i>', '{"token": "hunter2", "page": 12}' FROM generate_series(1, 300) AS n
"""


@pytest.fixture
def operator(anybody: httpx.Client) -> httpx.Client:
    """A browser of an operator, on a page of ours."""
    anybody.headers.update({"Cookie": f"headrace={SECRETS['operator']}", "Sec-Fetch-Site": "same-origin"})
    return anybody


def insert(engine: Engine, state: str, args: str = "{}") -> int:
    with engine.begin() as connection:
        process = rows.enter(connection)
    return int(rows.one(engine, INSERT, state=state, args=args, process=process))


def audit(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT * FROM audit ORDER BY id")))


def test_the_page_of_a_run_tells_what_runs_show_tells_with_secrets_replaced(
    operator: httpx.Client, engine: Engine
) -> None:
    run_id = insert(engine, "waiting", '{"sku": "00<1", "api_key": "hunter2"}')
    rows.change(engine, ENDED, run=run_id)
    rows.change(engine, CALLED, run=run_id)
    rows.change(engine, SAID, run=run_id)
    page = operator.get(f"/runs/{run_id}").text
    for words in (
        "waits because no live worker serves queue warehouse",
        "1 of 10",
        "&#34;sku&#34;: &#34;00&lt;1&#34;",
        "OSError: no &lt;mill&gt;",
        "warehouse POST /<wbr>v1/<wbr>inventory-adjustments",
        "1,250 ms",
        "line 300 &lt;i&gt;",
        "page=12",
        "3 of 9",
        f"headrace runs show {run_id}",
        f"headrace runs cancel {run_id}",
    ):
        assert words in page, words
    assert "hunter2" not in page
    assert "line 100 " not in page
    for tag in ("<mill>", "<i>", "<b>it"):
        assert tag not in page


def test_only_who_may_cancel_is_offered_to(operator: httpx.Client, client: httpx.Client, engine: Engine) -> None:
    waiting, ended = insert(engine, "waiting"), insert(engine, "succeeded")
    assert "Cancel this run" in operator.get(f"/runs/{waiting}").text
    assert "an operator may cancel it" in client.get(f"/runs/{waiting}").text
    assert "<button" not in client.get(f"/runs/{waiting}").text.partition("<main")[2]
    assert "cancel" not in operator.get(f"/runs/{ended}").text.partition("<main")[2]


@pytest.mark.parametrize(
    ("state", "becomes"), [("waiting", "cancelled"), ("queued", "cancelled"), ("running", "running")]
)
@pytest.mark.parametrize("area", ["", "/api/v1"])
def test_a_run_is_cancelled_once_however_often_it_is_asked(
    operator: httpx.Client, engine: Engine, area: str, state: str, becomes: str
) -> None:
    run_id = insert(engine, state)
    for _ in range(2):
        said = {"reason": "they move \x00 house"}
        sent: dict[str, Any] = {"json": said} if area else {"data": said}
        answer = operator.post(f"{area}/runs/{run_id}/cancel", **sent)
        assert answer.status_code == (200 if area else 303)
        if area:
            assert (answer.json()["state"], answer.json()["id"]) == (becomes, run_id)
            assert answer.json()["cancel_requested_at"]
        else:
            assert answer.headers["location"] == f"/runs/{run_id}"
    row = rows.run_row(engine, run_id)
    assert (row.state, row.cancel_requested_at is not None) == (becomes, True)
    (line,) = audit(engine)
    assert (line.actor, line.role, line.action, line.target) == ("operator", "operator", "runs cancel", str(run_id))
    assert line.details == {"ids": [run_id], "reason": "they move   house"}
    assert "Ask it to stop" not in operator.get(f"/runs/{run_id}").text


@pytest.mark.parametrize("state", ["succeeded", "dead"])
def test_a_run_that_has_ended_is_not_cancelled_and_says_so(operator: httpx.Client, engine: Engine, state: str) -> None:
    run_id = insert(engine, state)
    said = f"run {run_id} has ended already, as {state}"
    page, api = operator.post(f"/runs/{run_id}/cancel"), operator.post(f"/api/v1/runs/{run_id}/cancel")
    assert (page.status_code, f"Nothing was changed: {said}." in page.text) == (409, True)
    assert (api.status_code, api.json()["detail"]) == (409, said)
    assert rows.state(engine, run_id) == state
    assert audit(engine) == []


@pytest.mark.parametrize("run_id", ["0", "999999999", "9" * 30])
def test_a_run_that_is_not_there_is_not_found(operator: httpx.Client, run_id: str) -> None:
    for area in ("", "/api/v1"):
        assert operator.get(f"{area}/runs/{run_id}").status_code == 404
        assert operator.post(f"{area}/runs/{run_id}/cancel").status_code == 404


@pytest.mark.parametrize(
    "body", ['{"reason": 5}', '{"why": "x"}', '{"reason": "' + "x" * 501 + '"}', '{"reason": "\\ud800"}', "{", "[]"]
)
def test_what_the_api_cannot_read_is_a_problem_that_names_the_place(
    operator: httpx.Client, engine: Engine, body: str
) -> None:
    run_id = insert(engine, "waiting")
    headers = {"Content-Type": "application/json"}
    answer = operator.post(f"/api/v1/runs/{run_id}/cancel", content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["detail"].startswith("body")
    assert rows.state(engine, run_id) == "waiting"

"""Signing in and stopping a run, in a real browser and with a real worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import Engine

from sandbox.services import Services
from tests.browser.test_overview import CONTRAST, opened
from tests.web.people import PASSWORD, SECRETS
from tests.web.serving import Web, environment
from tests.workers import rows
from tests.workers.members import Members
from tests.workers.trial_jobs import patient
from workers import relay


@pytest.fixture
def members(services: Services, database_url: str, tmp_path: Path) -> Iterator[Members]:
    """Processes beside the shared web process."""
    made = Members(tmp_path, environment(services, database_url))
    yield made
    made.close()


def test_an_operator_signs_in_and_stops_a_running_run_on_its_page_as_a_program_does_over_the_api(
    browser: Browser, web: Web, engine: Engine, members: Members
) -> None:
    relay.know_queues(engine, [patient.queue])
    with engine.begin() as connection:
        first, second = (patient.enqueue(connection, checks=100_000) for _ in range(2))
    members.start("workers.relay")
    worker = members.start("tests.workers.trial_worker")
    rows.until(lambda: states(engine, first, second) == {"running"}, 60, why=worker.said())

    with opened(browser, web, f"/runs/{first}", role="", java_script_enabled=False) as page:
        page.get_by_label("Name").fill("operator")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text(f"Run {first}")
        page.get_by_label("Reason").fill("stocktaking")
        page.get_by_role("button", name="Ask it to stop").click()
        expect(page.locator(".why")).to_contain_text("stop")
        expect(page.get_by_role("button", name="Ask it to stop")).to_have_count(0)
        page.get_by_text("operator operator").click()
        page.get_by_role("button", name="Sign out", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    with web.client(SECRETS["operator"]) as program:
        assert program.post(f"/api/v1/runs/{second}/cancel").json()["state"] in {"running", "cancelled"}

    rows.until(lambda: states(engine, first, second) == {"cancelled"}, 60, why=worker.said())
    assert rows.outcomes(engine, first) == rows.outcomes(engine, second) == ["cancelled"]
    told = "SELECT array_agg(actor || ' ' || role || ' ' || target ORDER BY id) FROM audit WHERE action = 'runs cancel'"
    assert rows.one(engine, told) == [f"operator operator {first}", f"operator operator {second}"]


def states(engine: Engine, *run_ids: int) -> set[str]:
    return {rows.state(engine, run_id) for run_id in run_ids}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("at", ["/runs/906", "/sign-in"])
def test_a_page_is_whole_and_readable_at_any_width(browser: Browser, web: Web, at: str, scheme: str) -> None:
    for width in (320, 1280):
        with opened(
            browser, web, at, "operator", viewport={"width": width, "height": 800}, color_scheme=scheme
        ) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(CONTRAST) == []

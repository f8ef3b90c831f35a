"""The overview in a real browser: what a person sees, with and without a script, wide and narrow, light and dark."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Engine, text

from tests.web.people import SECRETS
from tests.web.serving import Web


@contextmanager
def opened(browser: Browser, web: Web, at: str = "/", role: str = "viewer", **options: Any) -> Iterator[Page]:
    """Open a page as a user of this role; at the end, nothing may have been complained about on the console."""
    complaints: list[str] = []
    context = browser.new_context(**options)
    if role:
        context.add_cookies([{"name": "headrace", "value": SECRETS[role], "url": web.url, "httpOnly": True}])
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.goto(web.url + at)
    yield page
    page.close()  # what it was still fetching then is no failure of the page
    context.close()
    assert [said for said in complaints if "fragment=live" not in said] == []


def test_the_verdict_and_the_real_numbers_are_shown(browser: Browser, web: Web) -> None:
    with opened(browser, web) as page:
        expect(page.locator("#headline")).to_contain_text("Everything flows: 2 workers at work")
        expect(page.locator(".strip .succeeded dd")).to_have_text("901")
        expect(page.get_by_role("table", name="Latest stock movements").locator("tbody tr")).to_have_count(12)


def test_numbers_change_while_somebody_looks(browser: Browser, web: Web, engine: Engine) -> None:
    with opened(browser, web) as page:
        expect(page.locator(".strip .dead dd")).to_have_text("0")
        with engine.begin() as connection:
            connection.execute(text("UPDATE runs SET state = 'dead', finished_at = now() WHERE id = 900"))
        expect(page.locator(".strip .dead dd")).to_have_text("1", timeout=15_000)
        expect(page.get_by_role("status")).to_contain_text("1 to look at")


def test_a_paused_page_stays_as_it_is_until_it_is_live_again(browser: Browser, web: Web, engine: Engine) -> None:
    with opened(browser, web) as page:
        switch = page.get_by_role("button", name="Live")
        switch.click()
        expect(page.get_by_role("button", name="Paused")).to_have_attribute("aria-pressed", "false")
        with engine.begin() as connection:
            connection.execute(text("UPDATE runs SET state = 'dead', finished_at = now() WHERE id = 900"))
        with pytest.raises(AssertionError):
            expect(page.locator(".strip .dead dd")).to_have_text("1", timeout=5_000)
        page.get_by_role("button", name="Paused").click()
        expect(page.locator(".strip .dead dd")).to_have_text("1", timeout=15_000)


def test_without_a_script_everything_is_there(browser: Browser, web: Web) -> None:
    with opened(browser, web, java_script_enabled=False) as page:
        expect(page.locator(".strip .succeeded dd")).to_have_text("901")
        expect(page.get_by_role("button")).to_have_count(0)
        expect(page.get_by_role("link", name="Reload")).to_be_visible()


@pytest.mark.parametrize("width", [320, 390, 768, 1440, 2200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_at_any_width(browser: Browser, web: Web, width: int, scheme: str) -> None:
    with opened(browser, web, viewport={"width": width, "height": 800}, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        cut = page.evaluate(
            "[...document.querySelectorAll('.card, .strip > div')]"
            ".filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)"
        )
        assert cut == []


@pytest.mark.parametrize("width", [320, 1440])
def test_a_schedule_is_asked_why_it_did_not_run(browser: Browser, web: Web, width: int) -> None:
    with opened(browser, web, viewport={"width": width, "height": 800}) as page:
        page.get_by_role("table", name="Schedules").get_by_role("link", name="warehouse.sync").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("warehouse.sync")
        page.get_by_label("Why did it not run at").fill("2020-01-01T04:30")
        page.get_by_role("button", name="Ask").click()
        expect(page.get_by_role("status")).to_contain_text("it is not planned then")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_stands_out_from_its_background(browser: Browser, web: Web, scheme: str) -> None:
    with opened(browser, web, color_scheme=scheme) as page:
        weak = page.evaluate(CONTRAST)
        assert weak == []


#: Text whose contrast with the nearest opaque background is below 4.5 to 1 (WCAG 1.4.3).
CONTRAST = """() => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const found = channels(getComputedStyle(e).backgroundColor);
      if (found.length < 4 || found[3] > .99) return found;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('body *')]
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
    .filter(e => e.checkVisibility() && !e.closest('.unseen, .skip, .gone, noscript'))
    .map(e => {
      const [a, b] = [light(channels(getComputedStyle(e).color)), light(behind(e))];
      return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.innerText.slice(0, 40)];
    })
    .filter(([ratio]) => ratio < 4.5);
}"""

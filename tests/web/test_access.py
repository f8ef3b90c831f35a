"""Who may do what: every route, for everybody, from everywhere."""

import asyncio
from collections.abc import Iterator, Mapping
from threading import Event

import httpx
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from starlette.responses import PlainTextResponse
from starlette.routing import Mount

from models import Role
from sandbox.services import Services
from tests.web.people import SECRETS
from tests.web.serving import Web, environment
from web import access, guard
from web.app import build
from web.credentials import Caller, Credentials
from web.doors import WEBHOOKS
from web.guard import Guard
from workers import settings, tickets
from workers.runtime import Runtime

#: Every route and the least role it needs, None for everybody. What is missing here fails a test.
NEEDED = {
    ("GET", "/"): Role.VIEWER,
    ("GET", "/runs/{run_id:int}"): Role.VIEWER,
    ("POST", "/runs/{run_id:int}/cancel"): Role.OPERATOR,
    ("GET", "/schedules/{name}"): Role.VIEWER,
    ("GET", "/sign-in"): None,
    ("POST", "/sign-in"): None,
    ("POST", "/sign-out"): Role.VIEWER,
    ("POST", "/sign-out/everywhere"): Role.VIEWER,
    ("GET", "/api/docs"): Role.VIEWER,
    ("GET", "/api/openapi.json"): None,
    ("GET", "/api/v1/overview"): Role.VIEWER,
    ("GET", "/api/v1/runs/{run_id:int}"): Role.VIEWER,
    ("POST", "/api/v1/runs/{run_id:int}/cancel"): Role.OPERATOR,
    ("POST", "/api/v1/imports/stock"): Role.OPERATOR,
    ("GET", "/api/v1/schedules/{name}"): Role.VIEWER,
    ("GET", "/health"): None,
    ("GET", "/health/live"): None,
    ("GET", "/health/ready"): None,
    ("GET", "/metrics"): None,
    ("GET", "/static"): None,
    ("GET", "/webhooks/"): None,
}
#: What a browser sends with a form of our own page, and with one of a page elsewhere.
OURS = [{"Sec-Fetch-Site": "same-origin"}, {"Origin": "<ours>"}]
ELSEWHERE = [
    {},
    {"Origin": "null"},
    {"Origin": "https://evil.example"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://[", "Host": "["},
    {"Sec-Fetch-Site": "cross-site", "Origin": "<ours>"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
]


def routes(services: Services) -> Iterator[tuple[str, str]]:
    """Yield the routes that the application really has."""
    variables = environment(services, "postgresql://nobody@127.0.0.1:9/none")
    with Runtime(settings.load(variables)) as runtime:
        yield "GET", WEBHOOKS  # a door before the guard
        app = build(runtime)._app._app._app  # type: ignore[attr-defined]
        for route in app.routes:
            methods = {"GET"} if isinstance(route, Mount) else route.methods - {"HEAD"}
            yield from ((method, route.path) for method in methods)


def cookie(role: str) -> dict[str, str]:
    return {"Cookie": f"headrace={SECRETS[role]}"}


def from_page(web: Web, headers: dict[str, str]) -> dict[str, str]:
    return {name: value.replace("<ours>", web.url) for name, value in headers.items()}


def ask(client: httpx.Client, method: str, path: str, **headers: str) -> int:
    path = path.replace("{run_id:int}", "1").replace("{name}", "nothing")
    return client.request(method, path, headers=headers).status_code


def test_every_route_is_in_the_table_and_the_table_has_no_other(services: Services) -> None:
    assert set(routes(services)) == set(NEEDED)


def test_what_acts_and_is_not_listed_is_for_admins() -> None:
    assert access.needed("POST", "/something/new") is Role.ADMIN
    assert access.needed("DELETE", "/runs/1") is Role.ADMIN
    assert access.needed("POST", "/runs/1/cancel/more") is Role.ADMIN
    assert access.needed("GET", "/something/new") is Role.VIEWER
    assert access.needed("GET", "/healthy") is Role.VIEWER
    assert access.needed("GET", "/sign-in/more") is Role.VIEWER


@pytest.mark.parametrize(("method", "path"), NEEDED)
def test_each_route_lets_through_who_may_and_nobody_else(
    anybody: httpx.Client, web: Web, method: str, path: str
) -> None:
    role = NEEDED[method, path]
    ours = from_page(web, OURS[0])
    kept = {"/sign-out", "/sign-out/everywhere"}  # a browser that leaves is gone for the next role
    for known in [None, *Role]:
        answer = ask(anybody, method, path, **ours, **(cookie(known) if known else {}))
        if role is None:
            assert answer not in {303, 401}, known
        elif known is None:
            assert answer == (401 if access.for_programs(path) else 303)
        elif not known.covers(role):
            assert answer == 403
        elif path not in kept:
            assert answer not in {303, 401, 403}, known


@pytest.mark.parametrize(("method", "path"), [route for route in NEEDED if route[0] != "GET"])
def test_what_acts_is_refused_when_it_begins_elsewhere_whoever_asks(
    anybody: httpx.Client, web: Web, method: str, path: str
) -> None:
    for headers in ELSEWHERE:
        assert ask(anybody, method, path, **from_page(web, headers), **cookie("admin")) == 403, headers


def test_a_program_without_its_token_is_told_so_and_nobody_signs_in_from_elsewhere(anybody: httpx.Client) -> None:
    assert ask(anybody, "POST", "/api/v1/runs/1/cancel") == 401
    assert ask(anybody, "POST", "/runs/1/cancel") == 303
    assert ask(anybody, "POST", "/sign-in") == 403


def test_a_token_needs_no_page_and_a_wrong_one_is_not_helped_by_a_cookie(anybody: httpx.Client) -> None:
    good, wrong = f"Bearer {SECRETS['operator']}", "Bearer hr_made_up"
    assert ask(anybody, "POST", "/api/v1/runs/1/cancel", Authorization=good) == 404
    assert ask(anybody, "POST", "/api/v1/runs/1/cancel", Authorization=wrong, **cookie("admin")) == 401
    assert ask(anybody, "GET", "/", Authorization=f"bearer  {SECRETS['viewer']}") == 200


def test_a_viewer_who_acts_is_told_in_one_sentence_why_not(anybody: httpx.Client, web: Web) -> None:
    ours = from_page(web, OURS[1]) | cookie("viewer")
    page, api = (anybody.post(f"{area}/runs/1/cancel", headers=ours) for area in ("", "/api/v1"))
    said = "viewer is viewer, and this needs the role operator: ask an admin."
    assert said in page.text
    assert (api.json()["detail"], api.headers["content-type"]) == (said, "application/problem+json")


def test_whoever_is_not_known_is_shown_the_way(anybody: httpx.Client) -> None:
    page = anybody.get("/schedules/a b?at=1&x=%2f")
    assert (page.status_code, page.headers["location"]) == (
        303,
        "/sign-in?next=/schedules/a%2520b%3Fat%3D1%26x%3D%252f",
    )
    part = anybody.get("/?fragment=live", headers={"HX-Request": "true"})
    assert (part.status_code, part.headers["hx-redirect"]) == (401, "/sign-in")
    program = anybody.get("/api/v1/overview")
    assert program.headers["www-authenticate"] == 'Bearer realm="headrace"'
    assert program.headers["content-type"] == "application/problem+json"
    acting = anybody.post("/runs/7/cancel", headers=OURS[0])
    assert acting.headers["location"] == "/sign-in?next=/runs/7"


@pytest.mark.parametrize(
    ("target", "goes_to"),
    [
        ("/runs/7?x=1#y", "/runs/7?x=1#y"),
        ("", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\\b", "/"),
        ("https://evil.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("/\t/evil.example", "/"),
        ("/a\r\nSet-Cookie: x=y", "/"),
        ("/" + "x" * 3_000, "/"),
    ],
)
def test_after_signing_in_people_go_to_places_of_ours_only(target: str, goes_to: str) -> None:
    assert access.local(target) == goes_to


def test_a_role_is_asked_for_with_every_request(anybody: httpx.Client, engine: Engine) -> None:
    assert ask(anybody, "GET", "/", **cookie("viewer")) == 200
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET disabled_at = now() WHERE name = 'viewer'"))
        connection.execute(text("UPDATE users SET role = 'viewer' WHERE name = 'admin'"))
    assert ask(anybody, "GET", "/", **cookie("viewer")) == 303
    assert ask(anybody, "GET", "/", Authorization=f"Bearer {SECRETS['viewer']}") == 401
    assert ask(anybody, "POST", "/runs/1/cancel", **cookie("admin"), **OURS[0]) == 403


def test_an_address_in_the_host_header_opens_nothing(anybody: httpx.Client) -> None:
    for host in ("x/health?", "x/static/", "/sign-in?", "x/webhooks/#"):
        answer = anybody.get("/", headers={"Host": host})
        assert answer.status_code in {303, 400}, host


class Forgetful(Credentials):
    """Knows people as long as Postgres answers, and then hangs or fails."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.hangs: Event | None = None

    def of(self, headers: Mapping[str, str]) -> Caller | None:
        if self.hangs:
            self.hangs.wait(10)
            raise OperationalError("", {}, Exception())
        return super().of(headers)


def test_who_was_seen_lately_goes_on_reading_while_postgres_hangs_and_does_not_act(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.05)
    known = Forgetful(engine)
    app = Guard(PlainTextResponse("inside"), known, lambda *said: PlainTextResponse(said[2], said[1]))

    async def answers() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            ours = cookie("admin") | OURS[0]
            asked = [client.get("/", headers=ours), client.post("/", headers=ours)]
            return [(await answer).status_code for answer in [*asked, client.get("/", headers=cookie("viewer"))]]

    assert asyncio.run(answers()) == [200, 200, 200]
    known._seen.pop(tickets.digest(SECRETS["viewer"]))  # as if this process had never seen them
    known.hangs = Event()
    assert asyncio.run(answers()) == [200, 503, 503]
    known.hangs.set()
    assert asyncio.run(answers()) == [200, 503, 503]

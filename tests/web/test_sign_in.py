"""Signing in: the right ones come in, the wrong ones learn nothing, and nobody can keep somebody else out."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text

from tests.web.people import PASSWORD, SECRETS
from tests.web.serving import Web
from web import throttle
from web.sign_in import WRONG
from workers import passwords
from workers.passwords import Busy, Prover


def enter(client: httpx.Client, name: str, password: str, **more: str) -> httpx.Response:
    """Send the form of the sign-in page as a browser does."""
    headers = {"Origin": str(client.base_url).rstrip("/")}
    return client.post("/sign-in", data={"name": name, "password": password, **more}, headers=headers)


def act(client: httpx.Client, path: str) -> httpx.Response:
    return client.post(path, headers={"Sec-Fetch-Site": "same-origin"})


def audited(engine: Engine, action: str) -> list[Any]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM audit WHERE action = :action ORDER BY id"), {"action": action})
        return list(rows)


def change(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))


def test_the_right_password_opens_the_pages_and_leads_back_to_where_one_was(
    anybody: httpx.Client, engine: Engine
) -> None:
    answer = enter(anybody, "VIEWER", PASSWORD, next="/schedules/x?at=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/schedules/x?at=1")
    kept = answer.headers["set-cookie"]
    assert re.match(r"headrace=[\w-]{43}; HttpOnly; Max-Age=604800; Path=/; SameSite=lax$", kept)
    assert "viewer <span" in anybody.get("/").text
    (line,) = audited(engine, "sign-in")
    assert (line.actor, line.role, line.target) == ("viewer", "viewer", "viewer")
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM sign_ins")).all()
    assert kept.partition("=")[2].partition(";")[0] not in str(rows)


def test_over_tls_the_cookie_goes_to_this_host_and_over_tls_only(anybody: httpx.Client, web: Web) -> None:
    host = web.url.removeprefix("http://")
    answer = anybody.post(
        "/sign-in", data={"name": "viewer", "password": PASSWORD}, headers={"Origin": f"https://{host}"}
    )
    assert re.match(r"__Host-headrace=\S+; HttpOnly; .*Path=/; SameSite=lax; Secure$", answer.headers["set-cookie"])
    secret = answer.headers["set-cookie"].partition(";")[0]
    assert anybody.get("/", headers={"Cookie": secret}).status_code == 200


def test_what_was_in_the_browser_before_is_worth_nothing_after_signing_in(anybody: httpx.Client) -> None:
    planted = {"Cookie": f"headrace={SECRETS['admin']}"}
    assert anybody.get("/", headers=planted).status_code == 200
    anybody.cookies.set("headrace", SECRETS["admin"])
    fresh = enter(anybody, "viewer", PASSWORD).headers["set-cookie"].partition(";")[0]
    anybody.cookies.clear()
    assert fresh != planted["Cookie"]
    assert anybody.get("/", headers={"Cookie": fresh}).status_code == 200
    assert anybody.get("/", headers=planted).status_code == 303


@pytest.mark.parametrize(
    ("name", "password"),
    [("viewer", "wrong"), ("nobody", PASSWORD), ("", ""), ("a\x00b", "\ud800x".encode(errors="replace").decode())],
)
def test_a_wrong_name_and_a_wrong_password_get_the_same_answer(
    anybody: httpx.Client, engine: Engine, name: str, password: str
) -> None:
    answer = enter(anybody, name, password)
    assert (answer.status_code, WRONG in answer.text) == (403, True)
    assert "set-cookie" not in answer.headers
    (line,) = audited(engine, "sign-in refuse")
    assert (line.actor, line.target) == ("unknown", "viewer" if name == "viewer" else "a name that nobody has")


def test_somebody_who_is_disabled_is_like_somebody_who_is_not_there(anybody: httpx.Client, engine: Engine) -> None:
    change(engine, "UPDATE users SET disabled_at = now() WHERE name = 'viewer'")
    assert WRONG in enter(anybody, "viewer", PASSWORD).text


def test_a_wrong_name_takes_a_verification_as_a_wrong_password_does(monkeypatch: pytest.MonkeyPatch) -> None:
    prover, tried = Prover(), list[str]()

    class Hasher:
        def verify(self, kept: str, typed: str) -> bool:
            tried.append(kept)
            return typed == "right"

    monkeypatch.setattr(passwords, "_hasher", Hasher())
    assert not prover.right(None, "right")
    assert prover.right("kept", "right")
    assert tried == [prover._nobody, "kept"]


def test_only_so_many_passwords_are_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "PATIENCE", 0.01)
    prover = Prover(at_once=1)
    with prover._turns, pytest.raises(Busy):
        prover.right(None, "anything")
    assert not prover.right(None, "anything")


def test_signing_out_ends_this_browser_and_signing_out_everywhere_all_of_them(
    web: Web, anybody: httpx.Client, engine: Engine
) -> None:
    with web.client() as second, web.client() as third:
        for browser in (anybody, second, third):
            enter(browser, "viewer", PASSWORD)
        assert act(anybody, "/sign-out").headers["location"] == "/sign-in"
        assert [browser.get("/").status_code for browser in (anybody, second, third)] == [303, 200, 200]
        act(second, "/sign-out/everywhere")
        assert [browser.get("/").status_code for browser in (second, third)] == [303, 303]
    (line,) = audited(engine, "sign-out everywhere")
    assert (line.actor, line.count) == ("viewer", 3)  # and the one that every test has


@pytest.mark.parametrize("end", ["seen_at = now() - interval '13 hours'", "expires_at = now()"])
def test_a_browser_is_signed_out_when_nobody_uses_it_and_after_a_week(
    client: httpx.Client, engine: Engine, end: str
) -> None:
    seen = {"Cookie": f"headrace={SECRETS['operator']}", "Authorization": ""}
    change(engine, "UPDATE sign_ins SET seen_at = now() - interval '11 hours'")
    assert client.get("/", headers=seen).status_code == 200  # which is a sign of life
    with engine.connect() as connection:
        renewed = text("SELECT count(*) FROM sign_ins WHERE seen_at > now() - interval '1 minute'")
        assert connection.execute(renewed).scalar_one() == 1
    change(engine, f"UPDATE sign_ins SET {end}")
    assert client.get("/", headers=seen).status_code == 303


def test_a_token_works_until_it_is_revoked_and_says_when_it_was_used(client: httpx.Client, engine: Engine) -> None:
    assert client.get("/api/v1/overview").status_code == 200
    with engine.connect() as connection:
        used = connection.execute(text("SELECT purpose FROM api_tokens WHERE used_at IS NOT NULL")).scalars().all()
    assert used == ["tests"]
    change(engine, "UPDATE api_tokens SET revoked_at = now()")
    answer = client.get("/api/v1/overview")
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_wrong_passwords_are_throttled_and_the_owner_comes_in_from_elsewhere(
    anybody: httpx.Client, engine: Engine
) -> None:
    codes = [enter(anybody, "admin", f"wrong {number}").status_code for number in range(throttle.MOST_OF_NAME + 2)]
    assert codes == [403] * throttle.MOST_OF_NAME + [429] * 2
    throttled = enter(anybody, "admin", PASSWORD)
    assert throttled.status_code == 429
    assert 800 < int(throttled.headers["retry-after"]) <= throttle.WINDOW
    assert "try again in 1" in throttled.text
    assert enter(anybody, "viewer", PASSWORD).status_code == 303
    with engine.begin() as connection:
        assert not throttle.count(connection, "admin", "192.0.2.7").wait
    assert len(audited(engine, "sign-in refuse")) == throttle.MOST_OF_NAME
    assert len(audited(engine, "sign-in throttle")) == 1


def test_of_ten_thousand_tries_from_one_place_fifty_are_looked_at_however_many_come_at_once(engine: Engine) -> None:
    def tries(some: range) -> int:
        allowed = 0
        for number in some:
            with engine.begin() as connection:
                allowed += not throttle.count(connection, f"name {number}", "192.0.2.7").wait
        return allowed

    with ThreadPoolExecutor(4) as pool:
        allowed = sum(pool.map(tries, [range(start, 400, 4) for start in range(4)]))
    assert allowed == throttle.MOST_OF_ADDRESS
    change(engine, "UPDATE wrong_passwords SET count = 9999 WHERE name = ''")
    with engine.begin() as connection:
        assert throttle.count(connection, "name", "192.0.2.7").wait
        rows = connection.execute(text("SELECT count(*) FROM wrong_passwords")).scalar_one()
        assert rows == throttle.MOST_OF_ADDRESS + 1  # what is refused leaves no row for its name
        connection.execute(text("UPDATE wrong_passwords SET since = now() - interval '16 minutes'"))
        assert not throttle.count(connection, "name", "192.0.2.7").wait


def test_a_right_password_takes_back_what_was_counted(engine: Engine) -> None:
    with engine.begin() as connection:
        for _ in range(throttle.MOST_OF_ADDRESS * 2):
            assert not throttle.count(connection, "Kim", "192.0.2.7").wait
            throttle.uncount(connection, "kim", "192.0.2.7")


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_a_place_is_an_address_or_a_network_of_ipv6(host: str, place: str) -> None:
    assert throttle.place(host) == place


def test_a_form_that_is_too_large_or_none_is_refused(anybody: httpx.Client) -> None:
    ours = {"Sec-Fetch-Site": "same-origin"}
    assert anybody.post("/sign-in", content=b"x" * 9_000, headers=ours).status_code == 413
    assert anybody.post("/sign-in", content=b"&a=b" * 30, headers=ours).status_code == 400
    assert anybody.post("/sign-in", content=b"\xff", headers=ours).status_code == 400

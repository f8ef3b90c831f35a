"""One careful call: its tries, its deadline, and what each kind of trouble becomes."""

import gzip
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler

import pytest
from pydantic import SecretStr

from integrations import IntegrationError, NotFound, Rejected, Throttled, Unauthorized, Unavailable
from integrations._http import HttpUpstream
from tests.integrations.scripted import Scripted, break_off, drip, hang, hang_up, reply

TOKEN = "hunter2"
Step = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def client(server: Scripted) -> Iterator[HttpUpstream]:
    made = HttpUpstream("warehouse", server.url, SecretStr(TOKEN), breaker=None, deadline=8.0, body_limit=100_000)
    yield made
    made.close()


def _hasty(server: Scripted, deadline: float = 0.5) -> HttpUpstream:
    return HttpUpstream("warehouse", server.url, SecretStr(TOKEN), breaker=None, deadline=deadline)


def test_an_answer_comes_back_whole(server: Scripted, client: HttpUpstream) -> None:
    server.will(reply(200, {"a": [1]}, {"ETag": '"x"', "Date": "Mon, 23 Nov 2026 05:00:00 GMT"}))
    answer = client.get("/v1/things", params={"q": "a b&c"})
    assert (answer.status, answer.json(), answer.headers["etag"]) == (200, {"a": [1]}, '"x"')
    assert server.seen[0].path == "/v1/things?q=a+b%26c"
    assert server.seen[0].headers["authorization"] == f"Bearer {TOKEN}"


def test_a_packed_answer_is_unpacked(server: Scripted, client: HttpUpstream) -> None:
    server.will(reply(200, gzip.compress(b'{"a":1}'), {"Content-Encoding": "gzip"}))
    assert client.get("/").json() == {"a": 1}


@pytest.mark.parametrize(
    "trouble",
    [hang_up, break_off, reply(500), reply(502), reply(503), reply(504), reply(408)],
    ids=["hang_up", "break_off", "500", "502", "503", "504", "408"],
)
def test_momentary_trouble_is_survived_inside_the_call(server: Scripted, client: HttpUpstream, trouble: Step) -> None:
    server.will(trouble, trouble, reply(200, {"ok": True}))
    assert client.get("/").json() == {"ok": True}
    assert len(server.seen) == 3


@pytest.mark.parametrize("trouble", [hang_up, break_off, reply(500)], ids=["hang_up", "break_off", "500"])
def test_lasting_trouble_is_unavailable_after_three_tries(
    server: Scripted, client: HttpUpstream, trouble: Step
) -> None:
    server.will(trouble)
    with pytest.raises(Unavailable, match=r"GET /v1/things.*it is asked again later"):
        client.get("/v1/things")
    assert len(server.seen) == 3


def test_a_write_without_an_idempotency_key_is_tried_once(server: Scripted, client: HttpUpstream) -> None:
    server.will(reply(500))
    with pytest.raises(Unavailable):
        client.send("POST", f"{server.url}/v1/x", content=b"{}")
    assert len(server.seen) == 1


def test_a_write_with_an_idempotency_key_is_repeated_unchanged(server: Scripted, client: HttpUpstream) -> None:
    server.will(reply(500), reply(201, {}))
    client.send("POST", f"{server.url}/v1/x", content=b"{}", headers={"Idempotency-Key": "k"})
    assert [(s.body, s.headers["idempotency-key"]) for s in server.seen] == [(b"{}", "k")] * 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Rejected), (401, Unauthorized), (403, Unauthorized), (404, NotFound), (410, NotFound), (422, Rejected),
     (301, Rejected), (307, Rejected), (304, Rejected), (501, Unavailable), (520, Unavailable)],
)  # fmt: skip
def test_every_other_status_has_its_error_and_is_asked_once(
    server: Scripted, client: HttpUpstream, status: int, kind: type[IntegrationError]
) -> None:
    server.will(reply(status, b"" if status == 304 else {"code": "c"}, {"Location": "http://127.0.0.1:9/"}))
    with pytest.raises(IntegrationError) as caught:
        client.get("/v1/things")
    assert type(caught.value) is kind
    assert len(server.seen) == 1


def test_the_machine_word_and_the_sentence_of_a_refusal_are_kept(server: Scripted, client: HttpUpstream) -> None:
    server.will(reply(400, {"title": "t", "detail": "limit  must\nbe a number", "code": "bad_limit"}))
    with pytest.raises(Rejected, match="limit must be a number") as caught:
        client.get("/v1/things")
    assert (caught.value.status, caught.value.code) == (400, "bad_limit")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'{"error": 5, "code": []}', b'{"error": {"code": 1}}']
)
def test_a_refusal_with_any_body_is_still_a_refusal(server: Scripted, client: HttpUpstream, body: bytes) -> None:
    server.will(reply(422, body))
    with pytest.raises(Rejected) as caught:
        client.get("/")
    assert caught.value.code is None


def test_not_modified_is_an_answer_to_who_asked_for_it(server: Scripted, client: HttpUpstream) -> None:
    server.will(reply(304))
    assert client.get("/", headers={"If-None-Match": '"x"'}).status == 304


def test_a_short_wait_is_obeyed_once_on_the_spot(server: Scripted, client: HttpUpstream) -> None:
    server.will(reply(429, headers={"Retry-After": "1"}), reply(200, {}))
    start = time.monotonic()
    assert client.get("/").status == 200
    assert time.monotonic() - start >= 1


def test_the_second_wait_is_handed_up(server: Scripted, client: HttpUpstream) -> None:
    server.will(reply(429, headers={"Retry-After": "0"}))
    with pytest.raises(Throttled) as caught:
        client.get("/")
    assert (caught.value.retry_after, len(server.seen)) == (0.0, 2)


@pytest.mark.parametrize(
    ("status", "value", "seconds"),
    [(429, "40", 40.0), (503, "40", 40.0), (429, "junk", 10.0), (429, "86400", 3600.0)],
)
def test_a_long_wait_is_handed_up_at_once(
    server: Scripted, client: HttpUpstream, status: int, value: str, seconds: float
) -> None:
    server.will(reply(status, headers={"Retry-After": value}))
    with pytest.raises(Throttled, match=f"asks for {seconds:.0f} s") as caught:
        client.get("/")
    assert (caught.value.retry_after, len(server.seen)) == (seconds, 1)


def test_a_wait_until_a_date_is_counted_by_the_upstreams_clock(server: Scripted, client: HttpUpstream) -> None:
    def step(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response_only(429)
        handler.send_header("Date", formatdate(1_000_000_000, usegmt=True))
        handler.send_header("Retry-After", formatdate(1_000_000_090, usegmt=True))
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.will(step)
    with pytest.raises(Throttled) as caught:
        client.get("/")
    assert caught.value.retry_after == 90.0


def test_a_503_with_unreadable_patience_is_plain_trouble(server: Scripted, client: HttpUpstream) -> None:
    server.will(reply(503, headers={"Retry-After": "soon"}))
    with pytest.raises(Unavailable):
        client.get("/")


def test_a_silent_server_is_left_at_the_deadline(server: Scripted) -> None:
    server.will(hang(server))
    start = time.monotonic()
    with pytest.raises(Unavailable, match="did not answer in time"):
        _hasty(server).get("/")
    assert time.monotonic() - start < 5


def test_a_dripping_body_is_left_at_the_deadline(server: Scripted) -> None:
    server.will(drip(server, 0.05))
    start = time.monotonic()
    with pytest.raises(Unavailable, match="too slowly"):
        _hasty(server).get("/")
    assert 0.5 <= time.monotonic() - start < 5


def test_dripping_headers_are_left_at_the_deadline(server: Scripted) -> None:
    def step(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not server.released.wait(0.05):
            handler.wfile.write(b"x")
            handler.wfile.flush()
        handler.close_connection = True

    server.will(step)
    start = time.monotonic()
    with pytest.raises(Unavailable, match="did not answer in time"):
        _hasty(server).get("/")
    assert 0.5 <= time.monotonic() - start < 5


def test_a_gzip_bomb_is_unavailable_and_not_fetched_again(server: Scripted, client: HttpUpstream) -> None:
    server.will(reply(200, gzip.compress(bytes(20_000_000)), {"Content-Encoding": "gzip"}))
    with pytest.raises(Unavailable, match="sent a body that is larger than"):
        client.get("/")
    assert len(server.seen) == 1


def test_a_body_that_is_not_json_is_unavailable(server: Scripted, client: HttpUpstream) -> None:
    server.will(reply(200, b"<html>maintenance</html>", {"Content-Type": "text/html"}))
    with pytest.raises(Unavailable, match=r"GET /v1/things with a body that is not JSON"):
        client.get("/v1/things").json()


def test_nobody_listening_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        client = HttpUpstream("warehouse", f"http://127.0.0.1:{taken.getsockname()[1]}", SecretStr(TOKEN), breaker=None)
        with pytest.raises(Unavailable, match=r"could not be reached .*GET /v1/things"):
            client.get("/v1/things")


def test_the_environments_proxies_are_not_used(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert _hasty(server, 5.0).get("/").status == 200


@pytest.mark.parametrize(
    "step",
    [reply(500), reply(401, {"detail": f"bad {TOKEN}"}), reply(400, {"detail": f"bad {TOKEN}"}),
     reply(200, TOKEN.encode()), hang_up, reply(429, headers={"Retry-After": "60"})],
    ids=["500", "401", "400", "junk", "hang_up", "429"],
)  # fmt: skip
def test_no_message_carries_the_credential_or_the_query(server: Scripted, client: HttpUpstream, step: Step) -> None:
    server.will(step)
    with pytest.raises(IntegrationError) as caught:
        client.get("/v1/things", params={"api_key": "sesame"}).json()
    chain: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:
        chain.append(f"{error} {error!r}")
        error = error.__cause__
    assert "warehouse" in chain[0]
    assert not [text for text in chain if TOKEN in text or "sesame" in text]


def test_a_header_that_cannot_be_sent_is_refused_without_repeating_it(client: HttpUpstream) -> None:
    with pytest.raises(Rejected) as caught:
        client.get("/", headers={"X-Bad": "sesame\nsesame"})
    assert caught.value.code == "unsendable"
    assert caught.value.__cause__ is None
    assert "sesame" not in str(caught.value)


def test_a_link_to_another_server_is_refused_and_one_to_ours_is_not(server: Scripted, client: HttpUpstream) -> None:
    client.require_same_origin(f"{server.url}/v1/things?cursor=x", asked="GET /v1/things")
    client.require_same_origin("/v1/things?cursor=x", asked="GET /v1/things")
    for link in (
        "https://evil.example/v1",
        "//evil.example/",
        server.url.replace("http:", "https:"),
        f"{server.url}1/",
    ):
        with pytest.raises(Rejected) as caught:
            client.require_same_origin(link, asked="GET /v1/things")
        assert caught.value.code == "foreign_link"


def test_threads_share_one_client_and_its_connections(server: Scripted, client: HttpUpstream) -> None:
    server.will(reply(200, {"ok": 1}))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: client.get("/").json(), range(80))) == [{"ok": 1}] * 80

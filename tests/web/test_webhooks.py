"""The receiver, spoken to over HTTP as a sender would, on a real database."""

import asyncio
import hmac
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Self

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, text
from starlette.types import Message

from integrations import LARGEST_BODY, Body, Hmac, Integration, Source, WebhookSource
from integrations.warehouse import Warehouse, WarehouseSettings
from models import Verdict
from sandbox.services import Services
from tests.web.serving import SECRET, Web, environment, serving, signed, until
from web import allowance
from web.inbox import Arrival, Inbox
from web.webhooks import BODY_DEADLINE, Receiver

BODY = b'{"type":"inventory_level.updated","data":{"id":"il_1"}}'
FRESH = ("accepted", "ignored")
UNANSWERED = b'{"type":"location.painted","data":{}}'


def rows(engine: Engine, statement: str) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def post(client: httpx.Client, body: bytes = BODY, external_id: str = "msg_1") -> httpx.Response:
    return client.post("/webhooks/warehouse", content=body, headers=signed(body, external_id))


def test_a_genuine_event_is_kept_with_the_run_it_causes(client: httpx.Client, engine: Engine) -> None:
    answer = post(client)
    assert (answer.status_code, answer.json()["status"]) == (200, "accepted")
    ((event_id, external_id, kind, verdict, body, run_id),) = rows(
        engine, "SELECT id, external_id, type, verdict, body, run_id FROM events"
    )
    assert (external_id, kind, verdict, body) == ("msg_1", "inventory_level.updated", "accepted", BODY)
    assert answer.json()["id"] == event_id
    assert rows(engine, "SELECT id, job, queue, state, args, max_attempts, event_id FROM runs") == [
        (run_id, "warehouse.apply_event", "warehouse", "waiting", {"event_id": event_id}, 10, event_id)
    ]


def test_an_event_that_comes_again_is_a_duplicate_and_causes_nothing(client: httpx.Client, engine: Engine) -> None:
    first, second = post(client), post(client)
    assert second.status_code == 200
    assert second.json() == {"status": "duplicate", "id": first.json()["id"]}
    assert rows(engine, "SELECT duplicates FROM events") == [(1,)]
    assert rows(engine, "SELECT count(*) FROM runs") == [(1,)]


def test_an_event_that_no_job_answers_is_kept_and_ignored(client: httpx.Client, engine: Engine) -> None:
    answer = post(client, UNANSWERED)
    assert (answer.status_code, answer.json()["status"]) == (200, "ignored")
    assert rows(engine, "SELECT verdict, run_id FROM events") == [("ignored", None)]
    assert rows(engine, "SELECT count(*) FROM runs") == [(0,)]


def test_a_signed_body_that_cannot_be_read_is_kept_as_malformed_and_answered_400(
    client: httpx.Client, engine: Engine
) -> None:
    for _ in range(2):
        answer = post(client, b"\x00\xff not json")
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"
    assert rows(engine, "SELECT verdict, type, body, duplicates FROM events") == [
        ("malformed", "", b"\x00\xff not json", 1)
    ]


UNPROVEN: dict[str, Callable[[], dict[str, str]]] = {
    "missing": dict,
    "mismatch": lambda: signed(BODY + b" "),
    "stale": lambda: signed(BODY, at=time.time() - 3600),
    "early": lambda: signed(BODY, at=time.time() + 3600),
}


@pytest.mark.parametrize("kind", UNPROVEN)
def test_a_delivery_that_proves_nothing_is_refused_without_a_reason(client: httpx.Client, kind: str) -> None:
    before = refusals(client, kind)
    answer = client.post("/webhooks/warehouse", content=BODY, headers=UNPROVEN[kind]())
    assert (answer.status_code, answer.json()) == (401, {"title": "Unauthorized", "status": 401})
    assert refusals(client, kind) == before + 1


def test_a_delivery_that_proves_nothing_is_kept_with_the_reason_for_people(database_url: str, engine: Engine) -> None:
    sent = [("warehouse", headers(), BODY) for headers in UNPROVEN.values() for _ in range(2)]
    assert {answer["status"] for answer in deliver(database_url, warehouse(), sent)} == {401}
    assert rows(engine, "SELECT verdict, reason, type, body, address, duplicates, run_id FROM events ORDER BY 2") == [
        ("rejected", kind, "", BODY, "192.0.2.1", 1, None) for kind in sorted(UNPROVEN)
    ]
    assert rows(engine, "SELECT count(*) FROM runs") == [(0,)]


def test_what_is_kept_of_refusals_is_limited_by_address_and_by_source_and_grows_again() -> None:
    now = 0.0
    allowed = allowance.Allowance(lambda: now)
    (most, _), (altogether, _) = allowance.OF_ADDRESS, allowance.OF_SOURCE
    assert [allowed.spend("warehouse", "here") for _ in range(most + 1)] == [True] * most + [False]
    others = [allowed.spend("warehouse", f"there {n}") for n in range(altogether)]
    assert sum(others) == altogether - most
    assert allowed.spend("stripe", "here")
    now = 61.0
    assert [allowed.spend("warehouse", "here") for _ in range(2)] == [True, False]


def test_a_thousand_forged_deliveries_leave_a_handful_of_short_rows(database_url: str, engine: Engine) -> None:
    bodies = [b"%d" % number + b" " * (2 * allowance.KEPT_BYTES) for number in range(200)]
    answers = deliver(database_url, warehouse(), [("warehouse", {}, body) for body in bodies])
    assert {answer["status"] for answer in answers} == {401}
    kept = rows(engine, "SELECT count(*), max(length(body)) FROM events WHERE verdict = 'rejected'")
    assert kept == [(allowance.OF_ADDRESS[0], allowance.KEPT_BYTES)]


@pytest.mark.parametrize("name", ["nobody", "stripe", "elasticsearch", "", "warehouse/x", "%00", "..%2f"])
def test_a_source_that_is_not_configured_does_not_exist(client: httpx.Client, name: str) -> None:
    assert client.post(f"/webhooks/{name}", content=BODY, headers=signed(BODY)).status_code == 404


def test_a_source_without_a_secret_does_not_exist(services: Services, database_url: str) -> None:
    variables = environment(services, database_url)
    del variables["WAREHOUSE_WEBHOOK_SECRETS"]
    with serving(variables) as web, web.client() as client:
        assert post(client).status_code == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
def test_only_post_is_allowed(client: httpx.Client, method: str) -> None:
    answer = client.request(method, "/webhooks/warehouse")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_a_body_of_the_largest_size_is_read_and_one_byte_more_is_not(client: httpx.Client, engine: Engine) -> None:
    largest = BODY[:-1] + b" " * (LARGEST_BODY - len(BODY)) + b"}"
    assert post(client, largest).status_code == 200
    assert post(client, largest + b" ", "msg_2").status_code == 413
    assert rows(engine, "SELECT external_id, length(body) FROM events") == [("msg_1", LARGEST_BODY)]


def test_a_body_without_a_length_is_cut_off_at_the_cap(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(LARGEST_BODY // 65_536 + 2):
            yield b" " * 65_536

    assert client.post("/webhooks/warehouse", content=endless(), headers=signed(b"")).status_code == 413


def test_an_announced_length_above_the_cap_is_refused_before_the_body_is_sent(web: Web) -> None:
    head = f"POST /webhooks/warehouse HTTP/1.1\r\nHost: x\r\nContent-Length: {LARGEST_BODY + 1}\r\n\r\n"
    with connected(web) as raw:
        raw.sendall(head.encode())
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_sender_that_hangs_up_in_the_middle_leaves_nothing(web: Web, client: httpx.Client, engine: Engine) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in signed(BODY).items())
    with connected(web) as raw:
        head = f"POST /webhooks/warehouse HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: {len(BODY)}\r\n\r\n"
        raw.sendall(head.encode() + BODY[:-1])
    assert post(client, BODY, "msg_after").status_code == 200
    assert rows(engine, "SELECT external_id FROM events") == [("msg_after",)]


def test_signatures_and_credentials_are_not_kept(client: httpx.Client, engine: Engine) -> None:
    secrets = {"Authorization": "Bearer s3cret", "Cookie": "id=s3cret", "X-Api-Key": "s3cret", "X-Trace": "kept"}
    client.post("/webhooks/warehouse", content=BODY, headers=signed(BODY) | secrets)
    ((headers,),) = rows(engine, "SELECT headers FROM events")
    assert isinstance(headers, dict)
    assert headers["x-trace"] == "kept"
    assert headers["webhook-id"] == "msg_1"
    assert "s3cret" not in json.dumps(headers)
    assert "webhook-signature" not in headers


def test_hundreds_of_deliveries_at_once_each_get_their_own_event_and_repeats_are_told_apart(
    web: Web, engine: Engine
) -> None:
    ids = [f"msg_{n % 80}" for n in range(240)]

    async def send() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=web.url, timeout=30, limits=limits) as client:
            calls = (client.post("/webhooks/warehouse", content=BODY, headers=signed(BODY, name)) for name in ids)
            return await asyncio.gather(*calls)

    answers = [answer.json() for answer in asyncio.run(send())]
    assert sum(answer["status"] == "accepted" for answer in answers) == 80
    assert sum(answer["status"] == "duplicate" for answer in answers) == 160
    kept = {row[0]: row[1] for row in rows(engine, "SELECT external_id, id FROM events")}
    assert [kept[name] for name in ids] == [answer["id"] for answer in answers]
    assert rows(engine, "SELECT count(*), sum(duplicates) FROM events") == [(80, 160)]
    assert rows(
        engine, "SELECT count(*) FROM runs JOIN events ON events.run_id = runs.id AND event_id = events.id"
    ) == [(80,)]


def test_a_connection_that_died_while_idle_costs_nobody_a_delivery(client: httpx.Client, engine: Engine) -> None:
    assert post(client).status_code == 200
    killed = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'headrace web inbox'"
    )
    assert rows(engine, killed) == [(1,)]
    assert post(client, BODY, "msg_2").json()["status"] == "accepted"


def test_while_postgres_is_away_senders_are_asked_to_come_back_and_then_served_again(
    services: Services, database_url: str, engine: Engine
) -> None:
    # Given a database behind a door that can be closed
    with Door(database_url) as door, serving(environment(services, door.url)) as web, web.client() as client:
        assert post(client).json()["status"] == "accepted"
        # When it closes
        door.shut()
        refused = post(client, BODY, "msg_2")
        # Then nothing is promised
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        # And when it opens again, the same delivery is accepted: nothing of it was kept before
        door.open()
        until(lambda: post(client, BODY, "msg_2").status_code == 200)
        found = rows(engine, "SELECT external_id, run_id IS NOT NULL FROM events ORDER BY id")
        assert found == [("msg_1", True), ("msg_2", True)]


def test_while_postgres_hangs_senders_are_not_kept_waiting_for_long(
    services: Services, database_url: str, engine: Engine
) -> None:
    with Door(database_url) as door, serving(environment(services, door.url)) as web, web.client() as client:
        assert post(client).status_code == 200
        door.jam()
        before = time.monotonic()
        assert post(client, BODY, "msg_2").status_code == 503
        assert time.monotonic() - before < 9
        door.clear()
        until(lambda: post(client, BODY, "msg_2").status_code == 200)
    assert rows(engine, "SELECT external_id, run_id IS NOT NULL FROM events ORDER BY id") == [
        ("msg_1", True),
        ("msg_2", True),
    ]


def test_a_body_that_drips_in_too_slowly_is_cut_off_and_leaves_nothing(database_url: str) -> None:
    # Given a sender that begins a body and never ends it
    receiver = Receiver({"warehouse": warehouse()}, Inbox(database_url), CollectorRegistry(), body_deadline=0.05)
    # When its time is over, then it is told so; and so is one who speaks to nobody
    for name in ("warehouse", "nobody"):
        assert asyncio.run(call(receiver, name, {}, b"{", ends=False))["status"] == 408


class Harbour(WebhookSource):
    name = "harbour"
    source = Source(scheme=Hmac("X-Sign"), id=Body("id"), type=Body("kind"), cap=100, content_type="application/json")


class Closed(WebhookSource):
    name = "closed"
    source = Source(scheme=Hmac("X-Sign"), retired=True)


HARBOUR = Harbour(Harbour.Settings.model_validate({"webhook_secrets": "s3cret"}))


@pytest.mark.parametrize(
    ("source", "method", "changed", "body", "status", "header"),
    [
        ("harbour", "POST", {}, b'{"id":1,"kind":"ship.lost"}', 200, None),
        ("harbour", "POST", {"content-type": "Application/JSON; charset=utf-8"}, b'{"id":1,"kind":"a"}', 200, None),
        ("harbour", "POST", {"content-type": "text/plain"}, b'{"id":1,"kind":"a"}', 415, ("connection", "close")),
        ("harbour", "POST", {"content-type": ""}, b'{"id":1,"kind":"a"}', 415, ("connection", "close")),
        ("harbour", "POST", {}, b'{"id":1,"kind":"' + b"a" * 100 + b'"}', 413, ("connection", "close")),
        ("harbour", "POST", {"content-length": "101"}, b"", 413, ("connection", "close")),
        ("harbour", "POST", {"content-length": "19", "transfer-encoding": "chunked"}, b"", 400, None),
        ("harbour", "POST", {"x-sign": "00"}, b'{"id":1,"kind":"a"}', 401, None),
        ("harbour", "POST", {}, b'{"id":1}', 400, None),
        ("harbour", "POST", {}, b"[]", 400, None),
        ("harbour", "PUT", {}, b"", 405, ("allow", "POST")),
        ("closed", "POST", {}, b"", 410, None),
        ("nobody", "POST", {}, b"", 404, None),
        ("nobody", "GET", {}, b"", 404, None),
        ("nobody", "POST", {"content-length": str(LARGEST_BODY + 1)}, b"", 413, None),
    ],
)
def test_a_source_of_a_few_options_is_answered_as_they_say(
    database_url: str, engine: Engine, *, source: str, method: str, changed: dict[str, str], body: bytes, status: int,
    header: tuple[str, str] | None,
) -> None:  # fmt: skip
    sign = hmac.digest(b"s3cret", body, "sha256").hex()
    headers = {"content-type": "application/json", "x-sign": sign, **changed}
    (answer,) = deliver(database_url, HARBOUR, [(source, headers, body)], method=method)
    assert answer["status"] == status
    assert header is None or (header[0].encode(), header[1].encode()) in answer["headers"]
    verdicts = {200: ["ignored"], 401: ["rejected"]}.get(status, ["malformed"] * (status == 400 and body != b""))
    assert rows(engine, "SELECT verdict FROM events") == [(verdict,) for verdict in verdicts]


def test_a_source_that_is_not_there_answers_like_one_without_a_secret(database_url: str) -> None:
    without = Warehouse(WarehouseSettings(url="http://127.0.0.1:9", token="x"))
    answers = deliver(database_url, without, [(name, signed(BODY), BODY) for name in ("warehouse", "nobody")])
    assert answers[0] == answers[1]
    assert answers[0]["status"] == 404


def test_a_hundred_slow_connections_do_not_keep_others_waiting(web: Web, client: httpx.Client, engine: Engine) -> None:
    # Given a hundred senders in the middle of a body, and a hundred in the middle of their headers
    head = b"POST /webhooks/warehouse HTTP/1.1\r\nHost: x\r\n"
    with ExitStack() as stack:
        for number in range(200):
            raw = stack.enter_context(connected(web))
            raw.sendall(head if number % 2 else head + b"Content-Length: 100\r\n\r\n{")
        # When another one comes, then it is served at once, long before their deadline
        began = time.monotonic()
        assert {post(client, BODY, f"msg_{number}").status_code for number in range(20)} == {200}
        assert time.monotonic() - began < BODY_DEADLINE / 2
    assert rows(engine, "SELECT count(*) FROM events") == [(20,)]


def test_fifty_duplicates_at_once_over_two_processes_one_without_redis_leave_one_row_and_one_run(
    services: Services, database_url: str, web: Web, engine: Engine
) -> None:
    with serving(environment(services, database_url) | {"REDIS_URL": "redis://127.0.0.1:9/0"}) as second:

        async def send() -> list[str]:
            async with httpx.AsyncClient(timeout=30) as client:
                urls = [f"{one.url}/webhooks/warehouse" for one in (web, second)] * 25
                calls = (client.post(url, content=BODY, headers=signed(BODY)) for url in urls)
                return [answer.json()["status"] for answer in await asyncio.gather(*calls)]

        assert sorted(asyncio.run(send())) == ["accepted"] + ["duplicate"] * 49
    assert rows(engine, "SELECT duplicates FROM events") == [(49,)]
    assert rows(engine, "SELECT count(*) FROM runs") == [(1,)]


def test_a_process_that_is_asked_to_stop_says_goodbye(services: Services, database_url: str, engine: Engine) -> None:
    here = "SELECT count(*) FROM processes WHERE kind = 'web' AND stopped_at IS NULL AND pid = {}"
    with serving(environment(services, database_url)) as web, web.client() as client:
        assert post(client).status_code == 200
        until(lambda: rows(engine, here.format(web.process.pid)) == [(1,)])
        web.process.signal(signal.SIGTERM)
        assert web.process.wait(15) == 0
        assert rows(engine, here.format(web.process.pid)) == [(0,)]


names = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), min_size=1, max_size=20)
values = st.binary(max_size=200).filter(lambda value: not set(value) & {0, 10, 13})
wild_json = st.recursive(
    st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
).map(lambda value: json.dumps(value).encode())
typed = st.text(max_size=300).map(lambda kind: json.dumps({"type": kind, "data": {"id": kind}}).encode())


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    extra=st.lists(st.tuples(names, values), max_size=6),
    body=st.binary(max_size=500) | wild_json | typed,
    external_id=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=400),
    sign=st.booleans(),
)
def test_nothing_that_anybody_sends_is_answered_with_a_server_error(
    client: httpx.Client, extra: list[tuple[str, bytes]], body: bytes, external_id: str, *, sign: bool
) -> None:
    headers = [(name, value.encode()) for name, value in signed(body, external_id).items()] if sign else []
    sent = [(name.encode(), value) for name, value in extra] + [(n.encode(), v) for n, v in headers]
    try:
        answer = client.post("/webhooks/warehouse", content=body, headers=sent)
    except (httpx.LocalProtocolError, httpx.UnsupportedProtocol):
        return  # the client would not even send it
    assert answer.status_code < 500, answer.text


plain = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
noise = st.dictionaries(
    st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "content-type", "content-length", "x"]),
    plain | st.sampled_from(["0", "-1", "99999999999999999999", "v1,AAAA", "v1a,AAAA"]),
    max_size=3,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    sent=st.lists(
        st.tuples(noise, st.binary(max_size=300) | wild_json | typed, st.sampled_from("abcdefg"), st.booleans()),
        min_size=1,
        max_size=20,
    )
)
def test_whatever_comes_at_once_nothing_is_a_server_error_and_what_is_accepted_is_there(
    database_url: str, engine: Engine, sent: list[tuple[dict[str, str], bytes, str, bool]]
) -> None:
    requests = [("warehouse", (signed(body, name) if sign else {}) | odd, body) for odd, body, name, sign in sent]
    answers = deliver(database_url, warehouse(), requests)
    assert {answer["status"] for answer in answers} <= {200, 400, 401, 413}
    kept = {row[0]: row[1] for row in rows(engine, "SELECT id, body FROM events")}
    told = [json.loads(answer["body"]) for answer in answers]
    firsts = {
        said["id"]: body for said, (_, _, body) in zip(told, requests, strict=True) if said.get("status") in FRESH
    }
    assert firsts.items() <= kept.items()
    assert {said["id"] for said in told if said["status"] == "duplicate"} <= kept.keys()


@pytest.mark.parametrize("value", [b"\x00", b"\xff\xfe", b"a" * 50_000, b"\xed\xa0\x80", b"\\u0000", b"\\\\u0000"])
def test_odd_bytes_in_a_header_of_a_genuine_event_do_not_matter(web: Web, engine: Engine, value: bytes) -> None:
    lines = b"".join(f"{name}: {said}\r\n".encode() for name, said in signed(BODY).items())
    length = f"Content-Length: {len(BODY)}\r\nConnection: close\r\n\r\n".encode()
    request = b"POST /webhooks/warehouse HTTP/1.1\r\nHost: x\r\nX-Odd: " + value + b"\r\n" + lines + length + BODY
    with connected(web) as raw:
        raw.sendall(request)
        status = int(raw.recv(4096).split()[1])
    assert status in {200, 400}
    assert rows(engine, "SELECT count(*) FROM events") == [(int(status == 200),)]


def warehouse() -> Warehouse:
    return Warehouse(WarehouseSettings(url="http://127.0.0.1:9", token="x", webhook_secrets=SECRET))


Sent = tuple[str, dict[str, str], bytes]


def deliver(database_url: str, source: Integration, sent: Iterable[Sent], *, method: str = "POST") -> list[Message]:
    """Let a receiver of this source answer deliveries at once, and store all that it keeps."""

    async def answering() -> list[Message]:
        inbox = Inbox(database_url)
        receiver = Receiver({source.name: source, "closed": CLOSED}, inbox, CollectorRegistry())
        task = asyncio.create_task(inbox.run())
        answers = await asyncio.gather(*(call(receiver, *one, method=method) for one in sent))
        await inbox.keep(LAST)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return answers

    answers = asyncio.run(answering())
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM events WHERE source = 'last'")
    return answers


CLOSED = Closed(Closed.Settings.model_validate({"webhook_secrets": "s3cret"}))
#: What is kept last is kept after everything before it.
LAST = Arrival("last", "1", "", Verdict.IGNORED, "{}", b"", None)


async def call(
    receiver: Receiver, name: str, headers: Mapping[str, str], body: bytes, *, method: str = "POST", ends: bool = True
) -> Message:
    """Send one request to the application itself; return the beginning of its answer."""
    begun: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": not ends}])
    answers: list[Message] = []

    async def receive() -> Message:
        for message in begun:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        answers.append(message)

    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http",
        "method": method,
        "path": f"/webhooks/{name}",
        "headers": lines,
        "client": ("192.0.2.1", 4000),
    }
    await receiver(scope, receive, send)
    return {**answers[0], "body": answers[1]["body"]}


def refusals(client: httpx.Client, reason: str) -> float:
    """Return how many deliveries of the warehouse were refused for this reason."""
    line = f'headrace_webhooks_total{{reason="{reason}",source="warehouse",status="401"}} '
    return float(client.get("/metrics").text.partition(line)[2].partition("\n")[0] or 0)


@contextmanager
def connected(web: Web) -> Iterator[socket.socket]:
    host, _, port = web.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        yield raw


class Door:
    """A door in front of Postgres that can be shut: what is connected is cut off, what comes is turned away."""

    def __init__(self, database_url: str) -> None:
        parts = httpx.URL(database_url)
        self._target = f"{parts.host}:{parts.port}"
        self._probe = socket.create_server(("127.0.0.1", 0))
        self._port = self._probe.getsockname()[1]
        self.url = str(parts.copy_with(host="127.0.0.1", port=self._port))

    def __enter__(self) -> Self:
        self._probe.close()
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()

    def open(self) -> None:
        self._process = subprocess.Popen(["python3", "-c", FORWARD, str(self._port), self._target])
        until(self._listens)

    def shut(self) -> None:
        self._process.kill()
        self._process.wait()

    def jam(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def clear(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True


FORWARD = """
import asyncio, sys
port, (host, target) = int(sys.argv[1]), sys.argv[2].rsplit(":", 1)
async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
async def meet(reader, writer):
    there, back = await asyncio.open_connection(host, int(target))
    await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)
async def main():
    server = await asyncio.start_server(meet, "127.0.0.1", port)
    await server.serve_forever()
asyncio.run(main())
"""

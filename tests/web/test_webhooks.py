"""The receiver, spoken to over HTTP as a sender would, on a real database."""

import asyncio
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, text
from starlette.types import Message

from integrations.warehouse import Warehouse, WarehouseSettings
from sandbox.services import Services
from tests.web.serving import SECRET, Web, environment, serving, signed, until
from web.inbox import Inbox
from web.webhooks import LARGEST_BODY, Receiver

BODY = b'{"type":"inventory_level.updated","data":{"id":"il_1"}}'
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


@pytest.mark.parametrize("kind", ["missing", "mismatch", "stale", "early"])
def test_a_delivery_that_proves_nothing_is_refused_without_a_reason_and_leaves_no_trace(
    client: httpx.Client, engine: Engine, kind: str
) -> None:
    headers = {
        "missing": {},
        "mismatch": signed(BODY + b" "),
        "stale": signed(BODY, at=time.time() - 3600),
        "early": signed(BODY, at=time.time() + 3600),
    }[kind]
    before = refusals(client, kind)
    answer = client.post("/webhooks/warehouse", content=BODY, headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"title": "Unauthorized", "status": 401})
    assert rows(engine, "SELECT count(*) FROM events") == [(0,)]
    assert refusals(client, kind) == before + 1


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
    begun: Iterator[Message] = iter([{"type": "http.request", "body": b"{", "more_body": True}])
    answers: list[Message] = []

    async def receive() -> Message:
        for message in begun:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        answers.append(message)

    warehouse = Warehouse(WarehouseSettings(url="http://127.0.0.1:9", token="x", webhook_secrets=SECRET))
    receiver = Receiver({"warehouse": warehouse}, Inbox(database_url), CollectorRegistry(), body_deadline=0.05)
    scope = {"type": "http", "method": "POST", "path": "/warehouse", "headers": []}
    # When its time is over
    asyncio.run(receiver(scope, receive, send))
    # Then it is told so
    assert answers[0]["status"] == 408


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

"""A journal hears of every call: what was asked, what came of it, and nothing that is secret."""

import traceback
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler
from threading import Thread

import pytest
from pydantic import SecretStr

from integrations import IntegrationError, OutOfBudget, Rate
from integrations._breaker import Breaker
from integrations._calls import Call, recording, template
from integrations._http import HttpUpstream
from tests.integrations.scripted import Scripted, hang_up, reply

TOKEN = "hunter2hunter2"
Step = Callable[[BaseHTTPRequestHandler], None]


class Journal:
    """Remembers what it heard; refuses every call if told to."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.begun: list[Call] = []
        self.ended_: dict[int, Call] = {}
        self._refusal = refusal

    def began(self, call: Call) -> int:
        if self._refusal is not None:
            raise self._refusal
        self.begun.append(call)
        return len(self.begun)

    def ended(self, place: int, call: Call) -> None:
        self.ended_[place] = call


@pytest.fixture
def client(server: Scripted) -> Iterator[HttpUpstream]:
    made = HttpUpstream("shop", server.url, SecretStr(TOKEN), breaker=None, deadline=8.0)
    yield made
    made.close()


def echo_all(handler: BaseHTTPRequestHandler) -> None:
    """Answer with our own credential where an answer has its status."""
    handler.wfile.write(f"HTTP/1.1 {handler.headers['Authorization']}\r\n\r\n".encode())
    handler.close_connection = True


def test_what_is_told_of_a_call(server: Scripted, client: HttpUpstream) -> None:
    server.will(reply(500), reply(201, {}, {"Request-Id": "req_1", "X-Request-Id": "edge"}))
    journal = Journal()
    with recording(journal):
        url = f"{server.url}/v1/refunds/re_3Nx?expand=a"
        client.send("POST", url, headers={"Idempotency-Key": "k1"}, content=b"{}")
    (call,) = journal.ended_.values()
    told = asdict(call)
    assert told.pop("seconds") > 0.1  # with the pause between its tries
    told.pop("began")
    assert told == {
        "upstream": "shop", "method": "POST", "template": "/v1/refunds/{id}", "idempotency_key": "k1", "tries": 2,
        "status": 201, "request_id": "req_1", "error": None,
    }  # fmt: skip
    assert not call.reads


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (reply(404), (404, "NotFound", 1)),
        (reply(500), (500, "Unavailable", 3)),
        (reply(429, headers={"Retry-After": "60"}), (429, "Throttled", 1)),
        (hang_up, (None, "RemoteProtocolError", 3)),
    ],
    ids=["404", "500", "429", "hang_up"],
)
def test_what_is_told_of_a_call_that_fails(
    server: Scripted, client: HttpUpstream, step: Step, told: tuple[int | None, str, int]
) -> None:
    server.will(step)
    journal = Journal()
    with recording(journal), pytest.raises(IntegrationError):
        client.get("/v1/things")
    call = journal.ended_[1]
    assert (call.status, call.error, call.tries) == told


def test_a_call_that_the_breaker_keeps_back_was_never_sent(server: Scripted) -> None:
    breaker = Breaker("shop", Rate(calls=1, period=3600, burst=1, concurrency=1))
    client = HttpUpstream("shop", server.url, SecretStr(TOKEN), breaker=breaker)
    server.will(reply(200))
    client.get("/v1/things")
    journal = Journal()
    with recording(journal), pytest.raises(OutOfBudget):
        client.get("/v1/things")
    assert (journal.ended_[1].tries, journal.ended_[1].error, len(server.seen)) == (0, "OutOfBudget", 1)
    client.close()


def test_a_journal_that_cannot_take_it_keeps_a_call_from_being_sent(server: Scripted, client: HttpUpstream) -> None:
    with recording(Journal(RuntimeError("the journal is away"))), pytest.raises(RuntimeError, match="is away"):
        client.send("POST", f"{server.url}/v1/refunds", content=b"{}")
    assert server.seen == []


def test_only_calls_of_the_work_at_hand_are_told_and_of_its_threads_if_it_takes_them_along(
    client: HttpUpstream,
) -> None:
    journal = Journal()
    client.get("/before")
    with recording(journal):
        threads = [
            Thread(target=client.get, args=("/alone",)),
            Thread(target=copy_context().run, args=(client.get, "/along")),
        ]
        for thread in threads:
            thread.start()
            thread.join()
    client.get("/after")
    assert [call.template for call in journal.begun] == ["/along"]


@pytest.mark.parametrize(
    "step",
    [reply(500), reply(401, {"detail": f"bad {TOKEN}"}), reply(200, {}, {"Request-Id": TOKEN}), hang_up, echo_all],
    ids=["500", "401", "request id", "hang_up", "echo"],
)
def test_nothing_that_is_secret_is_told_or_stands_in_a_traceback(
    server: Scripted, client: HttpUpstream, step: Step
) -> None:
    server.will(step)
    journal = Journal()
    shown, planted = "", [f"sesame{number}" for number in range(2)]
    try:
        with recording(journal):
            client.get("/v1/keys", params={"api_key": planted[0]}, headers={"X-Api-Key": planted[1]})
    except IntegrationError as error:
        shown = "".join(traceback.format_exception(error))
    assert journal.ended_
    assert not [secret for secret in (TOKEN, *planted) if secret in f"{journal.ended_} {shown}"]


def test_an_address_that_is_itself_the_credential_is_not_told(server: Scripted) -> None:
    address = f"{server.url}/services/T0/hunter2"
    client = HttpUpstream("chat", address, None, breaker=None)
    journal = Journal()
    with recording(journal):
        client.send("POST", address, content=b"{}")
    client.close()
    assert journal.ended_[1].template == "/{secret}"


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/v1/payment_intents/pi_3MtwBw/capture", "/v1/payment_intents/{id}/capture"),
        ("/v1/checkout/sessions", "/v1/checkout/sessions"),
        ("/v1/inventory-levels/il_01H", "/v1/inventory-levels/{id}"),
        ("/admin/api/2026-10/graphql.json", "/admin/api/2026-10/graphql.json"),
        ("/v2/users/kim@example.com/", "/v2/users/{id}/"),
        ("/v1/products/..%2F..%2Fadmin", "/v1/products/{id}"),
        ("/x/deadbeefdeadbeefdeadbeefdead", "/x/{id}"),
        ("", ""),
    ],
)
def test_a_template_keeps_the_words_of_a_path_and_none_of_its_ids(path: str, kept: str) -> None:
    assert template(path) == kept

"""The receiver: `POST /webhooks/{source}` proves who sent it, keeps it, answers, and stops.

The body is read whole, under a cap and a deadline, and judged byte for byte by the integration of that name. What is
genuine becomes an event, and a run of the job that answers its type, in one transaction; work happens later. The
answer 200 means kept. A delivery that comes again is recognised by the sender's id of it. Whatever a stranger sends is
answered with a 4xx and leaves no trace; only trouble of our own is a 503, which asks the sender to come back.
"""

import asyncio
import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson
from prometheus_client import CollectorRegistry, Counter
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

import jobs
from integrations import BadDelivery, BadSignature, Delivery, Integration
from models import Verdict
from web.inbox import Arrival, Inbox, InboxUnavailable, Kept
from web.problems import Problem
from workers.logs import SECRET_NAMES, redact_text

#: Bytes of a body, and seconds in which it must have arrived.
LARGEST_BODY = 512 * 1024
BODY_DEADLINE = 10.0
#: Seconds after which a sender may try again when we could not keep its event.
RETRY_AFTER = "5"
#: Header lines kept of a delivery, and characters of each value.
_HEADERS = 64
_HEADER_LENGTH = 1_000
#: Characters of an external id that go into the table as they are.
_ID_LENGTH = 255

Headers = list[tuple[str, str]]


class _Refused(Exception):  # noqa: N818 - control flow inside this module
    """The delivery is answered with this problem; the reason is the metric's label."""

    def __init__(self, problem: Problem, reason: str) -> None:
        super().__init__(reason)
        self.problem = problem
        self.reason = reason


class _Gone(Exception):  # noqa: N818 - control flow inside this module
    """The sender hung up before its body was complete."""


@dataclass(frozen=True, slots=True)
class _Answer:
    response: Response
    reason: str


class Receiver:
    """The ASGI application behind `/webhooks`.

    Args:
        sources: Configured integrations that take deliveries, by name.
        inbox: Keeps what is genuine.
        registry: Where the counter of deliveries is registered.
        body_deadline: Seconds in which a body must have arrived.
    """

    def __init__(
        self,
        sources: Mapping[str, Integration],
        inbox: Inbox,
        registry: CollectorRegistry,
        *,
        body_deadline: float = BODY_DEADLINE,
    ) -> None:
        self._sources = sources
        self._inbox = inbox
        self._body_deadline = body_deadline
        self._counter = Counter(
            "headrace_webhooks",
            "Deliveries by source, HTTP status and what became of them; since this process started.",
            ["source", "status", "reason"],
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        name = scope["path"].removeprefix(scope.get("root_path", "")).strip("/")
        try:
            answer = await self._answer(name, scope, receive)
        except _Refused as refused:
            answer = _Answer(refused.problem, refused.reason)
        except _Gone:
            return
        label = name if name in self._sources else "unknown"
        self._counter.labels(label, str(answer.response.status_code), answer.reason).inc()
        await answer.response(scope, receive, send)

    async def _answer(self, name: str, scope: Scope, receive: Receive) -> _Answer:
        source = self._sources.get(name)
        if source is None:
            raise _Refused(Problem(404), "unknown_source")
        if scope["method"] != "POST":
            raise _Refused(Problem(405, headers={"Allow": "POST"}), "method")
        headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]]
        body = await self._body(headers, receive)
        arrival = self._judge(source, headers, body)
        try:
            kept = await self._inbox.keep(arrival)
        except InboxUnavailable as error:
            detail = f"The delivery was not kept: {error}. Send it again later."
            raise _Refused(Problem(503, detail, headers={"Retry-After": RETRY_AFTER}), "unavailable") from None
        return _told(arrival, kept)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        announced = next((value for key, value in headers if key.lower() == "content-length"), "0")
        if announced.isascii() and announced.isdigit() and int(announced[:20]) > LARGEST_BODY:
            raise _too_large()
        try:
            async with asyncio.timeout(self._body_deadline):
                return await _read(receive)
        except TimeoutError:
            detail = f"The body took longer than {self._body_deadline:g} s: send it faster."
            raise _Refused(Problem(408, detail, headers={"Connection": "close"}), "slow") from None

    def _judge(self, source: Integration, headers: Headers, body: bytes) -> Arrival:
        try:
            delivery = source.verify(headers, body, time.time())
        except BadSignature as error:
            status = 404 if error.reason == "unconfigured" else 401
            raise _Refused(Problem(status), error.reason) from None
        except BadDelivery:
            digest = hashlib.sha256(body).hexdigest()
            return Arrival(
                source.name, f"malformed:{digest}", "", Verdict.MALFORMED, _kept_headers(headers), body, None
            )
        return _genuine(source.name, delivery, headers, body)


def _genuine(source: str, delivery: Delivery, headers: Headers, body: bytes) -> Arrival:
    handler = jobs.handler_of(source, delivery.type)
    verdict = Verdict.ACCEPTED if handler else Verdict.IGNORED
    return Arrival(
        source,
        _key(delivery.external_id),
        _clean(delivery.type)[:_ID_LENGTH],
        verdict,
        _kept_headers(headers),
        body,
        handler,
    )


def _told(arrival: Arrival, kept: Kept) -> _Answer:
    if arrival.verdict is Verdict.MALFORMED:
        detail = "The signature is right and the body cannot be read; its bytes were kept for the operators."
        return _Answer(Problem(400, detail, id=kept.event_id), "malformed")
    status = str(arrival.verdict) if kept.fresh else "duplicate"
    return _Answer(JSONResponse({"status": status, "id": kept.event_id}), status)


async def _read(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > LARGEST_BODY:
            raise _too_large()
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _too_large() -> _Refused:
    detail = f"A delivery may have {LARGEST_BODY} bytes at most."
    return _Refused(Problem(413, detail, headers={"Connection": "close"}), "too_large")


def _kept_headers(headers: Iterable[tuple[str, str]]) -> str:
    """Return header lines as a JSON object, without signatures and credentials; a name that came twice is joined."""
    kept: dict[str, str] = {}
    for key, value in headers:
        name = _clean(key.lower())
        if SECRET_NAMES.search(name) or (name not in kept and len(kept) >= _HEADERS):
            continue
        joined = f"{kept[name]}, {value}" if name in kept else value
        kept[name] = redact_text(_clean(joined))[:_HEADER_LENGTH]
    return orjson.dumps(kept).decode()


def _key(external_id: str) -> str:
    """Return an id that Postgres can keep in an index: itself, or its digest when it is odd or long."""
    if 0 < len(external_id) <= _ID_LENGTH and external_id.isprintable():
        return external_id
    return "sha256:" + hashlib.sha256(external_id.encode("utf-8", "surrogatepass")).hexdigest()


def _clean(word: str) -> str:
    """Return text that Postgres can keep: no NUL, not even escaped in JSON, and nothing that is no character."""
    return word.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")

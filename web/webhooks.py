"""The receiver: `POST /webhooks/{source}` proves who sent it, keeps it, answers, and stops.

The body is read whole, under the source's cap and a deadline, and judged byte for byte by the integration of that name.
What is genuine becomes an event, and a run of the job that answers its type, in one transaction; work happens later.
The answer 200 means kept. A delivery that comes again is recognised by the sender's id of it.

What proves nothing is kept too, as far as the allowance goes and behind the answer, so that somebody can see what a
sender does wrong. Whatever a stranger sends is answered with a 4xx; only trouble of our own is a 503, which asks the
sender to come back. A source that is not there reads and digests like one that is, and then says no.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import orjson
from prometheus_client import CollectorRegistry, Counter
from pydantic import SecretStr
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

import jobs
from integrations import (
    GITHUB,
    LARGEST_BODY,
    BadDelivery,
    BadSignature,
    Delivery,
    Integration,
    Source,
    Verifier,
    WebhookSecret,
)
from models import Verdict
from web import reading
from web.allowance import KEPT_BYTES, Allowance
from web.doors import WEBHOOKS
from web.inbox import Arrival, Inbox, InboxUnavailable, Kept
from web.problems import Problem
from web.reading import Headers
from workers.logs import SECRET_NAMES, redact_text

#: Seconds in which a body must have arrived.
BODY_DEADLINE = 10.0
#: Seconds after which a sender may try again when we could not keep its event.
RETRY_AFTER = "5"
#: Header lines kept of a delivery, and characters of each value.
_HEADERS = 64
_HEADER_LENGTH = 1_000
#: Characters of a header's name about which the verdict is remembered.
_USUAL_NAME = 40
#: Characters of an external id that go into the table as they are.
_ID_LENGTH = 255
_CLOSE = {"Connection": "close"}
#: Judges what is sent to a source that is not there, with a secret that nobody knows.
_NOBODY = Verifier("nobody", GITHUB, [WebhookSecret(SecretStr(os.urandom(16).hex()))])


class _Refused(Exception):  # noqa: N818 - control flow inside this module
    """The delivery is answered with this problem; the reason is the metric's label."""

    def __init__(self, problem: Problem, reason: str) -> None:
        super().__init__(reason)
        self.problem = problem
        self.reason = reason


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
        self._sources = {name: (found, found.source) for name, found in sources.items() if found.source}
        self._inbox = inbox
        self._allowance = Allowance()
        self._body_deadline = body_deadline
        self._counter = Counter(
            "headrace_webhooks",
            "Deliveries by source, HTTP status and what became of them; since this process started.",
            ["source", "status", "reason"],
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        name = scope["path"].removeprefix(WEBHOOKS).strip("/")
        try:
            answer = await self._answer(name, scope, receive)
        except _Refused as refused:
            answer = _Answer(refused.problem, refused.reason)
        except reading.Gone:
            return
        label = name if name in self._sources else "unknown"
        self._counter.labels(label, str(answer.response.status_code), answer.reason).inc()
        await answer.response(scope, receive, send)

    async def _answer(self, name: str, scope: Scope, receive: Receive) -> _Answer:
        headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]]
        if name not in self._sources:
            await self._pretend(scope, headers, receive)
            raise _Refused(Problem(404), "unknown_source")
        integration, source = self._sources[name]
        _admit(source, scope, headers)
        body = await self._body(source.cap, headers, receive)
        arrival = self._judge(integration, headers, body, _address(scope))
        try:
            kept = await self._inbox.keep(arrival)
        except InboxUnavailable as error:
            detail = f"The delivery was not kept: {error}. Send it again later."
            raise _Refused(Problem(503, detail, headers={"Retry-After": RETRY_AFTER}), "unavailable") from None
        return _told(arrival, kept)

    async def _pretend(self, scope: Scope, headers: Headers, receive: Receive) -> None:
        """Take as long for a source that is not there as for a delivery that proves nothing."""
        if scope["method"] == "POST":
            body = await self._body(LARGEST_BODY, headers, receive)
            with suppress(BadSignature):
                _NOBODY.verify(headers, body, time.time())

    async def _body(self, cap: int, headers: Headers, receive: Receive) -> bytes:
        try:
            return await reading.read(headers, receive, cap=cap, seconds=self._body_deadline)
        except reading.Ambiguous:
            detail = "The request states its length in two ways: send Content-Length alone."
            raise _Refused(Problem(400, detail, headers=_CLOSE), "ambiguous") from None
        except reading.TooLarge:
            detail = f"A delivery may have {cap} bytes at most."
            raise _Refused(Problem(413, detail, headers=_CLOSE), "too_large") from None
        except reading.TooSlow:
            detail = f"The body took longer than {self._body_deadline:g} s: send it faster."
            raise _Refused(Problem(408, detail, headers=_CLOSE), "slow") from None

    def _judge(self, integration: Integration, headers: Headers, body: bytes, address: str) -> Arrival:
        name = integration.name
        try:
            delivery = integration.verify(headers, body, time.time())
        except BadSignature as error:
            if error.reason == "unconfigured":
                raise _Refused(Problem(404), error.reason) from None
            if self._allowance.spend(name, address):
                self._inbox.remember(_rejected(name, error.reason, headers, body, address))
            raise _Refused(Problem(401), error.reason) from None
        except BadDelivery as error:
            key = f"malformed:{hashlib.sha256(body).hexdigest()}"
            kept = _kept_headers(headers)
            return Arrival(name, key, "", Verdict.MALFORMED, kept, body, None, reason=str(error), address=address)
        return _genuine(name, delivery, headers, body, address)


def _admit(source: Source, scope: Scope, headers: Headers) -> None:
    """Refuse what need not be read at all."""
    if source.retired:
        raise _Refused(Problem(410, "Nobody here wants these events any more: take the endpoint out."), "retired")
    if scope["method"] != "POST":
        raise _Refused(Problem(405, headers={"Allow": "POST"}), "method")
    given = next((value for key, value in headers if key.lower() == "content-type"), "")
    if source.content_type and given.partition(";")[0].strip().lower() != source.content_type:
        raise _Refused(Problem(415, f"Send {source.content_type}.", headers=_CLOSE), "content_type")


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _rejected(source: str, reason: str, headers: Headers, body: bytes, address: str) -> Arrival:
    key = f"rejected:{reason}:{hashlib.sha256(body).hexdigest()}"
    kept = _kept_headers(headers)
    body = body[:KEPT_BYTES]
    return Arrival(source, key, "", Verdict.REJECTED, kept, body, None, reason=reason, address=address)


def _genuine(source: str, delivery: Delivery, headers: Headers, body: bytes, address: str) -> Arrival:
    handler = jobs.handler_of(source, delivery.type)
    return Arrival(
        source,
        _key(delivery.external_id),
        _clean(delivery.type)[:_ID_LENGTH],
        Verdict.ACCEPTED if handler else Verdict.IGNORED,
        _kept_headers(headers),
        body,
        handler,
        about=jobs.entity_of(handler.entity, delivery.payload) if handler and handler.entity else None,
        address=address,
        secret=delivery.secret_index,
    )


def _told(arrival: Arrival, kept: Kept) -> _Answer:
    if arrival.verdict is Verdict.MALFORMED:
        detail = "The signature is right and the body cannot be read; its bytes were kept for the operators."
        return _Answer(Problem(400, detail, id=kept.event_id), "malformed")
    status = str(arrival.verdict) if kept.fresh else "duplicate"
    return _Answer(JSONResponse({"status": status, "id": kept.event_id}), status)


def _kept_headers(headers: Iterable[tuple[str, str]]) -> str:
    """Return header lines as a JSON object, without signatures and credentials; a name that came twice is joined."""
    kept: dict[str, str] = {}
    for key, value in headers:
        name = _clean(key.lower())
        if _is_secret(name) or (name not in kept and len(kept) >= _HEADERS):
            continue
        joined = f"{kept[name]}, {value}" if name in kept else value
        kept[name] = redact_text(_clean(joined))[:_HEADER_LENGTH]
    return orjson.dumps(kept).decode()


def _is_secret(name: str) -> bool:
    return _remembered(name) if len(name) <= _USUAL_NAME else SECRET_NAMES.search(name) is not None


@lru_cache(maxsize=1_000)
def _remembered(name: str) -> bool:
    return SECRET_NAMES.search(name) is not None


def _key(external_id: str) -> str:
    """Return an id that Postgres can keep in an index: itself, or its digest when it is odd or long."""
    if 0 < len(external_id) <= _ID_LENGTH and external_id.isprintable():
        return external_id
    return "sha256:" + hashlib.sha256(external_id.encode("utf-8", "surrogatepass")).hexdigest()


def _clean(word: str) -> str:
    """Return text that Postgres can keep: no NUL, not even escaped in JSON, and nothing that is no character."""
    if word.isascii() and "\x00" not in word:
        return word
    return word.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")

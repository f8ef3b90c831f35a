"""A careful client for one JSON upstream. The only module that knows which HTTP library we use.

A call has one deadline for everything: all tries, the waits between them and the last byte of the body. Inside it, a
call that may be repeated is tried up to three times when the trouble looks momentary (no connection, a timeout, a
dropped body, 500, 502, 503, 504), with a jittered pause between. Being asked to wait a second is obeyed once on the
spot; longer waits are handed up as ``Throttled``, because a worker thread is no place to sit one out. Minutes and
hours belong to whoever called us. Each try passes the upstream's breaker (``integrations._breaker``): an upstream that
failed too often is left alone, one that allows no more for now is not asked, and the call ends with ``CircuitOpen`` or
``OutOfBudget``. Every answer teaches the breaker what the upstream allows.

Whatever happens becomes one of the errors of ``integrations._errors``. Redirects are not followed and no call leaves
the configured server, since a credential must not travel to where somebody else points; proxies and passwords lying
around in the environment are not used. Where a connection may lead is judged where it is opened
(``integrations._guard``), and no read outlasts the deadline (``integrations._punctual``). The journal of whoever is at
work hears of each call (``integrations._calls``).
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr
from tenacity import RetryCallState, Retrying, retry_if_exception_type

from integrations._body import BodyError, LateBodyError, read_body
from integrations._breaker import PATIENCE, Breaker, Passage
from integrations._calls import SAFE_METHODS, Call, noted, template
from integrations._errors import IntegrationError, NotFound, Rejected, Throttled, Unauthorized, Unavailable
from integrations._guard import AddressGuard, ForbiddenAddressError
from integrations._origin import origin
from integrations._problem import one_line, read_problem
from integrations._punctual import Deadline, PunctualBackend
from integrations._reply import Reply
from integrations._teaching import Teaching

TRIES = 3
CONNECT_TIMEOUT = 3.0
READ_TIMEOUT = 10.0
DEADLINE = 15.0
"""Seconds one call may take, with all its tries."""
BODY_LIMIT = 32 * 2**20
"""Bytes one unpacked answer may have: a full page of 500 items is well under one MiB."""
UNTOLD_WAIT = 10.0
"""Seconds to stay away after a 429 that does not say for how long."""

_MOMENTARY = frozenset({408, 425, 500, 502, 503, 504})
_REQUEST_IDS = ("request-id", "x-request-id", "x-amzn-requestid", "x-shopify-request-id")
"""Headers in which upstreams name a request, so that their people find it."""

Query: TypeAlias = Mapping[str, str]


class _AgainError(Exception):
    """This try failed in a way that another try may heal; carries what to raise if none does."""

    def __init__(self, error: IntegrationError, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait


@dataclass(slots=True)
class _Call:
    """One call under way: what is asked, until when, and whether its one wait has been spent."""

    method: str
    url: str
    params: Query | None
    headers: Mapping[str, str]
    content: bytes | None
    deadline: float
    may_wait: bool
    #: The method and the path, for messages.
    asked: str
    #: What the journal hears of it.
    noted: Call
    #: Units of the budget.
    cost: float = 1.0

    @property
    def remaining(self) -> float:
        return self.deadline - time.monotonic()


class HttpUpstream:
    """One upstream spoken to over HTTP; safe for many threads, keeps its connections open.

    Args:
        upstream: The name for messages.
        base_url: Where paths are rooted, without a trailing slash.
        credential: Sent with every request, and cut out of everything that is reported. Without one
            the address itself is the credential: then it is the path that no message has.
        breaker: What every try passes; None where nobody is to be left alone and nothing is paced.
        deadline: Seconds one call may take, with all its tries and waits.
        body_limit: Bytes one unpacked answer may have.
        outside: Somebody other than the operator gave us the address (check it with ``OutsideAddress``): then it must
            lead to the public internet, at each connection.
        authorization: The header that takes the credential, and what stands before it there.
    """

    def __init__(
        self,
        upstream: str,
        base_url: str,
        credential: SecretStr | None,
        *,
        breaker: Breaker | None,
        deadline: float = DEADLINE,
        body_limit: int = BODY_LIMIT,
        outside: bool = False,
        authorization: tuple[str, str] = ("Authorization", "Bearer "),
    ) -> None:
        self.upstream = upstream
        self._base_url = base_url
        self._credential = credential
        self._header, self._scheme = authorization
        self._breaker = breaker
        self._teaching = breaker.teaching if breaker is not None else Teaching()
        self._deadline = deadline
        self._body_limit = body_limit
        self._clock = Deadline()
        self._client = httpx.Client(
            transport=_guarded(None if outside else base_url, self._clock),
            headers={"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "headrace"},
            follow_redirects=False,
            trust_env=False,
        )

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, *, params: Query | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Ask for something, trying again over momentary trouble.

        Args:
            path: Rooted at the base address, beginning with a slash.
            params: The query, unescaped.
            headers: Sent besides our own; with ``If-None-Match`` a 304 is an answer like any other.

        Raises:
            IntegrationError: See ``integrations._errors``.
        """
        return self.send("GET", self._base_url + path, params=params, headers=headers)

    def post(self, path: str, content: bytes, *, headers: Mapping[str, str]) -> Reply:
        """Ask for a change, trying again over momentary trouble if there is an ``Idempotency-Key`` among the headers.

        Raises:
            IntegrationError: See ``integrations._errors``.
        """
        return self.send("POST", self._base_url + path, headers=headers, content=content)

    def send(
        self,
        method: str,
        url: str,
        *,
        params: Query | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        cost: float = 1.0,
    ) -> Reply:
        """Make one call. It is repeated only if its method is safe or it carries an ``Idempotency-Key``.

        Each try spends ``cost`` units of the upstream's budget.

        Raises:
            IntegrationError: See ``integrations._errors``.
        """
        asked = self._told(method, url)
        self.require_same_origin(url, asked=asked)
        sent = {**self._authorization(), **(headers or {})}
        key = next((value for name, value in sent.items() if name.lower() == "idempotency-key"), None)
        with noted(self.upstream, method, self._template(url), key) as call:
            repeatable = method in SAFE_METHODS or key is not None
            deadline = time.monotonic() + self._deadline
            return self._tried(_Call(method, url, params, sent, content, deadline, repeatable, asked, call, cost))

    def _tried(self, call: _Call) -> Reply:
        tries = Retrying(
            stop=_enough(call, TRIES if call.may_wait else 1),
            wait=_pause,
            retry=retry_if_exception_type(_AgainError),
            reraise=True,
        )
        try:
            return tries(self._pass, call)
        except _AgainError as again:
            raise again.error from again.__cause__

    def reach(self) -> None:
        """Ask for any answer at all: what it says does not matter.

        Raises:
            IntegrationError: ``Unavailable`` if there is none.
        """
        with contextlib.suppress(Rejected):
            self.get("")

    def require_same_origin(self, link: str, *, asked: str) -> None:
        """Refuse a link that leads to another server than ours.

        Raises:
            Rejected: It does, so following it would hand our credential to somebody else.
        """
        found = origin(self._base_url, link)
        if found is None or found != origin(self._base_url, ""):
            raise Rejected(
                f"{self.upstream} answered {asked} with a link to another server: it is not followed;"
                " ask the upstream, and check the configured address.",
                upstream=self.upstream,
                status=0,
                code="foreign_link",
            )

    def _authorization(self) -> dict[str, str]:
        return {self._header: self._scheme + self._credential.get_secret_value()} if self._credential else {}

    def _secrets(self) -> list[str]:
        if self._credential is not None:
            return [self._credential.get_secret_value()]
        parts = urlsplit(self._base_url)
        return [secret for secret in (parts.path.strip("/"), parts.query) if secret]

    def _told(self, method: str, url: str) -> str:
        return f"{method} {urlsplit(url).path}" if self._credential is not None else f"{method} of its secret address"

    def _template(self, url: str) -> str:
        return template(urlsplit(url).path) if self._credential is not None else "/{secret}"

    def _pass(self, call: _Call) -> Reply:
        if self._breaker is None:
            return self._try(call)
        with self._breaker.passage(patience=call.remaining, cost=call.cost) as passage:
            try:
                return self._try(call, passage)
            except _AgainError as again:
                passage.error = again.error
                raise

    def _try(self, call: _Call, passage: Passage | None = None) -> Reply:
        call.noted.tries, call.noted.status, call.noted.request_id = call.noted.tries + 1, None, None
        try:
            reply = self._exchange(call)
        except httpx.TimeoutException as error:
            raise _AgainError(self._silence(call, "did not answer in time")) from error
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL):
            # The library's message repeats the offending header, which may be the credential: cut the chain.
            raise self._unsendable(call) from None
        except ForbiddenAddressError as error:
            raise self._forbidden(call, error) from None
        except httpx.ConnectError as error:
            raise _AgainError(self._silence(call, f"could not be reached ({error})")) from error
        except httpx.TransportError as error:
            raise _AgainError(self._silence(call, f"broke off ({type(error).__name__})")) from self._shown(error)
        except LateBodyError as error:
            raise self._silence(call, "sent its body too slowly") from error
        except BodyError as error:
            raise self._silence(call, f"sent a body that {error}") from error
        call.noted.status, call.noted.request_id = reply.status, self._request_id(reply)
        if passage is not None:
            passage.hear(reply.headers, reply.body)
        return self._judge(call, reply)

    def _shown(self, error: Exception) -> Exception | None:
        """Return an error of the library as a cause to show, unless it repeats our credential: some repeat bytes."""
        return None if any(secret in str(error) for secret in self._secrets()) else error

    def _request_id(self, reply: Reply) -> str | None:
        said = next((reply.headers[name] for name in _REQUEST_IDS if name in reply.headers), "")
        return self._without_secrets(one_line(said))[:200] or None

    def _exchange(self, call: _Call) -> Reply:
        remaining = max(call.remaining, 0.001)
        timeout = httpx.Timeout(min(READ_TIMEOUT, remaining), connect=min(CONNECT_TIMEOUT, remaining))
        request = self._client.build_request(
            call.method, call.url, params=call.params, headers=call.headers, content=call.content, timeout=timeout
        )
        with self._clock.until(call.deadline), contextlib.closing(self._client.send(request, stream=True)) as response:
            body = self._body(call, response)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(self.upstream, call.asked, response.status_code, headers, body)

    def _body(self, call: _Call, response: httpx.Response) -> bytes:
        encoding = response.headers.get("content-encoding", "").lower()
        try:
            return read_body(response.iter_raw(), encoding=encoding, limit=self._body_limit, deadline=call.deadline)
        except httpx.ReadTimeout as error:
            if call.remaining > 0:
                raise
            raise LateBodyError("did not arrive in time") from error

    def _judge(self, call: _Call, reply: Reply) -> Reply:
        wait = self._teaching.wait(reply.headers)
        asked_for_not_modified = any(name.lower() == "if-none-match" for name in call.headers)
        if reply.status < 300 or (reply.status == 304 and asked_for_not_modified):  # noqa: PLR2004 - HTTP's own numbers
            return reply
        if reply.status == 429 or (reply.status == 503 and wait is not None):  # noqa: PLR2004 - HTTP's own numbers
            raise self._throttled(call, reply, UNTOLD_WAIT if wait is None else wait)
        if reply.status in _MOMENTARY:
            raise _AgainError(reply.odd("no result"))
        if reply.status >= 500:  # noqa: PLR2004 - HTTP's own numbers
            raise reply.odd("no result")
        raise self._refusal(reply)

    def _throttled(self, call: _Call, reply: Reply, wait: float) -> Exception:
        error = Throttled(
            f"{self.upstream} answered {reply.status} to {reply.asked} and asks for {wait:.0f} s of patience:"
            " the work waits; ask the upstream for a higher limit if this happens all day.",
            upstream=self.upstream,
            retry_after=wait,
        )
        if not call.may_wait or wait > PATIENCE or wait >= call.remaining:
            return error
        call.may_wait = False
        return _AgainError(error, wait)

    def _refusal(self, reply: Reply) -> Rejected:
        code, detail = read_problem(reply.body)
        detail = self._without_secrets(detail)[:200]
        said = f"{self.upstream} answered {reply.status} to {reply.asked}"
        kind: type[Rejected] = Rejected
        advice = f"{f' ({detail})' if detail else ''}: asking again gets the same; check what was asked"
        if reply.status in {401, 403}:
            kind, advice = Unauthorized, ": check that our credential is current and may do this"
        elif reply.status in {404, 410}:
            kind, advice = NotFound, ": it is not there (any more); check the id, or the configured address"
        elif reply.status < 400:  # noqa: PLR2004 - HTTP's own numbers
            advice = ", a redirect, and we follow none: check the configured address"
        return kind(f"{said}{advice}.", upstream=self.upstream, status=reply.status, code=code)

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets():
            text = text.replace(secret, "[secret]")
        return text

    def _silence(self, call: _Call, what: str) -> Unavailable:
        message = (
            f"{self.upstream} {what} when asked {call.asked}: it is asked again later;"
            " if this persists, look at the upstream's status and at our network."
        )
        return Unavailable(message, upstream=self.upstream)

    def _unsendable(self, call: _Call) -> Rejected:
        return Rejected(
            f"The request {call.asked} to {self.upstream} could not be put into words: check its settings.",
            upstream=self.upstream,
            status=0,
            code="unsendable",
        )

    def _forbidden(self, call: _Call, error: ForbiddenAddressError) -> Rejected:
        return Rejected(
            f"The name in the address of {self.upstream} {error}, so {call.asked} was not sent:"
            " ask whoever gave it to us.",
            upstream=self.upstream,
            status=0,
            code="forbidden_address",
        )


def _guarded(trusted: str | None, clock: Deadline) -> httpx.HTTPTransport:
    """Return what carries requests, with every connection opened by the guard; it trusts the server of this address."""
    transport = httpx.HTTPTransport(
        trust_env=False, limits=httpx.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=30.0)
    )
    url = httpx.URL(trusted or "")
    known = (url.raw_host.decode(), url.port or (443 if url.scheme == "https" else 80)) if trusted else None
    # The library takes no backend of ours; the tests notice if a new version looks for it elsewhere.
    transport._pool._network_backend = PunctualBackend(AddressGuard(known), clock)  # noqa: SLF001
    return transport


def _pause(state: RetryCallState) -> float:
    again = state.outcome.exception() if state.outcome else None
    if isinstance(again, _AgainError) and again.wait is not None:
        # A little over what was asked: a thousand callers told the same second must not all return in it.
        return float(again.wait) + random.uniform(0.0, 0.25)  # noqa: S311 - spreads load, keeps no secret
    return random.uniform(0.5, 1.0) * float(0.25 * 2**state.attempt_number)  # noqa: S311 - spreads load, keeps no secret


def _enough(call: _Call, tries: int) -> Callable[[RetryCallState], bool]:
    """Stop after so many tries, or when the pause before the next one would outlast the call."""
    return lambda state: state.attempt_number >= tries or state.upcoming_sleep >= call.remaining

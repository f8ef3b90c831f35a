"""What every request to the warehouse passes: its budget, the faults of the day, the bearer token.

The gate wraps each handler. It answers problems as documents and dresses every answer with the request's id, the
warehouse's own idea of the date, and what is left of the rate limit.
"""

import asyncio
import gzip
import hmac
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cache
from time import monotonic

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sandbox.upstreams.faults import Switchboard
from sandbox.upstreams.problem import Problem
from sandbox.upstreams.warehouse import Clock

Handler = Callable[[Request], Awaitable[Response]]

_BOMB_BYTES = 64 * 1024 * 1024


class Budget:
    """Requests allowed in a fixed window; it refills as a whole when the window ends."""

    def __init__(self) -> None:
        self._used = 0
        self._started = -math.inf

    def take(self, limit: int, window_s: float, now: float) -> tuple[int, int]:
        """Spend one request; tell how many are left (-1: this was one too many) and in how many seconds it refills."""
        if now >= self._started + window_s:
            self._used, self._started = 0, now
        self._used += 1
        return max(-1, limit - self._used), math.ceil(self._started + window_s - now)


class Truncated(Response):
    """An answer that promises its whole length and hangs up in the middle."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body[: len(self.body) // 2])
        await send({"type": "http.response.body", "body": half, "more_body": True})


class Gate:
    """The way in. `requests` counts what came, `answers` what was answered, by status."""

    def __init__(self, token: str, switchboard: Switchboard, clock: Clock) -> None:
        self._token = token.encode()
        self._switchboard = switchboard
        self._clock = clock
        self._budget = Budget()
        self.requests = 0
        self.answers: dict[int, int] = {}

    def guard(self, handler: Handler) -> Handler:
        """Put the gate before a handler."""

        async def guarded(request: Request) -> Response:
            self.requests += 1
            faults = self._switchboard.faults
            left, refill_s = self._budget.take(faults.rate_limit, faults.rate_window_s, monotonic())
            try:
                response = await self._pass(handler, request, left, refill_s)
            except Problem as problem:
                response = problem.response()
            self._dress(response, left, refill_s)
            self.answers[response.status_code] = self.answers.get(response.status_code, 0) + 1
            return response

        return guarded

    async def _pass(self, handler: Handler, request: Request, left: int, refill_s: int) -> Response:
        faults = self._switchboard.faults
        if faults.latency_ms:
            await asyncio.sleep(faults.latency_ms / 1_000)
        self._authorise(request)
        if left < 0:
            raise Problem(429, "rate_limited", "The rate limit is used up.", {"Retry-After": str(refill_s)})
        self._fail()
        response = _bomb() if faults.gzip_bomb else await handler(request)
        return _truncated(response) if self._switchboard.strikes(faults.drop_connections_rate) else response

    def _authorise(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.encode(), self._token):
            raise Problem(401, "unauthorized", "Send the warehouse's bearer token.", {"WWW-Authenticate": "Bearer"})

    def _fail(self) -> None:
        switchboard, faults = self._switchboard, self._switchboard.faults
        if switchboard.strikes(faults.error_rate):
            status = switchboard.random.choice([500, 502, 503])
            raise Problem(status, "unavailable", "The warehouse is having a bad moment; try again.")
        if switchboard.strikes(faults.busy_rate):
            raise Problem(503, "busy", "The warehouse is busy.", {"Retry-After": str(faults.retry_after_s)})
        if switchboard.strikes(faults.throttle_rate):
            raise Problem(429, "throttled", "Slow down.", {"Retry-After": self._retry_after(faults.retry_after_s)})

    def _retry_after(self, seconds: int) -> str:
        as_date = self.answers.get(429, 0) % 2 == 1
        return self._date(seconds) if as_date else str(seconds)

    def _date(self, ahead_s: int = 0) -> str:
        seconds = self._clock.now_us() // 1_000_000 + ahead_s
        return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)

    def _dress(self, response: Response, left: int, refill_s: int) -> None:
        response.headers["X-Request-Id"] = f"req_{self.requests:010d}"
        response.headers["Date"] = self._date()
        response.headers["RateLimit-Limit"] = str(self._switchboard.faults.rate_limit)
        response.headers["RateLimit-Remaining"] = str(max(0, left))
        response.headers["RateLimit-Reset"] = str(refill_s)


def _truncated(response: Response) -> Response:
    cut = Truncated(response.body, response.status_code)
    cut.raw_headers = response.raw_headers
    return cut


def _bomb() -> Response:
    return Response(_bomb_body(), media_type="application/json", headers={"Content-Encoding": "gzip"})


@cache
def _bomb_body() -> bytes:
    return gzip.compress(bytes(_BOMB_BYTES))

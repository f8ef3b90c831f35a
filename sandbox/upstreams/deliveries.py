"""A sender of webhooks that does not give up: at least once, in no promised order.

Each message is posted until it is answered with 2xx, under the same id every time and signed afresh with the time
of the attempt. Real senders back off over hours; this one over seconds, so that a demo sees the healing. Some messages
may be told to go out twice, to be overtaken, or to get lost, as the switches say.
"""

import asyncio
import sys
import time
from dataclasses import dataclass, field

import httpx

from sandbox.upstreams.faults import Switchboard
from sandbox.upstreams.signatures import Sign

_SENDERS = 8
_BACKOFF_S = (0.1, 0.3, 1.0, 2.0, 5.0)
_TIMEOUT_S = 10
_OVERTAKEN_AFTER_S = (0.2, 1.0)
_POLL_S = 0.02


@dataclass(slots=True)
class Message:
    """One copy of a webhook on its way. `number` counts copies, `id` is what the receiver knows it by."""

    number: int
    id: str
    body: bytes
    attempts: int = 0


@dataclass(slots=True)
class Tally:
    """What became of the messages: copies made, posts sent, posts accepted and failed, copies given up on purpose."""

    created: int = 0
    sent: int = 0
    accepted: int = 0
    duplicate: int = 0
    failed: int = 0
    lost: int = 0


@dataclass(slots=True)
class Deliveries:
    """Messages to one path below `target` (the receiver's base URL; without one nothing is sent)."""

    path: str
    sign: Sign
    switchboard: Switchboard
    target: str | None = None
    tally: Tally = field(default_factory=Tally)
    accepted_ids: set[str] = field(default_factory=set)
    _open: dict[int, Message] = field(default_factory=dict)
    _ready: "asyncio.Queue[Message]" = field(default_factory=asyncio.Queue)

    @property
    def pending(self) -> int:
        """How many copies still have to be accepted."""
        return len(self._open)

    def post(self, message_id: str, body: bytes) -> None:
        """Take a message; it goes out as soon as a sender is free."""
        if self.target is None:
            return
        faults = self.switchboard.faults
        if self.switchboard.strikes(faults.webhook_loss_rate):
            self.tally.lost += 1
            return
        self._enqueue(message_id, body)
        if self.switchboard.strikes(faults.webhook_duplicate_rate):
            self.tally.duplicate += 1
            self._enqueue(message_id, body)

    async def drained(self, timeout_s: float) -> bool:
        """Wait until every message taken so far is accepted; False when that took too long."""
        last, deadline = self.tally.created, time.monotonic() + timeout_s
        while self._open and next(iter(self._open)) <= last:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def run(self) -> None:
        """Send for ever."""
        limits = httpx.Limits(max_connections=_SENDERS, max_keepalive_connections=_SENDERS)
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits, trust_env=False) as client:
            await asyncio.gather(*(self._send_for_ever(client) for _ in range(_SENDERS)))

    def _enqueue(self, message_id: str, body: bytes) -> None:
        self.tally.created += 1
        message = Message(self.tally.created, message_id, body)
        self._open[message.number] = message
        if self.switchboard.strikes(self.switchboard.faults.webhook_reorder_rate):
            self._later(message, self.switchboard.random.uniform(*_OVERTAKEN_AFTER_S))
        else:
            self._ready.put_nowait(message)

    def _later(self, message: Message, delay_s: float) -> None:
        asyncio.get_running_loop().call_later(delay_s, self._ready.put_nowait, message)

    async def _send_for_ever(self, client: httpx.AsyncClient) -> None:
        while True:
            message = await self._ready.get()
            self.tally.sent += 1
            if await self._accepted(client, message):
                self.tally.accepted += 1
                self.accepted_ids.add(message.id)
                del self._open[message.number]
            else:
                self.tally.failed += 1
                pause = _BACKOFF_S[min(message.attempts, len(_BACKOFF_S) - 1)]
                message.attempts += 1
                self._later(message, pause * self.switchboard.random.uniform(0.8, 1.2))

    async def _accepted(self, client: httpx.AsyncClient, message: Message) -> bool:
        headers = {"Content-Type": "application/json", **self.sign(message.id, int(time.time()), message.body)}
        try:
            answer = await client.post(f"{self.target}{self.path}", content=message.body, headers=headers)
        except Exception as error:  # noqa: BLE001 - a receiver that is cut off in the middle may surface as anything
            if not isinstance(error, httpx.HTTPError | httpx.InvalidURL):
                print(f"a webhook could not be sent: {error!r}", file=sys.stderr, flush=True)
            return False
        return answer.is_success

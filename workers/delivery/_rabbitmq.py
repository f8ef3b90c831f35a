"""Delivery through RabbitMQ: durable quorum queues, persistent messages, confirmed publishes.

RabbitMQ keeps what it confirmed on the disks of most of its nodes, and delivers again what a worker fetched and never
acknowledged as soon as that worker's connection ends; so a killed worker or a restarted broker loses no message. It
cannot tell whether it has a message already: a run that is pushed twice is delivered twice, and the claim drops the
second one.

A worker shall hold no message that others have room for. So the consumer of a queue asks for as many as there is room
for, and is cancelled as soon as it got them; while there is no room at all, what it holds too many goes back. Delays,
priorities and dead letters are the ledger's: no feature of RabbitMQ for them is used.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

import pika
from pika.channel import Channel
from pika.exceptions import AMQPError

from workers.address import Address
from workers.delivery._contract import BrokerAway, Queued, encode, run_ids
from workers.delivery._line import NAME, PATIENCE, Line

SCHEMES = ("amqp", "amqps")

#: What our queues' names begin with, for a broker that others use too.
PREFIX = "headrace."
QUORUM = {"x-queue-type": "quorum"}
#: Seconds between two signs of life; after two without one the broker delivers again what we held.
HEARTBEAT = 15
#: Seconds a connection may take to open.
CONNECT_TIMEOUT = 5
#: Seconds after which a run is pushed again although its queue is not empty: which messages are in it cannot be asked,
#: and a second copy does no harm. Far above the moment that the relay lets work lie ahead of the workers.
DOUBTED_AFTER = 300.0


class RabbitDelivery:
    """The queues in RabbitMQ, over a connection of this delivery's own, opened when it is first needed.

    Args:
        address: `amqp://user:password@host:5672/vhost`; several hosts are tried in their order.
    """

    name = NAME
    shared = False

    def __init__(self, address: Address) -> None:
        self._servers = _servers(address)
        self._line: Line | None = None
        self._outlet: _Outlet | None = None
        self._intakes: dict[str, _Intake] = {}

    def push(self, messages: Iterable[tuple[str, str, int, bool]]) -> int:
        """Push runs; return how many, once the broker has confirmed them all."""
        by_queue: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        for queue, job, run_id, _ in messages:
            by_queue[queue].append((run_id, encode(queue, job, run_id)))
        with self._connected() as line:
            outlet = self._outlet = self._outlet or _Outlet(line)
            return outlet.push(by_queue)

    def fetch(self, queue: str, most: int) -> tuple[list[bytes], list[int]]:
        """Take up to `most` messages: their receipts, and the runs they stand for."""
        with self._connected() as line:
            taken = self._intake(line, queue).fetch(most)
        return [b"%d" % tag for tag, _ in taken], run_ids(message_id for _, message_id in taken)

    def forget(self, queue: str, receipts: Sequence[bytes]) -> None:
        """Acknowledge messages: Postgres knows about them now."""
        if receipts:
            with self._connected() as line:
                self._held(queue).basic_ack(int(receipts[-1]), multiple=True)
                line.flush()

    def give_back(self, queue: str, receipts: Sequence[bytes]) -> None:
        """Put fetched messages back: they could not be claimed."""
        if receipts:
            with self._connected() as line:
                self._held(queue).basic_nack(int(receipts[-1]), multiple=True, requeue=True)
                line.flush()

    def wait(self, queue: str, seconds: float) -> None:
        """Return when something was pushed, or after the given time."""
        with self._connected() as line:
            self._intake(line, queue).wait(seconds)

    def rest(self) -> None:
        """Give back what others could take; also keeps the connection alive while we have no room."""
        if self._line is not None:
            with self._connected() as line:
                for intake in self._intakes.values():
                    intake.rest()
                line.flush()

    def lengths(self, queues: Sequence[str]) -> dict[str, int]:
        """Return how many messages nobody has fetched yet, by queue; a queue that is not there is made."""
        with self._connected() as line:
            outlet = self._outlet = self._outlet or _Outlet(line)
            return {queue: outlet.length(queue) for queue in queues}

    def lost(self, queue: str, queued: Sequence[Queued]) -> list[int]:
        """Return all of the runs if their queue is empty, else those that were pushed very long ago."""
        empty = not self.lengths([queue])[queue]
        return [run.run_id for run in queued if empty or run.age > DOUBTED_AFTER]

    def probe(self) -> None:
        """Connect and hang up: a connection that nobody turns would have been closed by the broker meanwhile."""
        Line(self._servers).close()

    def close(self) -> None:
        """Hang up; what was fetched and not acknowledged is delivered again."""
        if self._line is not None:
            self._line.close()
        self._line, self._outlet, self._intakes = None, None, {}

    @contextmanager
    def _connected(self) -> Iterator[Line]:
        """Yield the connection; whatever goes wrong ends it, with all that was fetched over it."""
        try:
            self._line = self._line or Line(self._servers)
            yield self._line
        except (AMQPError, OSError, BrokerAway) as error:
            self.close()
            raise error if isinstance(error, BrokerAway) else BrokerAway(NAME, error) from None

    def _intake(self, line: Line, queue: str) -> "_Intake":
        if queue not in self._intakes:
            self._intakes[queue] = _Intake(line, queue)
        return self._intakes[queue]

    def _held(self, queue: str) -> Channel:
        if queue not in self._intakes:
            raise BrokerAway(NAME, "the connection broke, and what was fetched over it is delivered again")
        return self._intakes[queue].channel


class _Outlet:
    """Publishes sets of messages and waits for their confirms."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._channel = line.channel()
        self._channel.add_on_return_callback(self._returned)
        line.ask(self._channel.confirm_delivery, self._settled)
        self._declared: set[str] = set()
        self._published = 0
        #: The queue of each publish that the broker has not answered yet, by number.
        self._unconfirmed: dict[int, str] = {}
        self._refusal = ""

    def length(self, queue: str) -> int:
        self._declared.add(queue)
        return _declare(self._line, self._channel, queue)

    def push(self, by_queue: dict[str, list[tuple[int, bytes]]]) -> int:
        self._refusal = ""
        for queue, messages in by_queue.items():
            if queue not in self._declared:
                self.length(queue)
            for run_id, body in messages:
                self._publish(queue, run_id, body)
        if not self._line.turn(lambda: not self._unconfirmed, PATIENCE):
            silent = ", ".join(sorted(set(self._unconfirmed.values())))
            raise BrokerAway(NAME, f"{silent} confirmed nothing for {PATIENCE:.0f} s: see whether it has a leader")
        if self._refusal:
            raise BrokerAway(NAME, self._refusal)
        return sum(map(len, by_queue.values()))

    def _publish(self, queue: str, run_id: int, body: bytes) -> None:
        persistent = pika.BasicProperties(
            delivery_mode=pika.DeliveryMode.Persistent.value, message_id=str(run_id), content_type="application/json"
        )
        self._channel.basic_publish("", PREFIX + queue, body, persistent, mandatory=True)
        self._published += 1
        self._unconfirmed[self._published] = PREFIX + queue

    def _settled(self, frame: Any) -> None:
        tag, multiple = frame.method.delivery_tag, frame.method.multiple
        for settled in [t for t in self._unconfirmed if t <= tag] if multiple else [tag]:
            self._unconfirmed.pop(settled, None)
        if isinstance(frame.method, pika.spec.Basic.Nack):
            self._refusal = "it could not keep a message"

    def _returned(self, channel: object, method: Any, *message: object) -> None:
        del channel, message
        self._refusal = f"the queue {method.routing_key} is not there yet, or was removed"


class _Intake:
    """Takes messages of one queue."""

    def __init__(self, line: Line, queue: str) -> None:
        self._line = line
        self._queue = PREFIX + queue
        self.channel = line.channel()
        self._arrived: deque[tuple[int, str]] = deque()
        self._consumer = ""
        #: Messages that we may hold, with those that have arrived already; none while there is no consumer.
        self._open_for = 0
        _declare(line, self.channel, queue)

    def fetch(self, most: int) -> list[tuple[int, str]]:
        if len(self._arrived) < most:
            self._open(most)
            self._drain(most)
        taken = [self._arrived.popleft() for _ in range(min(most, len(self._arrived)))]
        if len(taken) == most:
            # Before they are settled, or the broker would at once send as many again.
            self._shut()
        return taken

    def wait(self, seconds: float) -> None:
        if not self._arrived:
            self._open(1)
        self._line.turn(lambda: self._arrived, seconds)

    def rest(self) -> None:
        self._shut()
        while self._arrived:
            self.channel.basic_nack(self._arrived.popleft()[0], requeue=True)

    def _drain(self, most: int) -> None:
        before = -1
        while before < len(self._arrived) < most:
            before = len(self._arrived)
            self._line.flush()

    def _open(self, most: int) -> None:
        if most <= self._open_for:
            return
        self._shut()
        self._line.ask(self.channel.basic_qos, prefetch_count=min(most - len(self._arrived), 65_535))
        consumer: list[str] = []
        self._line.ask(lambda **heard: consumer.append(self.channel.basic_consume(self._queue, self._take, **heard)))
        self._consumer, self._open_for = consumer[0], most

    def _shut(self) -> None:
        if self._open_for:
            self._open_for = 0
            self._line.ask(self.channel.basic_cancel, self._consumer)

    def _take(self, channel: object, method: Any, properties: Any, body: bytes) -> None:
        del channel, body
        self._arrived.append((method.delivery_tag, properties.message_id or ""))


def _declare(line: Line, channel: Channel, queue: str) -> int:
    """Make a queue unless it is there; return how many messages nobody has fetched yet."""
    declared = line.ask(channel.queue_declare, PREFIX + queue, durable=True, arguments=QUORUM)
    return int(declared.method.message_count)


def _servers(address: Address) -> list[pika.ConnectionParameters]:
    return [_server(address, host, port) for host, port in address.hosts]


def _server(address: Address, host: str, port: int | None) -> pika.ConnectionParameters:
    """Let pika read an address with this one host; what it says itself about times goes before what we would say."""
    chosen = {
        "heartbeat": HEARTBEAT,
        "socket_timeout": CONNECT_TIMEOUT,
        "stack_timeout": CONNECT_TIMEOUT,
        "client_properties": {"connection_name": "headrace"},
        **address.options,
    }
    account = f"{quote(address.user or 'guest', safe='')}:{quote(address.password or 'guest', safe='')}"
    place = f"[{host}]" if ":" in host else host
    written = f"{place}:{port}" if port else place
    vhost = quote(address.path[0], safe="") if address.path else ""
    return pika.URLParameters(f"{address.scheme}://{account}@{written}/{vhost}?{urlencode(chosen)}")

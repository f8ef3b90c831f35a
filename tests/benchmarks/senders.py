"""Senders of signed webhooks: so many connections, each with one request under way at a time, until all are answered.

    python -m tests.benchmarks.senders URL COUNT CONNECTIONS SECRET

Prints one line of JSON: the seconds from the first request to the last answer, and the latency of each. Requests are
signed and laid out as bytes before the clock starts, and answers are only looked at as far as their status: the senders
shall cost little beside the receiver, which runs on the same machine.
"""

import asyncio
import json
import sys
import time
import uuid
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import uvloop
from pydantic import SecretStr

from integrations._schemes import signed_headers

#: Bytes of a body, about.
SIZE = 2_000
#: Seconds that one request may take.
PATIENCE = 30.0


class Sender(asyncio.Protocol):
    """One connection.

    Args:
        requests: What all of them send, taken from the left.
        latencies: Seconds that each took.
        done: Set when this one has nothing left to send.
    """

    def __init__(self, requests: "deque[bytes]", latencies: list[float], done: "asyncio.Future[None]") -> None:
        self._requests = requests
        self._latencies = latencies
        self._done = done
        self._begun = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        data = self._begun = self._begun + data
        head, blank, body = data.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if not blank or len(body) < int(length or 0):
            return  # the rest follows
        self._begun = b""
        self._latencies.append(time.perf_counter() - self._sent)
        if not data.startswith(b"HTTP/1.1 200"):
            self._done.set_exception(RuntimeError(f"refused: {data[:200]!r}"))
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or RuntimeError("the receiver hung up"))

    def _send(self) -> None:
        if self._requests:
            self._sent = time.perf_counter()
            self._transport.write(self._requests.popleft())
        elif not self._done.done():
            self._done.set_result(None)
            self._transport.close()


def request(path: str, number: int, secret: SecretStr) -> bytes:
    """Return one signed request, which is about a SKU of its own."""
    data = {"id": f"il_{number}", "sku": uuid.uuid4().hex, "on_hand": number, "note": "x" * (SIZE - 150)}
    body = json.dumps({"type": "inventory_level.updated", "data": data}).encode()
    lines = signed_headers(secret, f"msg_{uuid.uuid4().hex}", body, time.time())
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return (head + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n").encode() + body


async def send_all(url: str, count: int, connections: int, secret: SecretStr) -> dict[str, object]:
    """Send everything; return the seconds it took and the latencies."""
    parts = urlsplit(url)
    host, port = str(parts.hostname), int(parts.port or 80)
    requests = deque(request(parts.path, number, secret) for number in range(count))
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    ends = [loop.create_future() for _ in range(connections)]
    began = time.perf_counter()
    for end in ends:
        await loop.create_connection(lambda end=end: Sender(requests, latencies, end), host, port)  # type: ignore[misc]
    await asyncio.wait_for(asyncio.gather(*ends), PATIENCE + count / 100)
    return {"seconds": time.perf_counter() - began, "latencies": latencies}


if __name__ == "__main__":
    _, address, many, at_once, shared = sys.argv
    print(json.dumps(uvloop.run(send_all(address, int(many), int(at_once), SecretStr(shared)))))  # noqa: T201

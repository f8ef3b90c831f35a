"""Connections that keep the deadline of a call: no read or write waits beyond it, however lively the other side is.

The library's time limits are for one read. A server that sends a byte of its headers every second is never late by
those, and holds a thread for as long as it likes. So each read gets what is left of the call, and nothing when that is
over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ssl import SSLContext
from typing import Any

import httpcore


class Deadline:
    """The moment by which the call of each thread must be over, by ``time.monotonic()``."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    @contextmanager
    def until(self, moment: float) -> Iterator[None]:
        """Hold what this thread sends and reads in the block to a moment."""
        self._of_thread.moment = moment
        try:
            yield
        finally:
            del self._of_thread.moment

    def left(self, timeout: float | None) -> float | None:
        """Return a time limit that is no longer than what is left."""
        moment: float | None = getattr(self._of_thread, "moment", None)
        if moment is None:
            return timeout
        left = max(moment - time.monotonic(), 0.0)
        return left if timeout is None else min(timeout, left)


class PunctualBackend(httpcore.NetworkBackend):
    """Opens connections that keep a deadline."""

    def __init__(self, inner: httpcore.NetworkBackend, deadline: Deadline) -> None:
        self._inner, self._deadline = inner, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Open a connection."""
        opened = self._inner.connect_tcp(host, port, self._deadline.left(timeout), local_address, socket_options)
        return _PunctualStream(opened, self._deadline)


class _PunctualStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner, self._deadline = inner, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = self._deadline.left(timeout)
        if left == 0:  # to the socket below that would mean: whatever is there, at once
            raise httpcore.ReadTimeout("the deadline of the call is over")
        return self._inner.read(max_bytes, left)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        left = self._deadline.left(timeout)
        if left == 0:
            raise httpcore.WriteTimeout("the deadline of the call is over")
        self._inner.write(buffer, left)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        inner = self._inner.start_tls(ssl_context, server_hostname, self._deadline.left(timeout))
        return _PunctualStream(inner, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

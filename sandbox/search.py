"""A private search server from the `osmem-server` wheel, behind a front that makes it look like Elasticsearch.

The server keeps its index in memory: a restart is an empty cluster. It speaks plain JSON media types only, so a small
process of ours stands before it and translates (see `_front.py`); that is the address clients are given. While the
server is killed the front answers 503, as a load balancer would; after `stop` the port refuses.
"""

import sys
from pathlib import Path

from osmem_server import resolve_binary

from sandbox._process import Child, Server, on_free_port

_CHECKOUT = Path(__file__).resolve().parent.parent


class Search(Server):
    """A search server that the official Elasticsearch client can talk to.

    Args:
        directory: Where its logs and pid files live; created when missing.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._front: Child | None = None
        self._inner_port: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        if self._front is not None:
            self._front.stop(self.stop_signal)
        super().stop()

    def restart(self) -> None:
        """Restart the server behind its front; the index is empty afterwards."""
        super().stop()
        self.start()

    def _launch(self, port: int) -> None:
        if self._inner_port is None:
            self._inner_port = on_free_port(self._launch_server)
        elif self.pid is None:
            self._launch_server(self._inner_port)
        if self._front is None or not self._front.running:
            self._launch_front(port, self._inner_port)

    def _launch_server(self, port: int) -> None:
        child = self._child = Child(
            "search",
            [resolve_binary(), "--addr", f"127.0.0.1:{port}", "--no-stdin-watch"],
            directory=self.directory,
        )
        child.wait_until(lambda: '"url"' in child.said())

    def _launch_front(self, port: int, inner_port: int) -> None:
        front = self._front = Child(
            "front",
            [sys.executable, "-m", "sandbox._front", str(port), str(inner_port)],
            directory=self.directory,
            cwd=_CHECKOUT,
        )
        front.wait_until(lambda: "listening" in front.said())

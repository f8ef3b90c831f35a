"""Everything at once on this machine: embedded services, stand-in upstreams, and our own processes.

The demo, `make up` and the acceptance tests all stand on it, so what they show is the same system.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine, create_engine, text

from sandbox._process import free_port
from sandbox.fleet import ROOT, Fleet
from sandbox.services import Services
from sandbox.upstreams import Upstreams

#: Seconds between two looks while waiting for something.
LOOK = 0.1


class NotSettled(Exception):  # noqa: N818 - reads as what it is in a message
    """Something that was waited for did not happen in time; the message says what and how far it came."""


class Stage:
    """The running whole.

    Args:
        services: Running embedded services.
        upstreams: Running stand-ins.
    """

    def __init__(self, services: Services, upstreams: Upstreams) -> None:
        self.services = services
        self.upstreams = upstreams
        self.port = free_port()
        self.fleet = Fleet(services.folder / "processes", self.environment)
        upstreams.admin.send_webhooks_to(self.web_url)

    @classmethod
    def start(cls, name: str, *, products: int, stores: int, durable: bool = True, root: Path | None = None) -> Self:
        """Start services and stand-ins and migrate the database; our own processes are started by the caller.

        Args:
            name: First part of the folder's name.
            products: Products of the stand-in warehouse.
            stores: Its stores.
            durable: Whether Postgres waits for the disk.
            root: Where the data goes, `.sandbox` of the checkout by default.
        """
        services = Services.start(name, root or ROOT / ".sandbox", durable=durable)
        try:
            stage = cls(services, Upstreams.start(products=products, stores=stores))
        except BaseException:
            services.stop()
            raise
        try:
            stage.headrace("migrate")
        except BaseException:
            stage.close()
            raise
        return stage

    @property
    def web_url(self) -> str:
        """Address of the web process."""
        return f"http://127.0.0.1:{self.port}"

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """What our processes read."""
        return {
            **self.services.environment(),
            "WAREHOUSE_URL": self.upstreams.warehouse_url,
            "WAREHOUSE_TOKEN": self.upstreams.token,
            "WAREHOUSE_WEBHOOK_SECRETS": self.upstreams.webhook_secret,
            "STRIPE_API_KEY": "sk_test_sandbox",
            "STRIPE_API_BASE": self.upstreams.stripe_url,
            "STRIPE_WEBHOOK_SECRETS": self.upstreams.stripe_secret,
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
        }

    @cached_property
    def engine(self) -> Engine:
        """The database, for looking at it."""
        url = self.services.postgres.url.replace("postgresql://", "postgresql+psycopg://", 1)
        return create_engine(url, pool_pre_ping=True)

    def start_all(self, *, workers: int = 1) -> None:
        """Start one of each of our processes, and return once the web process answers."""
        for kind in ("web", "relay", "scheduler"):
            self.fleet.start(kind)
        self.fleet.start("worker", count=workers)
        self.wait_for("a worker, a relay and a scheduler", self._processes_alive, seconds=60)
        self.wait_for("the web process", self._web_answers, seconds=60)

    def headrace(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run the command line as an operator would.

        Raises:
            RuntimeError: If it fails and `check` is set; the message is what it said.
        """
        done = subprocess.run(
            [str(Path(sys.executable).parent / "headrace"), *arguments],
            stdin=subprocess.DEVNULL,  # nobody is asked anything
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **self.environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,  # Ctrl-C reaches us alone, and we decide what it ends
        )
        if check and done.returncode:
            raise RuntimeError(f"headrace {' '.join(arguments)} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def number(self, statement: str, **values: Any) -> int:
        """Return the one number that a statement selects; 0 when it selects nothing."""
        with self.engine.begin() as connection:
            return int(connection.execute(text(statement), values).scalar() or 0)

    def wait_for(self, what: str, reached: Callable[[], bool], *, seconds: float) -> None:
        """Look until something is so.

        Raises:
            NotSettled: If it is not so in time.
        """
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                raise NotSettled(f"waited {seconds:g} s for {what}: it did not happen; logs in {self.fleet.folder}")
            time.sleep(LOOK)

    def unsettled(self) -> int:
        """Return how much is still to be done now: runs that are due or running, and marks for the index."""
        return self.number("""
            SELECT (SELECT count(*) FROM runs WHERE state IN ('queued', 'running')
                        OR (state = 'waiting' AND due_at < now() + interval '1 minute'))
                 + (SELECT count(*) FROM search_changes)
                 + (SELECT count(*) FROM generations WHERE state = 'building')
                 + (1 - (SELECT count(*) FROM generations WHERE state = 'live'))
        """)

    def settle(self, *, seconds: float = 120) -> None:
        """Wait until nothing is left to do.

        Raises:
            NotSettled: If that takes longer.
        """
        self.wait_for("the last run and the last change of the index", lambda: self.unsettled() == 0, seconds=seconds)

    def close(self) -> None:
        """Stop everything."""
        self.fleet.close()
        self.upstreams.stop()
        self.engine.dispose()
        self.services.stop()

    def _processes_alive(self) -> bool:
        alive = "SELECT count(DISTINCT kind) FROM processes WHERE stopped_at IS NULL AND kind <> 'web'"
        return self.number(alive) == 3  # noqa: PLR2004 - worker, relay, scheduler

    def _web_answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

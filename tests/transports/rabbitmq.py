"""A private RabbitMQ node from Debian's package, with its own name, ports, data and logs: several run side by side."""

import os
import shutil
import signal
import socket
from pathlib import Path
from typing import ClassVar

import pika
import pytest

from sandbox._process import Child, Server, free_port
from workers import delivery
from workers.delivery import BrokerAway

#: Not the one on PATH, which changes the account it runs as.
PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
#: Seconds it gets to start, for it computes a good ten of them.
PATIENCE = 150.0
#: Two schedulers that sleep when they have nothing to do: other tests share the machine.
ERLANG = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"


def needed() -> None:
    """Skip the test, or fail it where everything must be tested, when RabbitMQ is not installed."""
    if not PROGRAM.exists() or not shutil.which("epmd"):
        absent = "install rabbitmq-server to test delivery through RabbitMQ"
        if os.environ.get("CI"):
            pytest.fail(absent)
        pytest.skip(absent)


class RabbitMQ(Server):
    """One node; what it confirmed outlives a restart and a crash.

    Args:
        directory: Where it keeps everything.
    """

    stop_signal: ClassVar = signal.SIGTERM

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._names_port = free_port()
        self._distribution_port = free_port()
        self._names: Child | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def _launch(self, port: int) -> None:
        self._serve_names()
        configuration = self.directory / "rabbitmq.conf"
        configuration.write_text(f"listeners.tcp.default = 127.0.0.1:{port}\ncollect_statistics_interval = 60000\n")
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "RUNNING_UNDER_SYSTEMD": "true",  # no shell between us and the node
            "HOME": str(self.directory),  # the cookie is there
            "ERL_EPMD_PORT": str(self._names_port),
            "RABBITMQ_NODENAME": f"headrace{port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_PID_FILE": str(self.directory / "node.id"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG,
        }
        child = self._child = Child("rabbitmq", [str(PROGRAM)], directory=self.directory, environment=environment)
        child.wait_until(lambda: _answers(port), patience=PATIENCE)

    def _serve_names(self) -> None:
        # Erlang would start this by itself, as a daemon that outlives us: the node must find it.
        if self._names is None or not self._names.running:
            command = ["epmd", "-address", "127.0.0.1", "-port", str(self._names_port)]
            self._names = Child("epmd", command, directory=self.directory)
            self._names.wait_until(lambda: _listens(self._names_port))

    def close(self) -> None:
        """Stop it for good."""
        self.kill()  # nobody reads its data again, and saying goodbye takes it long
        if self._names is not None:
            self._names.kill()


def remove(rabbit: RabbitMQ, queue: str) -> None:
    """Remove a queue of ours with all that is in it."""
    connection = pika.BlockingConnection(pika.URLParameters(rabbit.url))
    connection.channel().queue_delete(f"headrace.{queue}")
    connection.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(port: int) -> bool:
    try:
        delivery.through(f"amqp://127.0.0.1:{port}").probe()
    except BrokerAway:
        return False
    return True

"""A private PgBouncer in transaction mode, from Debian's package, before the database of one test."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sandbox._process import Child, free_port
from tests.workers.rows import until

#: Of the server, for all of its clients.
CONNECTIONS = 2

CONFIGURATION = """
[databases]
{name} = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
"""


@contextmanager
def running(url: str, folder: Path) -> Iterator[str]:
    """Run one while a block runs; yields the address of the database behind it.

    Args:
        url: Address of the database itself.
        folder: Where it keeps its configuration and log.
    """
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        absent = "install pgbouncer to test schedulers behind it"
        if os.environ.get("CI"):
            pytest.fail(absent)
        pytest.skip(absent)
    to, listen = urlsplit(url), free_port()
    facts = {"host": to.hostname, "port": to.port, "user": to.username, "password": to.password}
    configuration = folder / "pgbouncer.ini"
    name = to.path.removeprefix("/")
    configuration.write_text(CONFIGURATION.format(name=name, listen=listen, connections=CONNECTIONS, **facts))
    configuration.chmod(0o644)
    as_somebody = ["-u", "nobody"] if os.getuid() == 0 else []  # it refuses to run as root
    child = Child("pgbouncer", [program, *as_somebody, str(configuration)], directory=folder, environment={})
    try:
        until(lambda: "process up" in child.said(), why=child.said())
        yield f"postgresql://{to.username}@127.0.0.1:{listen}/{name}"
    finally:
        child.stop(signal.SIGTERM)

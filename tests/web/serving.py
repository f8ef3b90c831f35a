"""A real web process, and deliveries signed like the warehouse signs them."""

import base64
import hashlib
import hmac
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from sandbox.services import Services
from tests.copies import Copy

KEY = b"a key of thirty-two bytes, maybe"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@dataclass
class Web:
    """A started web process."""

    url: str
    process: Copy

    def client(self, token: str | None = None) -> httpx.Client:
        """Return a client; with a token it is the program of that user."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, timeout=20, headers=headers)


def environment(services: Services, database_url: str) -> dict[str, str]:
    """What a web process reads, with the warehouse configured."""
    return (
        os.environ
        | services.environment()
        | {
            "DATABASE_URL": database_url,
            "PORT": "0",
            "WAREHOUSE_URL": "http://127.0.0.1:9",
            "WAREHOUSE_TOKEN": "made-up",
            "WAREHOUSE_WEBHOOK_SECRETS": SECRET,
        }
    )


@contextmanager
def serving(variables: dict[str, str]) -> Iterator[Web]:
    """Start `python -m web`, wait for the line with its address, stop it at the end."""
    with TemporaryDirectory() as folder:
        out = Path(folder, "out")
        process = Copy("web", (), out=out, err=Path(folder, "err"), environment=variables)
        try:
            until(lambda: "\n" in process.said() or not process.running, seconds=60)
            line = process.said()
            assert "http://" in line, f"the web process did not start: {process.wait(10)}"
            yield Web("http://127.0.0.1:" + line.splitlines()[0].rpartition(":")[2], process)
        finally:
            process.stop(20)


def signed(body: bytes, external_id: str = "msg_1", at: float | None = None) -> dict[str, str]:
    """Return the headers with which the warehouse signs a body."""
    moment = str(int(time.time() if at is None else at))
    mac = hmac.new(KEY, b".".join([external_id.encode(), moment.encode(), body]), hashlib.sha256).digest()
    return {
        "webhook-id": external_id,
        "webhook-timestamp": moment,
        "webhook-signature": "v1," + base64.b64encode(mac).decode(),
    }


def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)

"""What everybody is measured on: one Postgres that waits for the disk and one Valkey, cleaned before every round."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg
import redis

from sandbox.fleet import ROOT
from sandbox.services import Services


class Ground:
    """The servers.

    Args:
        services: Running embedded services; Postgres is durable.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self.folder = services.folder / "rounds"
        self.folder.mkdir(exist_ok=True)
        self._databases: dict[str, str] = {}

    @classmethod
    @contextmanager
    def start(cls, root: Path | None = None) -> Iterator[Self]:
        """Run the servers while a block runs."""
        with Services.start("benchmarks", root or ROOT / ".sandbox", durable=True) as services:
            yield cls(services)

    def database(self, name: str) -> tuple[str, bool]:
        """Return the address of a contestant's database, and whether it is new."""
        if name in self._databases:
            return self._databases[name], False
        self._databases[name] = self.services.postgres.create_database(f"bench_{name}")
        return self._databases[name], True

    def drop(self, name: str) -> None:
        """Forget a contestant's database."""
        if self._databases.pop(name, None):
            self.services.postgres.drop_database(f"bench_{name}")

    def clear(self) -> None:
        """Forget all of them."""
        for name in list(self._databases):
            self.drop(name)

    def redis_url(self, number: int = 0) -> str:
        """Return the address of a database of Valkey."""
        return f"{self.services.valkey.url.rpartition('/')[0]}/{number}"

    def wipe(self, number: int = 0) -> None:
        """Empty a database of Valkey."""
        with redis.Redis.from_url(self.redis_url(number)) as client:
            client.flushdb()

    def settle(self, name: str) -> None:
        """Let Postgres finish what the last round left behind, so that the next does not pay for it."""
        self.execute(name, "VACUUM ANALYZE")
        self.execute(name, "CHECKPOINT")

    def execute(self, name: str, statement: str, values: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run a statement in a contestant's database and return its rows."""
        with psycopg.connect(self.database(name)[0], autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

"""The three servers that Headrace needs, started together for one run and gone with it.

Each run has a folder of its own, `<root>/<name>-<pid>-<letters>/`, and holds a lock on a file in it for as long as it
lives: the kernel lets go of the lock however the run ends. So several runs live side by side, and each start first
removes, processes and folders, what runs without a living owner left behind.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from sandbox._process import ServerStartError, end_recorded
from sandbox.postgres import Postgres, forget_elsewhere
from sandbox.search import Search
from sandbox.valkey import Valkey

# Unmistakable: a folder that has no such file is never taken for a run's, whatever `root` we are given.
_LOCK = "headrace-run.lock"


class Services:
    """A private Postgres, Valkey and search server.

    Example:
        with Services.start(name="demo", root=Path(".sandbox")) as services:
            subprocess.run(command, env=os.environ | services.environment())
    """

    def __init__(self, folder: Path, lock: IO[str], *, durable: bool) -> None:
        self.folder = folder
        self._lock = lock
        self.postgres = Postgres(folder / "postgres", durable=durable)
        self.valkey = Valkey(folder / "valkey")
        self.search = Search(folder / "search")

    @classmethod
    def start(cls, name: str, root: Path, *, durable: bool = True) -> Self:
        """Clean up after crashed runs, then start the three at the same time.

        Args:
            name: The first part of the folder's name, for people.
            root: Holds one folder per run; created when missing.
            durable: See `Postgres`.

        Raises:
            ServerStartError: One of them did not come up (the others are stopped then), or `root` is somebody else's.
        """
        try:
            folder, lock = _claim_folder(name, root.absolute())
        except PermissionError as error:
            raise ServerStartError(f"{root} belongs to another user: remove it, or choose another folder.") from error
        services = cls(folder, lock, durable=durable)
        try:
            services._start_together()
        except BaseException:
            services.stop()
            raise
        return services

    def environment(self) -> dict[str, str]:
        """The three addresses under the names that Headrace's processes read."""
        return {
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.valkey.url,
            "ELASTICSEARCH_URL": self.search.url,
        }

    def supervise(self) -> list[str]:
        """Start again every server that ended by itself or was killed; return their names."""
        ended = [server for server in (self.postgres, self.valkey, self.search) if server.pid is None]
        for server in ended:
            server.start()
        return [type(server).__name__ for server in ended]

    def stop(self) -> None:
        """Stop the three and remove the folder."""
        with ThreadPoolExecutor() as pool:
            closings = [pool.submit(server.close) for server in (self.postgres, self.valkey, self.search)]
        _remove_run(self.folder)
        self._lock.close()
        for closing in closings:
            closing.result()

    def _start_together(self) -> None:
        with ThreadPoolExecutor() as pool:
            # Awaited inside: an interrupt then leaves the block only once no start is under way any more.
            for start in [pool.submit(server.start) for server in (self.postgres, self.valkey, self.search)]:
                start.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _claim_folder(name: str, root: Path) -> tuple[Path, IO[str]]:
    if not root.exists():
        root.mkdir(parents=True)
        root.chmod(0o711)  # whatever the umask: the account that Postgres runs as must pass through
    folder = root / f"{name}-{os.getpid()}-{secrets.token_hex(3)}"
    with _one_at_a_time(root):
        for leftover in root.iterdir():
            _remove_if_dead(leftover)
        folder.mkdir()
        folder.chmod(0o711)
        lock = (folder / _LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    # A folder is born and locked in two steps; nobody may judge it in between.
    with (root / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_if_dead(folder: Path) -> None:
    try:
        lock = (folder / _LOCK).open("r+")
    except (NotADirectoryError, FileNotFoundError, PermissionError):
        return  # not the folder of a run, or not ours
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # its owner lives
        for pid_file in folder.glob("*/*.pid"):
            end_recorded(pid_file)
        forget_elsewhere(folder / "postgres")
        _remove_run(folder)


def _remove_run(folder: Path) -> None:
    # The lock goes last: if we die half-way, the next start still knows the rest for a run's.
    for server in folder.glob("*/"):
        shutil.rmtree(server, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)

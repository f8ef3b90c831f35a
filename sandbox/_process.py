"""One embedded server process, and the promise that it never outlives us.

A `Child` is a server that this process started in a session of its own, so that Ctrl-C reaches us and we decide in
which order things stop. Beside it sits a guard: a tiny shell that reads a pipe only we hold open. Should we die in any
way, even by `kill -9`, the kernel closes the pipe and the guard ends the server. (The kernel's parent-death signal
would fire already when the *thread* that started the server ends, and we start servers from threads.) The pid is also
written to a file, so that the next start can remove what a lost guard left behind. The server itself begins only when
both are there: until we say so, its process is a shell that reads a pipe of ours, too, and leaves when we die first.

A `Server` is what the sandbox hands out: a kept port, a directory, and start, stop, kill, restart.
"""

import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, ClassVar, Self, cast

import psutil

# All that a server gets to see of our environment: no PG... variable of a developer changes what it does.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}

# Below every ephemeral range we know: a client that keeps dialling a server that is down can then never be
# given that server's port as its own source port, which would keep the server from coming back.
_PORTS = range(20_000, 32_000)
_PORT_ATTEMPTS = 5
_READY_SECONDS = 60.0
_END_SECONDS = 5.0
_POLL_SECONDS = 0.02
_GUARD = 'read -r farewell && exit 0; kill -"$1" "$2"; kill -CONT "$2"'
_ONCE_GUARDED = 'read -r guarded || exit; exec "$@" </dev/null'


class ServerStartError(RuntimeError):
    """An embedded server did not start; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Account:
    """The system account a server runs as when ours may not be used."""

    uid: int
    gid: int


class Child:
    """A running server process with its guard, its log and its pid file.

    Args:
        name: Names the log (`<name>.log`) and the pid file (`<name>.pid`) in `directory`.
        command: Program and arguments.
        directory: An existing directory of ours.
        farewell: The signal its guard sends once we are gone.
        account: Run as this account instead of ours.
        cwd: Working directory, `directory` by default.
        environment: All that it gets to see of the environment.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        directory: Path,
        farewell: signal.Signals = signal.SIGKILL,
        account: Account | None = None,
        cwd: Path | None = None,
        environment: Mapping[str, str] = ENVIRONMENT,
    ) -> None:
        self._name = name
        self._log = directory / f"{name}.log"
        self._log.touch(mode=0o600)
        self._log_start = self._log.stat().st_size
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _ONCE_GUARDED, name, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd or directory,
                env=dict(environment),
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                start_new_session=True,
            )
        self._guard = _guard(self._process.pid, farewell)
        self._pid_file = directory / f"{name}.pid"
        self._pid_file.write_text(f"{self.pid} {psutil.Process(self.pid).create_time()}\n")
        self._begin()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def said(self) -> str:
        """What this process, not its predecessors in the same log, has logged so far."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def wait_until(self, ready: Callable[[], bool], patience: float = _READY_SECONDS) -> None:
        """Poll `ready` until it holds.

        Raises:
            ServerStartError: The process ended first, or `patience` seconds passed. It is killed then.
        """
        deadline = time.monotonic() + patience
        while not ready():
            if not self.running or time.monotonic() > deadline:
                why = "took too long to start" if self.running else f"ended at once (exit {self._process.returncode})"
                self.kill()
                raise ServerStartError(f"The embedded {self._name} {why}. The end of its log:\n{self.said()[-2000:]}")
            time.sleep(_POLL_SECONDS)

    def stop(self, request: signal.Signals, patience: float = 10.0) -> None:
        """Ask it to end with `request`; kill it when it has not after `patience` seconds."""
        if self.running:
            self._process.send_signal(request)
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self.kill()
        self._forget()

    def kill(self) -> None:
        """SIGKILL it with all its descendants, as a crash of the machine would."""
        if self.running:
            _kill_tree(psutil.Process(self.pid))
            self._process.wait()
        self._forget()

    def _begin(self) -> None:
        # One that was killed already is seen by whoever waits for it.
        with suppress(BrokenPipeError), cast("IO[bytes]", self._process.stdin) as word:
            word.write(b"guarded\n")

    def _forget(self) -> None:
        self._pid_file.unlink(missing_ok=True)
        if self._guard.returncode is None:
            self._guard.communicate(b"farewell\n")


class Server(ABC):
    """An embedded server on 127.0.0.1 whose port is chosen at the first start and kept.

    Args:
        directory: Where its data, logs and pid files live; created when missing.
    """

    stop_signal: ClassVar = signal.SIGTERM

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._port: int | None = None
        self._child: Child | None = None

    @property
    def port(self) -> int:
        """The kept port.

        Raises:
            ServerStartError: It was never started, so there is none.
        """
        if self._port is None:
            raise ServerStartError(f"The embedded {type(self).__name__} has no port yet: call start() first.")
        return self._port

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients reach it."""

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._child.pid if self._child and self._child.running else None

    def start(self) -> None:
        """Start it and return once it answers; nothing happens when it runs already.

        Raises:
            ServerStartError: It did not come up; the message carries the end of its log.
        """
        if self.pid is not None:
            return
        self.kill()  # a server that died by itself still has a guard and a pid file
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._port is None:
            self._port = on_free_port(self._launch)
        else:
            self._launch(self._port)

    @abstractmethod
    def _launch(self, port: int) -> None:
        """Start the process on `port`, keep it in `_child`, wait until it answers."""

    def stop(self) -> None:
        """Stop it gracefully; port and data are kept for the next start."""
        if self._child is not None:
            self._child.stop(self.stop_signal)

    def kill(self) -> None:
        """End it as a crash would, with SIGKILL; port and data are kept for the next start."""
        if self._child is not None:
            self._child.kill()

    def restart(self) -> None:
        """Stop it gracefully and start it on the same port with the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it for good."""
        self.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def on_free_port(launch: Callable[[int], None]) -> int:
    """Launch on a port nobody listens on; another one when somebody was faster.

    Returns:
        The port that `launch` succeeded with.

    Raises:
        ServerStartError: The last failure, after a few ports.
    """
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        port = free_port()
        try:
            launch(port)
        except ServerStartError:
            if attempt == _PORT_ATTEMPTS:
                raise
        else:
            return port
    raise AssertionError("unreachable: the last attempt returns or raises")


def end_recorded(pid_file: Path) -> None:
    """End the process that a `Child` of a dead owner recorded, unless its pid belongs to somebody else by now."""
    try:
        pid, created = pid_file.read_text().split()
        process = psutil.Process(int(pid))
        # The boot time is read from a clock that may be corrected: the same process may seem a moment off.
        if abs(process.create_time() - float(created)) < 1.0:
            _kill_tree(process)
    except (ValueError, FileNotFoundError, psutil.NoSuchProcess):
        return  # half written by an owner that died, or ended meanwhile


def _guard(pid: int, farewell: signal.Signals) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, "guard", farewell.name.removeprefix("SIG"), str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )


def _kill_tree(process: psutil.Process) -> None:
    # Postgres refuses to start again while one of its own children is still attached to the shared memory.
    family = [process]
    try:
        family += process.children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    deadline = time.monotonic() + _END_SECONDS
    while not all(map(_ended, family)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS / 10)


def _ended(process: psutil.Process) -> bool:
    # A zombie holds nothing any more, and in a container without an init it is never cleared away.
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on now."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port

"""Our processes under chaos: started, killed, frozen, thawed, and started again when they end, as a supervisor would.

A frozen member counts as running, for a supervisor cannot see it either. It is thawed once the ledger has closed its
row, so every freeze lasts longer than a heartbeat may be silent, and what it then still believes to hold is not its own
any more.
"""

import os
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.copies import Copy

COMMANDS = {
    "worker": ["workers.worker", "--threads", "8", "--grace", "10"],
    "relay": ["workers.relay"],
    "scheduler": ["scheduler"],
}
#: Workers are three: one may be frozen and another dead, and work goes on.
MEMBERS = ("worker-1", "worker-2", "worker-3", "relay-1", "relay-2", "scheduler-1", "scheduler-2")


class Crew:
    """The members by name.

    Args:
        folder: Holds their logs.
        environment: What they read.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._environment = {"PATH": os.environ["PATH"], **environment}
        self._members: dict[str, Copy] = {}
        self.frozen: set[str] = set()

    def start(self) -> None:
        """Start all members."""
        for name in MEMBERS:
            self._launch(name)

    def victims(self, kind: str = "") -> list[str]:
        """Return the members that run and are not frozen, in order."""
        return [
            name
            for name, child in self._members.items()
            if name.startswith(kind) and child.running and name not in self.frozen
        ]

    def pid(self, name: str) -> int:
        """Return the process id of a member."""
        return self._members[name].pid

    def kill(self, name: str) -> None:
        """End a member by SIGKILL."""
        self._members[name].kill()

    def freeze(self, name: str) -> None:
        """Stop a member where it is; it keeps its connections, its locks and its belief to be alive."""
        os.kill(self.pid(name), signal.SIGSTOP)
        self.frozen.add(name)

    def thaw(self, name: str) -> None:
        """Let a frozen member go on."""
        os.kill(self.pid(name), signal.SIGCONT)
        self.frozen.remove(name)

    def supervise(self) -> list[str]:
        """Start again every member that ended; return their names."""
        ended = [name for name, child in self._members.items() if not child.running]
        for name in ended:
            self._launch(name)
        return ended

    def stop(self, kind: str = "") -> None:
        """Stop the members of a kind gracefully, all at the same time; they are not started again."""
        names = [name for name in self._members if name.startswith(kind)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: self._members.pop(name).stop(30), names))

    def _launch(self, name: str) -> None:
        command = COMMANDS[name.partition("-")[0]]
        log = self._folder / f"{name}.log"
        self._members[name] = Copy("tests.chaos.member", command, out=log, environment=self._environment)

"""Our own processes, started as the Procfile says and watched.

Each member is a child with its own log; a member that ends by itself is started again by `supervise`, as any process
supervisor would. The Procfile is the only description of how a process starts: what runs here is what runs in
production, with other addresses in its environment.
"""

import itertools
import shlex
import signal
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sandbox._process import Child

ROOT = Path(__file__).resolve().parent.parent
#: Seconds a member gets to finish what it does.
PATIENCE = 30.0


class Fleet:
    """Members by name: `worker-1`, `worker-2`, `web-1` ...

    Args:
        folder: Holds their logs; created when missing.
        environment: What they read; the interpreter running us is found first.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self._members: dict[str, tuple[str, Child]] = {}

    @property
    def members(self) -> dict[str, Child]:
        """The members that were started and not stopped."""
        return {name: child for name, (_, child) in self._members.items()}

    def start(self, kind: str, *, count: int = 1, extra: str = "") -> list[str]:
        """Start members of a kind of the Procfile.

        Args:
            kind: The word before the colon.
            count: How many more of them.
            extra: Further options of the command.

        Returns:
            Their names.
        """
        free = (name for number in itertools.count(1) if (name := f"{kind}-{number}") not in self._members)
        names = list(itertools.islice(free, count))
        for name in names:
            self._launch(name, f"{processes()[kind]} {extra}".strip())
        return names

    def kill(self, name: str) -> None:
        """End a member as a crash would, with SIGKILL."""
        self._members[name][1].kill()

    def stop(self, name: str) -> None:
        """Stop a member gracefully."""
        self._members.pop(name)[1].stop(signal.SIGTERM, PATIENCE)

    def supervise(self) -> list[str]:
        """Start again every member that ended by itself or was killed; return their names."""
        ended = [(name, command) for name, (command, child) in self._members.items() if not child.running]
        for name, command in ended:
            self._launch(name, command)
        return [name for name, _ in ended]

    def close(self) -> None:
        """Stop all members at the same time."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.stop, list(self._members)))

    def log(self, name: str) -> str:
        """Return the last lines a member has logged."""
        return "\n".join(self._members[name][1].said().splitlines()[-20:])

    def _launch(self, name: str, command: str) -> None:
        child = Child(name, shlex.split(command), directory=self.folder, cwd=ROOT, environment=self._environment)
        self._members[name] = (command, child)


def processes() -> dict[str, str]:
    """Return the commands of the Procfile by kind."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    return {kind.strip(): command.strip() for kind, _, command in (line.partition(":") for line in lines) if command}

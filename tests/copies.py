"""Processes of ours that begin at once: copies of one that has read all of our code and nothing else.

Reading the code is nearly all that a start costs, a second of processor, and the tests start hundreds of processes. So
they ask a process that has read it, and does nothing else, to fork. What a test defined or configured in its own
process is not in there. A copy is a process like any other: it has its own pid, log, environment and session, takes
signals, leaves an exit code. The tests of whole programs start them from the shell instead, as a user does.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: All that the copies may run. What registers jobs of a test is read by the copy that wants it.
CODE = ("scheduler", "web.__main__", "workers.cli.app", "workers.relay", "workers.worker", "elasticsearch", "alembic")

ORIGINAL = multiprocessing.get_context("forkserver")
ORIGINAL.set_forkserver_preload([__name__, *CODE])


class Copy:
    """One running copy.

    Args:
        module: Run as `python -m module`.
        options: Its command line.
        out: Where its standard output goes; the file is appended to.
        err: Where its standard error goes, with the output when None.
        environment: All that it gets to see of the environment.
    """

    def __init__(
        self,
        module: str,
        options: Sequence[str],
        *,
        out: Path,
        err: Path | None = None,
        environment: Mapping[str, str],
    ) -> None:
        self._out = out
        # A daemon, so that it does not outlive the tests.
        self._process = ORIGINAL.Process(
            target=_run, args=(module, list(options), out, err or out, dict(environment)), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def said(self) -> str:
        """Return what is in its log so far."""
        return self._out.read_text(errors="replace") if self._out.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        """Wait for its end; return its exit code, negative for the signal that ended it.

        Raises:
            subprocess.TimeoutExpired: If it goes on.
        """
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self._out), seconds, self.said())
        return self._process.exitcode

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        self._process.kill()
        self._process.join()

    def stop(self, seconds: float) -> None:
        """Ask it to stop; kill it when it has not after the given time."""
        if self.running:
            self.signal(signal.SIGTERM)
            self._process.join(seconds)
        if self.running:
            self.kill()


def _run(module: str, options: list[str], out: Path, err: Path, environment: dict[str, str]) -> None:
    os.setsid()
    os.chdir(ROOT)
    for path, number in ((out, 1), (err, 2)):
        with path.open("ab") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = [module, *options]
    warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)  # that it was read is the point
    runpy.run_module(module, run_name="__main__", alter_sys=True)

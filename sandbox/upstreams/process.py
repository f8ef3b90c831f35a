"""The stand-ins as a child process that its starter can pause, stop and kill, and that never outlives it."""

import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack

from sandbox.upstreams.controls import Admin

TOKEN = "sandbox-token"  # noqa: S105 - it opens nothing but a stand-in on the loopback address
WEBHOOK_SECRET = "whsec_c2FuZGJveC13YXJlaG91c2Utc2VjcmV0"  # noqa: S105 - the same
STRIPE_SECRET = "whsec_sandbox_stripe_secret"  # noqa: S105 - the same

_ROOT = Path(__file__).resolve().parents[2]
_STOP_WITHIN_S = 5


class Options(TypedDict, total=False):
    """What a pair of stand-ins can be started with; `python -m sandbox.upstreams --help` explains each."""

    products: int
    stores: int
    seed: int
    port: int
    token: str
    webhook_secret: str
    stripe_secret: str
    webhook_target: str | None
    live: float
    rate_limit: int


class Upstreams:
    """A running pair of stand-ins: where they are, the secrets they use, and `admin` to command them.

    `with Upstreams.start(products=50) as upstreams: ...` stops them at the end of the block. A process that was
    stopped or killed has forgotten what changed since its start; `pause` is an outage without loss of memory.
    """

    def __init__(self, process: "subprocess.Popen[str]", url: str, options: Options) -> None:
        self._process = process
        self.token = options["token"]
        self.webhook_secret = options["webhook_secret"]
        self.stripe_secret = options["stripe_secret"]
        self.port = int(url.rpartition(":")[2])
        self.warehouse_url = url
        self.stripe_url = f"{url}/stripe"
        self.admin = Admin(url)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @classmethod
    def start(cls, **options: Unpack[Options]) -> Self:
        """Start the stand-ins and return once they answer.

        Raises:
            RuntimeError: the process ended instead of answering; its reason is on standard error.
        """
        secrets: Options = {"token": TOKEN, "webhook_secret": WEBHOOK_SECRET, "stripe_secret": STRIPE_SECRET}
        chosen: Options = {**secrets, **options}
        process = _spawn([f"--{name.replace('_', '-')}={value}" for name, value in chosen.items() if value is not None])
        return cls(process, _url(process), chosen)

    def stop(self) -> None:
        """End the process in good order; harmless when it has ended already."""
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._release()

    def kill(self) -> None:
        """End the process as a crash would."""
        self._process.kill()
        self._release()

    def pause(self) -> None:
        """Freeze the process: connections are taken and never answered."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Thaw it again."""
        self._process.send_signal(signal.SIGCONT)

    def _release(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self.admin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _spawn(flags: list[str]) -> "subprocess.Popen[str]":
    # Its standard input is a pipe that we hold: when we die, in whatever way, it closes and the child ends itself.
    return subprocess.Popen(
        [sys.executable, "-m", "sandbox.upstreams", "--tethered", *flags],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches us alone, and we decide in which order things stop
    )


def _url(process: "subprocess.Popen[str]") -> str:
    line = process.stdout.readline().strip() if process.stdout else ""
    if not line.startswith("URL="):
        raise RuntimeError(f"The stand-in upstreams ended at start with code {process.wait()}; see the error above.")
    return line.removeprefix("URL=")

"""What a worker process has in its hands: runs that it claimed, and those that a thread is executing."""

import time
from dataclasses import dataclass, field

from jobs._context import Stop
from workers.ledger import Claim


@dataclass
class Held:
    """A run in this process's hands."""

    claim: Claim
    stop: Stop
    #: Its room in the window was returned; each held attempt returns it once.
    released: bool = False
    #: When it was taken over, by this process's monotonic clock.
    since: float = field(default_factory=time.monotonic)


@dataclass
class AtWork:
    """An attempt that a thread is executing."""

    #: More than one if its job takes a chunk.
    held: list[Held]
    thread: int
    #: Seconds it may take.
    limit: float
    began: float = field(default_factory=time.monotonic)
    #: Its job is at work: an error raised in its thread would strike it, and nothing of ours.
    exposed: bool = False
    #: That error was raised.
    struck: bool = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def run_id(self) -> int:
        return self.held[0].claim.run_id

    @property
    def job(self) -> str:
        return self.held[0].claim.job

    @property
    def attempt(self) -> int:
        return self.held[0].claim.attempt

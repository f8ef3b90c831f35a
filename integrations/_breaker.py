"""The layer of a call that leaves an upstream alone which has failed too often.

    deadline of the call → tries → breaker → one try

Each try asks for passage and says afterwards what it learnt. Without passage the call ends at once with `CircuitOpen`
and the seconds until the next probe: waiting for longer is nothing for a thread, so the caller puts its work back.

    with breaker.passage():
        ...  # one try

Until a process shares a circuit the breaker has one of its own, so a client is never without.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_hex

from integrations._circuit import Circuit, LocalCircuit, Standing, Verdict
from integrations._errors import CircuitOpen, IntegrationError, Rejected, Unavailable

#: Told when a circuit opened, stays open for longer, or closed, and what the last failure was.
Tell = Callable[[Standing, str | None], None]


@dataclass(slots=True)
class Passage:
    """A try that was admitted."""

    #: What the try will be reported as, if that is not what was raised.
    error: BaseException | None = None


class Breaker:
    """What all calls to one upstream pass.

    Args:
        upstream: Its name.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self._circuit: Circuit = LocalCircuit()
        self._tell: Tell = _nobody
        #: Somebody may have been told that it is open, and not that it is closed again.
        self._doubtful = True

    def share(self, circuit: Circuit, tell: Tell) -> None:
        """Use a circuit that other processes use too, and tell somebody what becomes of it."""
        self._circuit, self._tell = circuit, tell

    @contextmanager
    def passage(self) -> Iterator[Passage]:
        """Admit one try.

        Raises:
            CircuitOpen: The upstream is left alone.
        """
        token = token_hex(8)
        self._enter(token)
        passage = Passage()
        try:
            yield passage
        except BaseException as error:
            self._leave(token, passage.error or error)
            raise
        self._leave(token, None)

    def _enter(self, token: str) -> None:
        found = self._circuit.admit(token)
        if found.wait > 0:
            self._doubtful = True
            raise CircuitOpen(_open(self.upstream, found), upstream=self.upstream, retry_after=found.wait)
        if found.open_for is None and self._doubtful:
            self._doubtful = False
            self._tell(found, None)

    def _leave(self, token: str, error: BaseException | None) -> None:
        changed = self._circuit.settle(token, judge(error))
        if changed is not None:
            self._doubtful = changed.open_for is not None
            self._tell(changed, str(error) if error is not None else None)


def judge(error: BaseException | None) -> Verdict:
    """Return what the end of a try tells about the upstream."""
    match error:
        case None:
            return Verdict.ANSWERED
        case Unavailable():
            return Verdict.FAILED
        case Rejected(status=0):  # refused by ourselves
            return Verdict.UNTOLD
        case IntegrationError():
            return Verdict.ANSWERED
    return Verdict.UNTOLD


def _open(upstream: str, found: Standing) -> str:
    since = datetime.fromtimestamp(found.at - (found.open_for or 0.0), UTC)
    probe = datetime.fromtimestamp(found.at + found.wait, UTC)
    return (
        f"{upstream} failed too often and is left alone: its circuit is open since {since:%H:%M:%S} UTC, and the next"
        f" call may try at {probe:%H:%M:%S} UTC."
    )


def _nobody(standing: Standing, error: str | None) -> None:
    del standing, error

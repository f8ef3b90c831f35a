"""The layers of a call between its tries and one try: whether an upstream may be asked now, and how much.

    deadline of the call → tries → circuit, budget, places → time limit of one try → transport

Each try asks for passage and says afterwards what it learnt. A short wait for a unit of the budget or for a place is
made on the spot, within the call's own time. For longer there is no passage: the call ends at once with `CircuitOpen`
or `OutOfBudget` and the seconds to stay away. Waiting is nothing for a thread, so the caller puts its work back.

    with breaker.passage(patience=1.0) as passage:
        ...  # one try
        passage.hear(headers, body)

Until a process shares a door the breaker has one of its own, so a client is never without.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_hex

from integrations._budget import Hindrance, Refusal
from integrations._circuit import Standing, Verdict
from integrations._door import Ask, Door, LocalDoor
from integrations._errors import CircuitOpen, IntegrationError, OutOfBudget, Rejected, Throttled, Unavailable
from integrations._rate import POLITE, Rate
from integrations._teaching import NOTHING, Lesson, Teaching

#: Told when a circuit opened, stays open for longer, or closed, and what the last failure was.
Tell = Callable[[Standing, str | None], None]
#: Told when an upstream asked everybody to stay away: for how many seconds, and how it said so.
TellBlock = Callable[[float, str], None]

#: Seconds that a try waits on the spot at most, in all.
PATIENCE = 1.0


@dataclass(slots=True)
class Passage:
    """A try that was admitted."""

    teaching: Teaching
    #: What the try will be reported as, if that is not what was raised.
    error: BaseException | None = None
    lesson: Lesson = NOTHING

    def hear(self, headers: Mapping[str, str], body: bytes) -> None:
        """Take in what an answer of any kind says about the limit; header names are lower case."""
        self.lesson = self.teaching.learn(headers, body)


class Breaker:
    """What all calls to one upstream pass.

    Args:
        upstream: Its name.
        rate: How much of it may be used.
        teaching: How it says what it allows.
    """

    def __init__(self, upstream: str, rate: Rate = POLITE, teaching: Teaching | None = None) -> None:
        self.upstream = upstream
        self.rate = rate
        self.teaching = teaching or Teaching()
        self._door: Door = LocalDoor(rate)
        self._tell: Tell = _nobody
        self._tell_block: TellBlock = _nobody
        #: Somebody may have been told that it is open, and not that it is closed again.
        self._doubtful = True

    def share(self, door: Door, tell: Tell, tell_block: TellBlock | None = None) -> None:
        """Use a door that other processes use too, and tell somebody what becomes of it."""
        self._door, self._tell, self._tell_block = door, tell, tell_block or _nobody

    @contextmanager
    def passage(self, *, patience: float = PATIENCE, cost: float = 1.0) -> Iterator[Passage]:
        """Admit one try.

        Args:
            patience: Seconds that it may wait on the spot; it never waits for longer than `PATIENCE`.
            cost: Units of the budget that it is known to cost.

        Raises:
            CircuitOpen: The upstream is left alone.
            OutOfBudget: It allows no more for now, or enough calls are under way.
        """
        ask = self._enter(time.monotonic() + min(patience, PATIENCE), cost)
        passage = Passage(self.teaching)
        try:
            yield passage
        except BaseException as error:
            self._leave(ask, passage, passage.error or error)
            raise
        self._leave(ask, passage, None)

    def _enter(self, until: float, cost: float) -> Ask:
        while True:
            ask = Ask(token_hex(8), cost, max(0.0, until - time.monotonic()))
            found = self._door.admit(ask)
            refusal = found.refusal
            if refusal is None:
                self._say_closed(found.standing)
                return ask
            if refusal.hindrance is Hindrance.CIRCUIT:
                self._doubtful = True
                raise CircuitOpen(
                    _open(self.upstream, found.standing), upstream=self.upstream, retry_after=refusal.ready
                )
            if refusal.ready > ask.patience:
                raise OutOfBudget(_spent(self.upstream, refusal), upstream=self.upstream, retry_after=refusal.turn)
            time.sleep(refusal.ready)

    def _say_closed(self, standing: Standing) -> None:
        if standing.open_for is None and self._doubtful:
            self._doubtful = False
            self._tell(standing, None)

    def _leave(self, ask: Ask, passage: Passage, error: BaseException | None) -> None:
        changed = self._door.settle(ask, judge(error), _with_block(passage.lesson, error))
        if changed.standing is not None:
            self._doubtful = changed.standing.open_for is not None
            self._tell(changed.standing, str(error) if error is not None else None)
        if changed.block is not None:
            self._tell_block(
                changed.block, str(error) if isinstance(error, Throttled) else _nothing_left(self.upstream)
            )


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


def _with_block(lesson: Lesson, error: BaseException | None) -> Lesson:
    """Return a lesson with the patience that a refusal asked for, from everybody."""
    if not isinstance(error, Throttled):
        return lesson
    return Lesson(error.retry_after, lesson.remaining, lesson.interval, lesson.cost)


def _open(upstream: str, found: Standing) -> str:
    since = datetime.fromtimestamp(found.at - (found.open_for or 0.0), UTC)
    probe = datetime.fromtimestamp(found.at + found.wait, UTC)
    return (
        f"{upstream} failed too often and is left alone: its circuit is open since {since:%H:%M:%S} UTC, and the next"
        f" call may try at {probe:%H:%M:%S} UTC."
    )


def _spent(upstream: str, refusal: Refusal) -> str:
    turn = datetime.now(UTC) + timedelta(seconds=refusal.turn)
    if refusal.hindrance is Hindrance.PLACES:
        why = f"as many calls to {upstream} are under way as may be"
    else:
        why = f"the budget of {upstream} refills in {math.ceil(refusal.ready)} s"
    return f"{why}: the work waits, its turn comes at {turn:%H:%M:%S} UTC."


def _nothing_left(upstream: str) -> str:
    return f"{upstream} said that nothing is left of its limit"


def _nobody(*what: object) -> None:
    del what

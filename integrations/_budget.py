"""How much of an upstream is left to spend now: the rules, and the budget that one process keeps.

    units    come back evenly, up to the burst (GCRA: one number, the moment at which all of them are back). A call that
             costs more than there can ever be waits for all of them and leaves a debt.
    block    the upstream asked everybody to stay away. When its time is over exactly one call asks; if that is answered
             the block is over and units come back one by one, if it is asked to wait again there is a new block.
    places   calls under way. A place that is not given back is free again after its lease, so nobody's death costs one.
    line     who cannot wait on the spot is told when its own turn is, one interval behind the one before, so that a
             thousand runs that are put back do not all return for the same unit. A turn takes no unit.

The budget of this module is in the memory of one process: what `integrations._shared_budget` falls back on, and the
model that the shared one is tested against.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock

from integrations._circuit import LEASE, Verdict
from integrations._rate import Rate
from integrations._retry_after import LONGEST
from integrations._teaching import Lesson

#: Seconds after which whoever waits for a place, or for the answer of the one call that asks, looks again.
SOON = 0.1


class Hindrance(StrEnum):
    """Why a call may not be made now."""

    CIRCUIT = "circuit"
    BLOCKED = "blocked"
    BUDGET = "budget"
    PLACES = "places"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that may not be made now."""

    hindrance: Hindrance
    #: Seconds until that may be over.
    ready: float
    #: Seconds until the caller's own turn; the same for one that waits on the spot.
    turn: float


@dataclass(frozen=True, slots=True)
class Level:
    """How much of a budget is left."""

    tokens: float
    #: Seconds until the block is over; None without one, 0 for one that only has to be asked about.
    blocked: float | None
    under_way: int
    #: Seconds until one unit has come back, as declared or taught.
    interval: float


class LocalBudget:
    """A budget in the memory of this process.

    Args:
        rate: What may be spent.
        clock: Seconds that never go back.
    """

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = Lock()
        #: The end of each call's lease.
        self._places: dict[str, float] = {}
        #: When all units are back, and the turn of the next one that is put back.
        self._full_at, self._line = 0.0, 0.0
        #: The end of a block, kept until one call has asked.
        self._until: float | None = None
        self._probe: str | None = None
        self._lease = 0.0
        #: Seconds until one unit has come back, as the upstream says.
        self._taught = 0.0

    def admit(self, token: str, cost: float, patience: float) -> Refusal | None:
        """Spend units and take a place for a call, if it may be made now; else what is in the way.

        Args:
            token: The call.
            cost: Units.
            patience: Seconds that the caller waits on the spot; one that waits for longer is told its turn.
        """
        with self._lock:
            now = self._clock()
            found = self._hindrance(now, cost)
            if found is not None:
                return self._refuse(now, cost, patience, *found)
            if self._until is not None:
                self._probe, self._lease = token, now + LEASE
            self._full_at = max(self._full_at, now) + cost * self._interval
            self._places[token] = now + LEASE
            return None

    def settle(self, token: str, verdict: Verdict, lesson: Lesson, paid: float) -> float | None:
        """Give back a place and learn from the answer; the seconds of a block that is new.

        Args:
            token: The call that was admitted.
            verdict: What it told about its upstream.
            lesson: What it taught about the limit.
            paid: Units that it was admitted for.
        """
        with self._lock:
            now = self._clock()
            self._places.pop(token, None)
            self._learn(now, lesson, paid)
            if lesson.block is not None:
                return lesson.block if self._block(now, lesson.block) else None
            if token == self._probe:
                self._probed(now, verdict)
            return None

    def block(self, seconds: float) -> None:
        """Take over a block that another budget of the same upstream tells of."""
        with self._lock:
            self._block(self._clock(), seconds)

    def reset(self) -> None:
        """Forget what was spent, taught and asked for; calls under way stay so."""
        with self._lock:
            self._full_at = self._line = self._taught = 0.0
            self._until = self._probe = None

    def level(self) -> Level:
        """Return how much is left."""
        with self._lock:
            now = self._clock()
            self._leave(now)
            missing = max(0.0, self._full_at - now) / self._interval
            blocked = None if self._until is None else max(0.0, self._until - now)
            return Level(self._rate.burst - missing, blocked, len(self._places), self._interval)

    @property
    def _interval(self) -> float:
        return max(self._rate.interval, self._taught)

    def _leave(self, now: float) -> None:
        self._places = {token: lease for token, lease in self._places.items() if lease > now}

    def _hindrance(self, now: float, cost: float) -> tuple[Hindrance, float] | None:
        if self._until is not None and now < self._until:
            return Hindrance.BLOCKED, self._until - now
        if self._probe is not None and now < self._lease:
            return Hindrance.BLOCKED, min(self._lease - now, SOON)
        burst = self._rate.burst
        over = max(self._full_at, now) - now - (burst - min(cost, burst)) * self._interval
        if over > 0:
            return Hindrance.BUDGET, over
        self._leave(now)
        return (Hindrance.PLACES, SOON) if len(self._places) >= self._rate.concurrency else None

    def _refuse(self, now: float, cost: float, patience: float, hindrance: Hindrance, ready: float) -> Refusal:
        if ready <= patience:
            return Refusal(hindrance, ready, ready)
        turn = min(max(self._line, now + ready), now + ready + LONGEST)
        self._line = turn + cost * self._interval
        return Refusal(hindrance, ready, turn - now)

    def _learn(self, now: float, lesson: Lesson, paid: float) -> None:
        if lesson.interval is not None:
            self._taught = min(lesson.interval, LONGEST)
        if lesson.cost is not None:
            self._full_at += (lesson.cost - paid) * self._interval
        if lesson.remaining is not None:
            missing = max(0.0, self._rate.burst - lesson.remaining)
            self._full_at = max(self._full_at, now + missing * self._interval)
        # An upstream that names an absurd cost is asked again within an hour, like one that asks for absurd patience.
        self._full_at = min(self._full_at, now + self._rate.burst * self._interval + LONGEST)

    def _block(self, now: float, seconds: float) -> bool:
        longer = self._until is None or now + seconds > self._until
        if longer:
            self._until, self._probe = now + seconds, None
        return longer

    def _probed(self, now: float, verdict: Verdict) -> None:
        self._probe = None
        if verdict is Verdict.ANSWERED:
            self._until = None
            self._full_at = max(self._full_at, now + self._rate.burst * self._interval)

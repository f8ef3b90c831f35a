"""What becomes of a run whose attempt ended in an error: one pure decision.

    Unavailable                 retry with backoff and jitter
    Throttled                   snooze for as long as the upstream asked; no attempt burnt
    CircuitOpen                 snooze until the next probe and a little more, not all for as long; no attempt burnt
    OutOfBudget                 the same until its turn
    Rejected                    dead at once: asking again will not help
    Snooze, Cancel              the job's own word
    Interrupted, shutdown       back at once; no attempt burnt
    a time limit                a failure like any other
    anything else               our bug: retry, then dead

A job may have pauses of its own for a class of errors, `@job(backoffs={Unavailable: Backoff(first=60)})`: the class
nearest to the error's own decides. An attempt that its time limit ended is looked up as a `TimeoutError`.

Nothing here touches a clock, a broker or a database: the executor acts on the answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from integrations import CircuitOpen, OutOfBudget, Rejected, Throttled
from jobs._signals import Cancel, Interrupted, Snooze
from models import Outcome, State

#: Longest snooze in seconds; what asks for more is asked again then.
LONGEST_SNOOZE = 30 * 86_400.0
#: What is added to a wait for a circuit or a budget, at random: up to this part of it, and up to so many seconds at
#: least. Who met the same one must not all come back in the same instant.
SPREAD, LEAST_SPREAD = 0.25, 1.0


@dataclass(frozen=True)
class Backoff:
    """Pauses between attempts: `first` seconds, doubled each time up to `longest`, each cut by up to half at random."""

    first: float = 5.0
    longest: float = 3600.0

    def pause(self, failures: int, random: Random) -> float:
        """Return the seconds to wait after the given number of failures (1 for the first)."""
        full = min(self.longest, self.first * 2.0 ** min(failures - 1, 30))
        return full * random.uniform(0.5, 1.0)


Backoffs = Mapping[type[BaseException], Backoff]
NO_BACKOFFS: Backoffs = MappingProxyType({})


@dataclass(frozen=True)
class Decision:
    """What to record: the attempt's outcome, the run's next state, and when it is due again."""

    outcome: Outcome
    state: State
    #: Seconds until it is due; only for a run that waits again.
    delay: float = 0.0
    #: Whether it counts against the run's allowance.
    counts: bool = False
    #: Replaces the error's own message where that says too little.
    reason: str | None = None


DONE = Decision(Outcome.SUCCEEDED, State.SUCCEEDED)
INTERRUPTED = Decision(Outcome.SHUTDOWN, State.WAITING, reason="the worker was stopped; the run goes on elsewhere")


def decide(
    error: BaseException,
    *,
    failures: int,
    max_attempts: int,
    backoff: Backoff,
    random: Random,
    backoffs: Backoffs = NO_BACKOFFS,
    timed_out: bool = False,
) -> Decision:
    """Judge an attempt that raised.

    Args:
        error: What it raised.
        failures: Counted failures before this attempt.
        max_attempts: Failures allowed.
        backoff: The job's pauses.
        random: Source of jitter.
        backoffs: Its pauses after certain errors.
        timed_out: Whether it was ended by its time limit.
    """
    match error:
        case Snooze(delay=delay) | Throttled(retry_after=delay):
            most = max(LEAST_SPREAD, SPREAD * delay) if isinstance(error, CircuitOpen | OutOfBudget) else 0.0
            spread = random.uniform(0.0, most)
            return Decision(Outcome.SNOOZED, State.WAITING, delay=min(LONGEST_SNOOZE, max(0.0, delay) + spread))
        case Cancel():
            return Decision(Outcome.CANCELLED, State.CANCELLED)
        case Interrupted():
            return INTERRUPTED
        case Rejected():
            return Decision(Outcome.FAILED, State.DEAD, counts=True)
    outcome = Outcome.TIMED_OUT if timed_out else Outcome.FAILED
    if failures + 1 >= max_attempts:
        return Decision(outcome, State.DEAD, counts=True)
    chosen = nearest(backoffs, TimeoutError if timed_out else type(error)) or backoff
    return Decision(outcome, State.WAITING, delay=chosen.pause(failures + 1, random), counts=True)


def nearest(backoffs: Backoffs, error: type[BaseException]) -> Backoff | None:
    """Return the pauses of the class that is nearest to the error's own, or None if no class of it is named."""
    return next((backoffs[kind] for kind in error.__mro__ if kind in backoffs), None)


def is_retried(error: type[BaseException]) -> bool:
    """Whether an error of this class is followed by a pause of the job's own choice."""
    return not issubclass(error, (Snooze, Throttled, Cancel, Interrupted, Rejected))

"""The life of one attempt, from the claim to its outcome.

    turn             one thread takes runs from the line until there are none
      ├─ begun       the next run in line, in the order in which they were claimed
      ├─ prepared    its job, its context, the stop switches that other threads may turn
      ├─ performed   the job's function; whatever it raises is caught, also a time limit
      ├─ judged      the policy decides: succeeded, again, dead, cancelled
      └─ recorded    one ending into the buffer; the buffer writes it

The broker's consumer has claimed the runs already, in sets, and asks for a thread wherever one is free and a run has
none (see `workers.broker`). So a set of short runs costs a few turns and not a change of threads for each run, and a
long one keeps only its own thread. Nothing here talks to the broker, and no hook of it is trusted: if this process
dies anywhere in these lines, the run is still `running` under a process whose heartbeat stops, and the rescue puts it
back.
"""

import math
import time
import traceback
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from random import Random
from threading import Lock, get_ident
from typing import Any

from dramatiq.middleware import TimeLimitExceeded, raise_thread_exception
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

import jobs
from jobs import Context, Job, Snooze
from jobs._context import Stop
from jobs._policy import DONE, INTERRUPTED, Decision, decide
from models import Outcome, State
from workers import ledger, logs
from workers.ledger import Claim, Ending
from workers.outcomes import Outcomes
from workers.process import Running
from workers.runtime import Runtime
from workers.window import Window

PAUSED = text(
    "SELECT name, paused_by, reason FROM upstreams WHERE name = ANY(:names) AND paused_at IS NOT NULL LIMIT 1"
)

#: Seconds a run waits that met an upstream paused by an operator.
PAUSED_SNOOZE = 15.0
#: Seconds after which a claim that we know nothing of has not reached us.
ANSWER_LOST = 10.0
#: Seconds from which on also an attempt that went well has a line in the process's log; the ledger has them all.
WORTH_A_LINE = 1.0
NEVER_ARRIVED = Ending(
    0, 0, state=State.WAITING, outcome=Outcome.LOST, error="its claim was committed, but the worker never heard of it"
)


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

    held: Held
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
        return self.held.claim.run_id

    @property
    def job(self) -> str:
        return self.held.claim.job

    @property
    def attempt(self) -> int:
        return self.held.claim.attempt


class Executor:
    """Executes claimed runs.

    Args:
        runtime: The process's resources.
        outcomes: Where endings, log lines and progress go.
        window: The allowance of runs this process may hold.
        threads: Runs to execute at the same time.
    """

    def __init__(self, runtime: Runtime, outcomes: Outcomes, window: Window, *, threads: int) -> None:
        self._runtime = runtime
        self._outcomes = outcomes
        self._window = window
        self._jobs = jobs.names()
        self._held: dict[int, Held] = {}
        #: Claimed and not begun. What was given back meanwhile is still in it, marked as released.
        self._line: deque[Held] = deque()
        #: By thread, also attempts that were given back while they run.
        self._at_work: dict[int, AtWork] = {}
        self._free_threads = threads
        #: Threads that were sent for and have not arrived.
        self._coming = 0
        self._lock = Lock()
        self._random = Random()  # noqa: S311 - jitter, not a secret
        self._interrupted = False

    @property
    def held(self) -> int:
        """How many runs this process holds."""
        return len(self._held)

    def at_work(self) -> list[AtWork]:
        """Return the attempts that threads are executing now."""
        with self._lock:
            return list(self._at_work.values())

    def end_late(self) -> None:
        """Raise an error in the threads whose attempt has reached its time limit; it ends them at their next step."""
        with self._lock:
            for work in self._at_work.values():
                if work.exposed and not work.struck and work.seconds >= work.limit:
                    work.struck = True
                    raise_thread_exception(work.thread, TimeLimitExceeded)  # type: ignore[no-untyped-call]

    def give_up(self, work: AtWork, stack: str) -> None:
        """Record an attempt that cannot be ended as timed out, although its thread goes on."""
        with self._lock:
            mine = self._let_go(work.held)
        if mine:
            ending = self._judge(work.held.claim, TimeLimitExceeded())
            error = f"{ending.error}, and nothing could interrupt it: its worker process was recycled"
            self._outcomes.ending(replace(ending, error=error, traceback=stack))

    def hold(self, claims: Iterable[Claim]) -> None:
        """Take over runs that were just claimed, in the order in which they are to begin."""
        with self._lock:
            for claim in claims:
                if former := self._held.get(claim.run_id):
                    former.stop.interrupted = True  # taken from us while we were thought dead: it works for nothing
                held = self._held[claim.run_id] = Held(claim, Stop(interrupted=self._interrupted))
                self._line.append(held)

    def wants_thread(self) -> bool:
        """Whether a run has no thread and one is free, which is then expected to come for a turn."""
        with self._lock:
            wanted = self._free_threads > 0 and len(self._line) > self._coming and not self._interrupted
            if wanted:
                self._free_threads -= 1
                self._coming += 1
            return wanted

    def will_not_come(self) -> None:
        """Say that a thread that was sent for will not come."""
        with self._lock:
            self._free_threads += 1
            self._coming -= 1

    def compare(self, running: list[Running]) -> None:
        """Act on what the ledger says this process holds.

        Jobs that an operator cancelled are told to stop, and so are attempts that were taken from us. A claim that
        never arrived here is given back.
        """
        for run in running:
            with self._lock:
                held = self._held.get(run.run_id)
            if held and held.claim.attempt == run.attempt:
                held.stop.cancelled |= run.unwanted
            elif run.age > ANSWER_LOST and not self._outcomes.holds(run.run_id):
                logs.get().warning("a claim never reached this worker: given back", run=run.run_id)
                self._outcomes.ending(replace(NEVER_ARRIVED, run_id=run.run_id, attempt=run.attempt))
        self._stop_strays({(run.run_id, run.attempt) for run in running})

    def _stop_strays(self, ours: set[tuple[int, int]]) -> None:
        """Tell attempts to stop that the ledger no longer counts as ours: what they do is done elsewhere."""
        long_ago = time.monotonic() - ANSWER_LOST
        with self._lock:
            for held in self._held.values():
                if held.since < long_ago and (held.claim.run_id, held.claim.attempt) not in ours:
                    held.stop.interrupted = True

    def interrupt(self) -> None:
        """Tell every running job that the process is stopping, and give back what has not begun."""
        with self._lock:
            self._interrupted = True
            for held in self._held.values():
                held.stop.interrupted = True
            begun = {id(work.held) for work in self._at_work.values()}
            waiting = [held for held in self._held.values() if id(held) not in begun]
        self._give_back(waiting)

    def put_back(self) -> None:
        """Give back all runs that were claimed and not finished."""
        with self._lock:
            unfinished = list(self._held.values())
        self._give_back(unfinished)

    def _give_back(self, unwanted: list[Held]) -> None:
        with self._lock:
            given_back = [held for held in unwanted if self._let_go(held)]
        for held in given_back:
            self._outcomes.ending(_ending(held.claim, INTERRUPTED))
            self._window.give_back(1)

    def turn(self) -> None:
        """Execute one run after the other until none is left for this thread."""
        with self._lock:
            self._coming -= 1
        try:
            while (work := self._begin()) is not None:
                self.execute(work)
        except BaseException:  # nothing of a job's comes this far; Dramatiq tells it, and the thread is free again
            with self._lock:
                self._at_work.pop(get_ident(), None)
                self._free_threads += 1
            raise

    def _begin(self) -> AtWork | None:
        """Return the next run in line, now at work in this thread; without one, the thread is free."""
        with self._lock:
            while self._line and not self._interrupted:
                held = self._line.popleft()
                if not held.released:
                    job = self._jobs.get(held.claim.job)
                    work = AtWork(held, get_ident(), job.time_limit if job else math.inf)
                    self._at_work[work.thread] = work
                    return work
            self._free_threads += 1
            return None

    def execute(self, work: AtWork) -> None:
        """Run one attempt in this thread and hand over its outcome; never raises."""
        try:
            work.exposed = True
            ending = self._attempt(work.held)
            self._cover(work)
        except TimeLimitExceeded as late:  # it struck when the job had just returned: too late
            self._cover(work)
            ending = self._judge(work.held.claim, late)
        self._record(work, ending)

    def _cover(self, work: AtWork) -> None:
        """From here on nothing is raised in this thread; what was raised before strikes now, if it did not yet."""
        with self._lock:
            work.exposed = False
        if work.struck:
            time.sleep(0)  # an error that another thread raised is delivered at a call at the latest

    def _record(self, work: AtWork, ending: Ending) -> None:
        self._outcomes.ending(ending)
        seconds = work.seconds
        with self._lock:
            self._at_work.pop(work.thread, None)
            mine = self._let_go(work.held)
        if mine:  # otherwise it was given back while it ran
            self._window.done(seconds)
            _log(work.held.claim, ending, seconds)

    def _let_go(self, held: Held) -> bool:
        """Forget an attempt, never its successor; whether it was still held. Call it with the lock."""
        if self._held.get(held.claim.run_id) is held:
            del self._held[held.claim.run_id]
        held.released, before = True, held.released
        return not before

    def _attempt(self, held: Held) -> Ending:
        claim = held.claim
        try:
            job = jobs.find(claim.job)
            self._check_upstreams(job)
            result = job.run(self._context(held, job), claim.args)
            return _ending(claim, DONE, result=ledger.small(result))
        except BaseException as error:  # noqa: BLE001 - whatever it is, also `sys.exit`, becomes the outcome
            return self._judge(claim, error)

    def _context(self, held: Held, job: Job[Any]) -> Context:
        return Context(
            run_id=held.claim.run_id,
            attempt=held.claim.attempt,
            job=job.name,
            slot_at=held.claim.slot_at,
            sessions=self._runtime.sessions,
            integration=self._runtime.use,
            reporter=self._outcomes,
            stop=held.stop,
            resume_from=held.claim.checkpoint or {},
        )

    def _check_upstreams(self, job: Job[Any]) -> None:
        names = [kind.name for kind in job.needs]
        if not names:
            return
        with self._runtime.engine.begin() as connection:
            paused = _paused(connection, names)
        if paused:
            raise Snooze(PAUSED_SNOOZE, paused)

    def _judge(self, claim: Claim, error: BaseException) -> Ending:
        known = self._jobs.get(claim.job)
        decision = decide(
            error,
            failures=claim.failures,
            max_attempts=claim.max_attempts,
            backoff=known.backoff if known else jobs.Backoff(),
            backoffs=known.backoffs if known else {},
            random=self._random,
            timed_out=isinstance(error, TimeLimitExceeded),
        )
        return _ending(claim, decision, error=error, limit=known.time_limit if known else 0)


def _paused(connection: Connection, names: list[str]) -> str | None:
    row = connection.execute(PAUSED, {"names": names}).first()
    if row is None:
        return None
    return f"upstream {row.name} is paused by {row.paused_by}: {row.reason or 'no reason given'}"


def _ending(
    claim: Claim,
    decision: Decision,
    *,
    result: dict[str, Any] | None = None,
    error: BaseException | None = None,
    limit: float = 0,
) -> Ending:
    message = decision.reason
    if isinstance(error, TimeLimitExceeded):
        message = f"took longer than its time limit of {limit:g} s"
    elif error is not None:
        message = describe(error)
    return Ending(
        run_id=claim.run_id,
        attempt=claim.attempt,
        state=decision.state,
        outcome=decision.outcome,
        delay=decision.delay,
        counts=decision.counts,
        error=message,
        error_class=type(error).__name__ if error is not None else None,
        traceback=_trace(error) if error is not None and decision.counts else None,
        result=result,
        limited=claim.key is not None or claim.followed,
    )


def describe(error: BaseException) -> str:
    """Return an error as one redacted message, also when the error cannot be printed."""
    try:
        # A refused statement is told by what Postgres said of it; the statement itself is in the traceback.
        message = str(error.orig if isinstance(error, DBAPIError) and error.orig else error)
    except Exception:  # noqa: BLE001 - an error whose message raises is still an error
        message = "its message could not be read"
    return ledger.cut(logs.redact_text(message or type(error).__name__))


def _trace(error: BaseException) -> str:
    lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-30)
    return ledger.cut(logs.redact_text("".join(lines)), ledger.TRACEBACK_LIMIT)


def _log(claim: Claim, ending: Ending, seconds: float) -> None:
    """Write one line for an attempt, except for a short one that went well: the line would cost more than the run."""
    if ending.error is None and seconds < WORTH_A_LINE:
        return
    log = logs.get().bind(run=claim.run_id, job=claim.job, attempt=claim.attempt, seconds=round(seconds, 3))
    if ending.error is None:
        log.info("run ended", outcome=str(ending.outcome))
    else:
        log.warning("run ended", outcome=str(ending.outcome), state=str(ending.state), error=ending.error[:500])

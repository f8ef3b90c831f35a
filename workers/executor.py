"""The life of one attempt, from the claim to its outcome.

    turn             one thread takes runs from the line until there are none
      ├─ begun       the next run in line, in the order in which they were claimed; with a chunk's job, others beside it
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
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from random import Random
from threading import Lock, get_ident
from typing import Any

from dramatiq.middleware import TimeLimitExceeded, raise_thread_exception
from sqlalchemy import Row, text
from sqlalchemy.exc import SQLAlchemyError

import jobs
from integrations import CircuitOpen, Throttled
from jobs import Chunk, Context, Job, Member, Snooze
from jobs._context import Stop
from jobs._policy import DONE, INTERRUPTED, decide
from models import Outcome, State
from workers import circuits, ledger, logs, throttles
from workers.endings import ending
from workers.held import AtWork, Held
from workers.journal import AttemptJournal
from workers.ledger import Claim, Ending
from workers.outcomes import Outcomes
from workers.process import Running
from workers.runtime import Runtime
from workers.window import Window

HELD_BACK = text(f"""
    SELECT name, paused_at, paused_by, reason, circuit_opened_at, next_probe_at, circuit_error,
           extract(epoch FROM next_probe_at - now())::float8 AS wait, {throttles.COLUMNS}, now() AS now
    FROM upstreams
    WHERE name = ANY(:names) AND (paused_at IS NOT NULL OR {circuits.IS_SHUT} OR {throttles.IS_THROTTLED})
    ORDER BY paused_at, greatest(next_probe_at, throttled_until) DESC LIMIT 1
""")

#: Seconds a run waits that met an upstream paused by an operator.
PAUSED_SNOOZE = 15.0
#: Seconds after which a claim that we know nothing of has not reached us.
ANSWER_LOST = 10.0
#: Seconds from which on also an attempt that went well has a line in the process's log; the ledger has them all.
WORTH_A_LINE = 1.0
NEVER_ARRIVED = Ending(
    0, 0, state=State.WAITING, outcome=Outcome.LOST, error="its claim was committed, but the worker never heard of it"
)


class Executor:
    """Executes claimed runs.

    Args:
        runtime: The process's resources.
        outcomes: Where endings, log lines and progress go.
        window: The allowance of runs this process may hold.
        threads: Runs to execute at the same time.
        process_id: Returns who claims what a chunk takes along.
    """

    def __init__(
        self, runtime: Runtime, outcomes: Outcomes, window: Window, *, threads: int, process_id: Callable[[], int]
    ) -> None:
        self._process_id = process_id
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
        for held in work.held:
            with self._lock:
                mine = self._let_go(held)
            if mine:
                late = self._judge(held.claim, TimeLimitExceeded())
                error = f"{late.error}, and nothing could interrupt it: its worker process was recycled"
                self._outcomes.ending(replace(late, error=error, traceback=stack))

    def hold(self, claims: Iterable[Claim]) -> None:
        """Take over runs that were just claimed, in the order in which they are to begin."""
        with self._lock:
            for claim in claims:
                self._line.append(self._take_over(claim))

    def _take_over(self, claim: Claim) -> Held:
        """Hold a claim; call it with the lock."""
        if former := self._held.get(claim.run_id):
            former.stop.interrupted = True  # taken from us while we were thought dead: it works for nothing
        held = self._held[claim.run_id] = Held(claim, Stop(interrupted=self._interrupted))
        return held

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
            begun = {id(held) for work in self._at_work.values() for held in work.held}
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
            self._outcomes.ending(ending(held.claim, INTERRUPTED))
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
            held = self._next()
            if held is None:
                self._free_threads += 1
                return None
            job = self._jobs.get(held.claim.job)
            work = self._at_work[get_ident()] = AtWork([held], get_ident(), job.time_limit if job else math.inf)
        if job is not None and job.chunk is not None:
            self._take_along(work, job, job.chunk.most)
        return work

    def _next(self, names: Collection[str] = ()) -> Held | None:
        """Take the next run out of the line, if it is one of these jobs; call it with the lock."""
        while self._line and not self._interrupted:
            held = self._line[0]
            if not held.released and names and held.claim.job not in names:
                return None
            self._line.popleft()
            if not held.released:
                return held
        return None

    def _take_along(self, work: AtWork, job: Job[Any], most: int) -> None:
        """Fill a chunk with runs of the same job: those next in line, then those that are due and held by nobody."""
        names = {job.name, *job.formerly}
        with self._lock:
            while len(work.held) < most and (held := self._next(names)):
                work.held.append(held)
        room = most - len(work.held)
        if not room or self._interrupted:
            return
        try:
            with self._runtime.machinery.begin() as connection:
                queue = work.held[0].claim.queue
                beside = ledger.claim_beside(connection, queue, sorted(names), self._process_id(), room)
        except SQLAlchemyError:
            return  # the chunk is smaller; should that have been committed, the next heartbeats give it back
        self._window.add(len(beside))
        with self._lock:
            work.held += [self._take_over(claim) for claim in beside]

    def execute(self, work: AtWork) -> None:
        """Run one attempt in this thread, or those of a chunk, and hand over the outcome; never raises."""
        try:
            work.exposed = True
            endings = self._attempt(work.held)
            self._cover(work)
        except TimeLimitExceeded as late:  # it struck when the job had just returned: too late
            self._cover(work)
            endings = [self._judge(held.claim, late) for held in work.held]
        self._record(work, endings)

    def _cover(self, work: AtWork) -> None:
        """From here on nothing is raised in this thread; what was raised before strikes now, if it did not yet."""
        with self._lock:
            work.exposed = False
        if work.struck:
            time.sleep(0)  # an error that another thread raised is delivered at a call at the latest

    def _record(self, work: AtWork, endings: Sequence[Ending]) -> None:
        for each in endings:
            self._outcomes.ending(each)
        seconds = work.seconds
        with self._lock:
            self._at_work.pop(work.thread, None)
            mine = [self._let_go(held) for held in work.held]
        for held, each, ours in zip(work.held, endings, mine, strict=True):
            if ours:  # otherwise it was given back while it ran
                self._window.done(seconds / len(endings))
                _log(held.claim, each, seconds)

    def _let_go(self, held: Held) -> bool:
        """Forget an attempt, never its successor; whether it was still held. Call it with the lock."""
        if self._held.get(held.claim.run_id) is held:
            del self._held[held.claim.run_id]
        held.released, before = True, held.released
        return not before

    def _attempt(self, held: list[Held]) -> list[Ending]:
        claim = held[0].claim
        try:
            job = jobs.find(claim.job)
            self._check_upstreams(job)
            with AttemptJournal(claim.run_id, claim.attempt, self._runtime.machinery, self._outcomes.call):
                if job.chunk is not None:
                    return self._attempt_chunk(held, job, job.chunk)
                result = job.run(self._context(claim, job, held[0].stop), claim.args)
            return [ending(claim, DONE, result=ledger.small(result))]
        except BaseException as error:  # noqa: BLE001 - whatever it is, also `sys.exit`, becomes the outcome
            return [self._judge(each.claim, error) for each in held]

    def _attempt_chunk(self, held: list[Held], job: Job[Any], chunk: Chunk[Any]) -> list[Ending]:
        claims = [each.claim for each in held]
        members = [chunk.member(job, c.run_id, c.attempt, c.args, h.stop) for c, h in zip(claims, held, strict=True)]
        able = [member for member in members if not member.settled]
        common: BaseException | None = None
        try:
            if able:
                chunk.function(self._context(claims[0], job, *(each.stop for each in held)), able)
        except BaseException as error:  # noqa: BLE001 - what it is becomes the outcome of all that were not settled
            common = error
        return [self._end_member(claim, member, common) for claim, member in zip(claims, members, strict=True)]

    def _end_member(self, claim: Claim, member: Member[Any], common: BaseException | None) -> Ending:
        error = member.error if member.settled else common
        return self._judge(claim, error) if error else ending(claim, DONE, result=ledger.small(member.result))

    def _context(self, claim: Claim, job: Job[Any], stop: Stop, *other_stops: Stop) -> Context:
        return Context(
            run_id=claim.run_id,
            attempt=claim.attempt,
            job=job.name,
            slot_at=claim.slot_at,
            sessions=self._runtime.sessions,
            integration=self._runtime.use,
            reporter=self._outcomes,
            stop=stop,
            other_stops=other_stops,
            resume_from=claim.checkpoint or {},
        )

    def _check_upstreams(self, job: Job[Any]) -> None:
        names = [kind.name for kind in job.needs]
        if not names:
            return
        with self._runtime.engine.begin() as connection:
            held = connection.execute(HELD_BACK, {"names": names}).first()
        if held is not None:
            raise _back(held)

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
        return ending(claim, decision, error=error, limit=known.time_limit if known else 0)


def _back(row: Row[Any]) -> Snooze | Throttled:
    """Return what puts a run back that needs an upstream which is held."""
    if row.paused_at is not None:
        why = f"upstream {row.name} is paused by {row.paused_by}: {row.reason or 'no reason given'}"
        return Snooze(PAUSED_SNOOZE, why)
    if row.wait is None or row.wait <= 0:
        return throttles.held(row, row.now)
    said = circuits.sentence(row.name, row.circuit_opened_at, row.next_probe_at, row.circuit_error)
    return CircuitOpen(said, upstream=row.name, retry_after=row.wait)


def _log(claim: Claim, ending: Ending, seconds: float) -> None:
    """Write one line for an attempt, except for a short one that went well: the line would cost more than the run."""
    if ending.error is None and seconds < WORTH_A_LINE:
        return
    log = logs.get().bind(run=claim.run_id, job=claim.job, attempt=claim.attempt, seconds=round(seconds, 3))
    if ending.error is None:
        log.info("run ended", outcome=str(ending.outcome))
    else:
        log.warning("run ended", outcome=str(ending.outcome), state=str(ending.state), error=ending.error[:500])

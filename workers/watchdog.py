"""Time limits, and the last resort for a job that does not end.

A time limit raises an error inside the job's thread, which happens at its next step in Python. A thread that waits in
a system call (a socket without a timeout, a sleep, a lock of the database) takes no such step: nothing can end it but
the end of its process. So when an attempt is still at work well after its limit, this process recycles itself. It says
in one line which job, which run and where it hangs, records that attempt as timed out, which counts, puts its other
runs back uncounted, and leaves with an exit code of its own; whoever supervises it starts it again.

Everything on the way out is bounded. Should Postgres be away just then, the runs are rescued as those of a dead worker.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from threading import Event, Thread
from types import FrameType

from workers import ledger, logs
from workers.broker import LAST_WORDS, Holding
from workers.executor import Executor
from workers.held import AtWork

#: Exit code of a process that recycled itself: "try again", as BSD calls it.
RECYCLED = 75
#: Seconds an attempt may go on after its limit, and the share of the limit, whichever is more.
OVERTIME = 30.0
SHARE = 0.1
#: Seconds between two looks.
EVERY = 0.25
#: Seconds for a claim that is on its way to arrive, and for the goodbye after the last outcomes.
ON_ITS_WAY = 2.0
GOODBYE = 10.0
#: Calls of a stack that are told.
DEEPEST = 30


class Watchdog:
    """Watches the attempts of one worker process.

    Args:
        holding: What the process holds.
        overtime: Seconds an attempt may go on after its time limit.
        leave: Ends the process with an exit code, at once.
    """

    def __init__(
        self, holding: Holding, *, overtime: float = OVERTIME, leave: Callable[[int], object] = os._exit
    ) -> None:
        self._holding = holding
        self._overtime = overtime
        self._leave = leave
        self._stopping = Event()

    def start(self) -> None:
        """Watch from now on."""
        Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no more: the process is leaving by itself, and its grace is the limit."""
        self._stopping.set()

    def _watch(self) -> None:
        while not self._stopping.wait(EVERY):
            self._holding.executor.end_late()
            at_work = self._holding.executor.at_work()
            if any(self._hangs(work) for work in at_work):
                self._recycle([work for work in at_work if work.seconds > work.limit])
                return

    def _hangs(self, work: AtWork) -> bool:
        late = work.seconds - work.limit
        return late > max(self._overtime, SHARE * work.limit) and _inside(work.thread) is not None

    def _recycle(self, late: list[AtWork]) -> None:
        stuck = [(work, stack(work.thread)) for work in late]
        for work, where in stuck:
            log = logs.get().bind(run=work.run_id, job=work.job, attempt=work.attempt)
            took = {"seconds": round(work.seconds, 1), "time_limit": work.limit}
            log.critical("a job does not end: this worker process is recycled", **took, stack=where)
        goodbye = Thread(target=self._say_goodbye, args=(stuck,), name="goodbye", daemon=True)
        goodbye.start()
        goodbye.join(ON_ITS_WAY + LAST_WORDS + GOODBYE)
        self._leave(RECYCLED)

    def _say_goodbye(self, stuck: Iterable[tuple[AtWork, str]]) -> None:
        holding = self._holding
        holding.window.close()
        deadline = time.monotonic() + ON_ITS_WAY
        while holding.window.held > holding.executor.held and time.monotonic() < deadline:
            time.sleep(0.01)  # a claim that is on its way is waited for: its runs are put back with the others
        for work, where in stuck:
            holding.executor.give_up(work, where)
        holding.stop()


def _inside(thread: int) -> FrameType | None:
    """Return where a thread is, if it is inside an attempt."""
    top = frame = sys._current_frames().get(thread)  # noqa: SLF001 - the only way to another thread's stack
    while frame is not None and frame.f_code is not Executor.execute.__code__:
        frame = frame.f_back
    return top if frame is not None else None


def stack(thread: int) -> str:
    """Return where a thread is, as a redacted traceback from the attempt inwards."""
    calls = traceback.extract_stack(_inside(thread))[-DEEPEST:]
    return ledger.cut(logs.redact_text("".join(traceback.format_list(calls))), ledger.TRACEBACK_LIMIT)

"""The buffer between executing and remembering: outcomes, log lines, calls and progress leave it in sets.

A thread takes what has gathered, at most every 20 ms, and writes it in one transaction. While Postgres is away it
keeps trying and loses nothing; the buffer is bounded because a worker that cannot write cannot claim either.
Nobody acts on an outcome before it is written: to the broker the run was acknowledged when it was claimed.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from threading import Condition, Thread
from typing import Any, Self

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from workers import journal, ledger, logs
from workers.ledger import Ending

#: Seconds that outcomes gather, and rows written at once.
GATHER = 0.02
MOST = 500
#: Seconds between two writes of one run's progress.
PROGRESS_EVERY = 0.5


@dataclass
class Batch:
    """What is written in one transaction."""

    endings: list[Ending] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    calls: list[journal.Row] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.endings) + len(self.lines) + len(self.calls) + len(self.steps)

    def apart(self) -> Iterator["Batch"]:
        """Yield each row alone."""
        yield from (Batch(endings=[ending]) for ending in self.endings)
        yield from (Batch(lines=[line]) for line in self.lines)
        yield from (Batch(calls=[call]) for call in self.calls)
        yield from (Batch(steps=[step]) for step in self.steps)


class Outcomes:
    """Gathers what attempts produce and writes it.

    Args:
        engine: The database.
        make_room: Called after the end of runs that shared limits was written: others may go now. Never raises.
    """

    def __init__(self, engine: Engine, make_room: Callable[[], None] = lambda: None) -> None:
        self._engine = engine
        self._make_room = make_room
        self._endings: list[Ending] = []
        self._unwritten: Counter[int] = Counter()
        self._lines: list[dict[str, Any]] = []
        self._calls: list[journal.Row] = []
        self._steps: dict[int, dict[str, Any]] = {}
        self._steps_written = 0.0
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._write_forever, name="outcomes", daemon=True)

    def start(self) -> Self:
        """Start writing."""
        self._thread.start()
        return self

    def ending(self, ending: Ending) -> None:
        """Hand over the end of an attempt."""
        with self._changed:
            self._endings.append(ending)
            self._unwritten[ending.run_id] += 1
            self._changed.notify()

    def holds(self, run_id: int) -> bool:
        """Whether the end of this run was handed over and is not written yet."""
        with self._changed:
            return self._unwritten[run_id] > 0

    def line(self, run_id: int, attempt: int, line: str, fields: dict[str, Any]) -> None:
        """Hand over one line of a run's log."""
        entry = {
            "run_id": run_id,
            "attempt": attempt,
            "said": time.monotonic(),
            "line": logs.redact_text(line),
            "fields": logs.redact(fields) or None,
        }
        with self._changed:
            self._lines.append(entry)
            self._changed.notify()

    def call(self, row: journal.Row) -> None:
        """Hand over what came of a call to the outside."""
        with self._changed:
            self._calls.append(row)
            self._changed.notify()

    def progress(self, run_id: int, attempt: int, progress: dict[str, Any]) -> None:
        """Hand over a run's latest progress; earlier progress that was not written yet is replaced."""
        with self._changed:
            self._steps[run_id] = {"run_id": run_id, "attempt": attempt, "progress": progress}
            self._changed.notify()

    def close(self, seconds: float) -> None:
        """Write what is left, for at most the given time."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)

    def _write_forever(self) -> None:
        while True:
            with self._changed:
                while not (self._endings or self._lines or self._calls or self._steps or self._closed):
                    self._changed.wait()
                if self._closed and not (self._endings or self._lines or self._calls):
                    return
            if not self._closed:
                time.sleep(GATHER)
            taken = self._take()
            if taken:
                self._write_until_done(taken)
                self._forget(taken.endings)

    def _forget(self, written: list[Ending]) -> None:
        with self._changed:
            self._unwritten.subtract(ending.run_id for ending in written)
            self._unwritten = +self._unwritten

    def _take(self) -> Batch:
        with self._changed:
            endings, self._endings = self._endings[:MOST], self._endings[MOST:]
            lines, self._lines = self._lines[:MOST], self._lines[MOST:]
            calls, self._calls = self._calls[:MOST], self._calls[MOST:]
            return Batch(endings, lines, calls, self._take_steps({ending.run_id for ending in endings}))

    def _take_steps(self, ended: set[int]) -> list[dict[str, Any]]:
        """Take the progress that is due: all of it now and then, and the last word of runs that end."""
        now = time.monotonic()
        if now - self._steps_written >= PROGRESS_EVERY:
            ended, self._steps_written = set(self._steps), now
        return [step for run_id in ended if (step := self._steps.pop(run_id, None))]

    def _write_until_done(self, batch: Batch) -> None:
        pause = 0.1
        while True:
            try:
                return self._write(batch)
            except Exception as error:  # noqa: BLE001 - whatever one row does, the thread goes on for all others
                if not _may_pass(error):
                    return self._write_apart(batch, error)
                logs.get().warning("outcomes wait for Postgres", endings=len(batch.endings), lines=len(batch.lines))
                time.sleep(pause)
                pause = min(2.0, pause * 2)

    def _write_apart(self, batch: Batch, error: Exception) -> None:
        """Write a refused set row by row; a row that is still refused loses its words, never its outcome."""
        if len(batch) > 1:
            for alone in batch.apart():
                self._write_until_done(alone)
            return
        logs.get().error("the words of a run were refused", reason=repr(error).splitlines()[0])
        for ending in batch.endings:
            bare = replace(ending, result=None, traceback=None, error_class=None, error="its error text was refused")
            if bare != ending:
                self._write_until_done(Batch([bare]))

    def _write(self, batch: Batch) -> None:
        with self._engine.begin() as connection:
            if batch.lines:
                ledger.write_lines(connection, batch.lines)
            if batch.calls:
                journal.write(connection, batch.calls)
            if batch.steps:
                ledger.write_progress(connection, batch.steps)
            if batch.endings:
                ledger.finish(connection, batch.endings)
        if any(ending.limited for ending in batch.endings):
            self._make_room()


def _may_pass(error: Exception) -> bool:
    """Whether the same statement may go through later: the connection or the server was the trouble, not the rows."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, SQLAlchemyError)
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or state is None or state[:2] in {"08", "40", "53", "55", "57", "58"}

"""What a running job may use, and how it speaks.

A job asks for an integration by its class, opens transactions of its own, says what it is doing, and looks up at
good moments whether it should stop. It never sees the environment, the broker or the executor.

    with context.transaction() as session: ...
    page = context.use(Warehouse).levels(cursor=cursor)
    context.progress(done=1200, total=5000, note="page 12")
    context.check()

A job of many steps goes on where its last attempt stopped. The place is saved in the job's own transaction:

    page = context.resume_from.get("page", 0)
    with context.transaction() as session:
        ...
        context.checkpoint(session, {"page": page + 1})

What it does to an upstream it does once, however often it is tried: the key of a step is the same in each attempt.

    context.use(Shop).charge(order, idempotency_key=context.idempotency_key("charge"))
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.orm import Session, sessionmaker

from integrations import Integration
from jobs import _checkpoint, _idempotency
from jobs._enqueue import PARENT
from jobs._signals import Cancel, Interrupted

I = TypeVar("I", bound=Integration)  # noqa: E741 - an integration

#: Lines and characters that one attempt may log; what comes after is counted and dropped.
MOST_LINES = 1_000
LONGEST_LINE = 2_000


class Reporter(Protocol):
    """Where a job's words go while it runs."""

    def line(self, run_id: int, attempt: int, line: str, fields: dict[str, Any]) -> None:
        """Keep one line of the run's log."""

    def progress(self, run_id: int, attempt: int, progress: dict[str, Any]) -> None:
        """Keep the run's latest progress."""


@dataclass
class Stop:
    """Whether a running job should stop, and why. Set by other threads, read by the job."""

    cancelled: bool = False
    interrupted: bool = False


@dataclass
class Context:
    """One attempt of one run, as its job sees it."""

    run_id: int
    #: The fencing number of this attempt.
    attempt: int
    job: str
    #: Nominal time of the slot that planned the run, or None.
    slot_at: datetime | None
    sessions: sessionmaker[Session]
    integration: Callable[[type[Integration]], Integration]
    reporter: Reporter
    stop: Stop = field(default_factory=Stop)
    #: Those of the other runs of a chunk, which stops once all of them should.
    other_stops: Sequence[Stop] = ()
    #: The last checkpoint of an earlier attempt, empty when there is none: also after a rescue, a shutdown or a snooze.
    resume_from: Mapping[str, Any] = field(default_factory=dict)
    _lines: int = 0
    _logical_runs: dict[int, str] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def use(self, kind: type[I]) -> I:
        """Return the configured integration of this class."""
        found = self.integration(kind)
        if not isinstance(found, kind):
            raise TypeError(f"asked for {kind.__name__}, got {type(found).__name__}")
        return found

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a session whose transaction commits when the block ends well and rolls back when it does not.

        Runs that are enqueued in it are kept as children of this run.
        """
        with self.sessions.begin() as session:
            session.info[PARENT] = self.run_id
            yield session

    def checkpoint(self, session: Session | Connection, state: Mapping[str, Any]) -> None:
        """Save where the next attempt goes on, in the transaction of this session; call it last.

        Raises:
            BadCheckpoint: If it is no JSON object of at most 16 KiB.
            Interrupted: If the run was taken from this attempt; let it pass, so that the transaction rolls back.
        """
        _checkpoint.save(session, state, job=self.job, run_id=self.run_id, attempt=self.attempt)

    def idempotency_key(self, step: str, *, run_id: int | None = None) -> str:
        """Return the key of a step: the same in every attempt and replay of this run, another in any other run.

        Args:
            step: Names what is done, within the run: two effects need two names, such as `refund 1` and `refund 2`.
            run_id: Of the member of a chunk that the step belongs to; the run of this context without it.

        Raises:
            ValueError: The step has no usable name, or a chunk did not say whose it is.
        """
        if run_id is None and self.other_stops:
            raise ValueError(f"{self.job}: other runs may be in the chunk next time; say whose step it is with run_id")
        of = self.run_id if run_id is None else run_id
        if of not in self._logical_runs:
            with self.sessions() as session:
                self._logical_runs[of] = _idempotency.logical_run(session, of)
        return _idempotency.key(self._logical_runs[of], step)

    def log(self, line: str, **fields: Any) -> None:
        """Keep a line with the run; the first thousand of an attempt are kept, each cut at 2,000 characters."""
        with self._lock:
            self._lines += 1
            count = self._lines
        if count < MOST_LINES:
            self.reporter.line(self.run_id, self.attempt, line[:LONGEST_LINE], fields)
        elif count == MOST_LINES:
            self.reporter.line(
                self.run_id, self.attempt, "the log is full: later lines of this attempt are dropped", {}
            )

    def progress(self, done: int, total: int | None = None, note: str = "") -> None:
        """Say how far the work is, in whatever unit the job counts; cheap enough for every page."""
        self.reporter.progress(self.run_id, self.attempt, {"done": done, "total": total, "note": note})

    def check(self) -> None:
        """Stop here if somebody asked for it.

        Raises:
            Cancel: An operator cancelled the run.
            Interrupted: The process is stopping.
        """
        stops = (self.stop, *self.other_stops)
        if all(stop.cancelled for stop in stops):
            raise Cancel("cancelled by an operator while it ran")
        if all(stop.interrupted for stop in stops):
            raise Interrupted("the worker is stopping")

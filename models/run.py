"""A run: one enqueued piece of work, from the transaction that asked for it to its end.

A run is one row, and everything that may happen to work is a state or a column of that row: the outbox is `waiting`,
a delay is `due_at`, a retry is `waiting` again with a later `due_at`, the dead letter is `dead`, "run again" moves
back to `waiting`. `MOVES` is the only table of legal moves. Each move is one conditional UPDATE naming the state it
leaves, so a duplicate delivery, a worker that was thought dead and a double click change nothing.

            ┌──────────────────── retry, snooze, shutdown, rescue ───────────────────┐
            ▼                                                                        │
    ─▶  waiting  ── relay pushed it ─▶  queued  ── a worker claimed it ─▶  running ──┤
            ▲                             │                                          ├─▶  succeeded
            ├──── broker lost it ─────────┘                                          ├─▶  dead
            └──── run again (dead, cancelled, succeeded)                             └─▶  cancelled

A run that waits is also ended by the clock: past `expires_at` it is cancelled, past `deadline_at` it is dead.

`attempt` is the fencing number: it grows by one with every claim, and only the holder of the current number may
record an outcome. `failures` counts what burns the run's allowance; a snooze or a shutdown burns nothing.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, Integer, SmallInteger, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base


class State(StrEnum):
    """Where a run is in its life."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    """How one attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SNOOZED = "snoozed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    SHUTDOWN = "shutdown"
    LOST = "lost"


MOVES: dict[State, frozenset[State]] = {
    # A claim may take a waiting run too: its message can arrive before the relay's transaction is visible.
    # A redrive that stops puts back what it had moved and nobody has started; a deadline ends what waits.
    State.WAITING: frozenset({State.QUEUED, State.RUNNING, State.CANCELLED, State.DEAD}),
    State.QUEUED: frozenset({State.RUNNING, State.WAITING, State.CANCELLED, State.DEAD}),
    State.RUNNING: frozenset({State.SUCCEEDED, State.DEAD, State.CANCELLED, State.WAITING}),
    State.SUCCEEDED: frozenset({State.WAITING}),
    State.DEAD: frozenset({State.WAITING, State.CANCELLED}),
    # What was discarded may be restored for a day.
    State.CANCELLED: frozenset({State.WAITING, State.DEAD}),
}

DUE_ORDER = ("queue", "priority", "due_at", "id")

#: Tables that grow all day and shrink once a night: what pruning freed is used again the next day, and what was added
#: is frozen while it is still in memory.
GROWING = {
    "postgresql_with": {"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_insert_scale_factor": "0.05"}
}

FINAL = frozenset({State.SUCCEEDED, State.DEAD, State.CANCELLED})


class Run(Base):
    """One enqueued piece of work."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint(f"state IN ({', '.join(repr(str(s)) for s in State)})", "state"),
        CheckConstraint("priority BETWEEN 0 AND 3", "priority"),
        # What the relay reads, by queue and priority. Runs with a key live in indexes of their own: `runs_keyed` finds
        # the oldest, `runs_lanes` the next key, `runs_in_flight` and `runs_begun` what a key has under way.
        Index("runs_due", *DUE_ORDER, postgresql_where=text("state = 'waiting' AND key IS NULL")),
        Index("runs_keyed", *DUE_ORDER, postgresql_where=text("state = 'waiting' AND key IS NOT NULL")),
        Index(
            "runs_lanes",
            *("queue", "job", "key", "priority", "due_at", "id"),
            postgresql_where=text("state = 'waiting' AND key IS NOT NULL"),
        ),
        Index(
            "runs_begun", "job", "key", postgresql_where=text("key IS NOT NULL AND attempt > 0 AND state = 'waiting'")
        ),
        Index(
            "runs_in_flight",
            *("job", "key"),
            postgresql_where=text("key IS NOT NULL AND state IN ('queued', 'running')"),
        ),
        Index(
            "runs_expiring",
            "expires_at",
            postgresql_where=text("expires_at IS NOT NULL AND state IN ('waiting', 'queued')"),
        ),
        Index(
            "runs_overdue",
            "deadline_at",
            postgresql_where=text("deadline_at IS NOT NULL AND state IN ('waiting', 'queued')"),
        ),
        Index("runs_queued", "queued_at", postgresql_where=text("state = 'queued'")),
        Index("runs_running", "process_id", postgresql_where=text("state = 'running'")),
        Index("runs_dead", "id", postgresql_where=text("state = 'dead'")),
        # At most one run per key waits for a worker. The claim clears the key: what changes after it needs a new run.
        Index("runs_unique_key", "unique_key", unique=True, postgresql_where=text("unique_key IS NOT NULL")),
        Index("runs_job", "job", "id"),
        Index(
            "runs_schedule",
            "schedule",
            postgresql_where=text("schedule IS NOT NULL AND state IN ('waiting', 'queued', 'running')"),
        ),
        # No move stays in place: the state is in the condition of indexes. The room on the page is for progress.
        # The numbers are in docs/decisions/0015-room-on-the-page.md.
        {
            "postgresql_with": {
                "fillfactor": "85",
                "autovacuum_vacuum_scale_factor": "0.02",
                "autovacuum_vacuum_max_threshold": "100000",
            }
        },
    )

    #: Grows with every enqueue; also the id of the broker's message.
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: Name of the job, `topic.function`. Set once.
    job: Mapped[str]
    #: Queue that serves it. Set at enqueue from the job.
    queue: Mapped[str]
    #: 0 urgent, 1 high, 2 normal, 3 bulk. Due runs of a lower number are pushed first.
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="2")
    #: What the run is about, such as a sku or a tenant: runs of a job with the same key share limits and order, and
    #: keys take turns. Empty for a run that shares nothing.
    key: Mapped[str | None]
    #: Keyword arguments, already validated against the job's signature.
    args: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(server_default=State.WAITING)
    #: Number of the current or last attempt; 0 before the first claim. The fencing number.
    attempt: Mapped[int] = mapped_column(Integer, server_default="0")
    #: Attempts that count against `max_attempts`: failures, time-outs, lost workers.
    failures: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    #: Workers in a row that died with this run in their hands; above the limit it is set aside as poison.
    deaths: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    #: Failures allowed before the run is dead. Copied from the job, so that a deploy does not judge old runs anew.
    max_attempts: Mapped[int] = mapped_column(SmallInteger)
    #: Not before this moment, by the database's clock. Moves on retry and snooze.
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: When the relay pushed it last; empty while it waits.
    queued_at: Mapped[datetime | None]
    #: Pushes since it last ran; from the second on the push is forced past the broker's own memory of the id.
    pushes: Mapped[int] = mapped_column(Integer, server_default="0")
    #: Process that holds it while running, and that held it last afterwards.
    process_id: Mapped[int | None]
    #: Start of the current or last attempt.
    started_at: Mapped[datetime | None]
    #: When it reached a final state; empty again if it is run again.
    finished_at: Mapped[datetime | None]
    #: `{"done": 1200, "total": 5000, "note": "page 12"}`, written by the job while it runs.
    progress: Mapped[dict[str, Any] | None]
    #: What the job returned, a small JSON object.
    result: Mapped[dict[str, Any] | None]
    #: Why it is dead, waits again or was cancelled: one sentence.
    error: Mapped[str | None]
    #: An operator asked it to stop; the running job is told at its next check.
    cancel_requested_at: Mapped[datetime | None]
    #: While set, no second run with this key can be enqueued.
    unique_key: Mapped[str | None]
    #: What clears it: `waiting` (the claim), `unfinished` (the end), `window` (`unique_until`, whatever the state).
    unique_while: Mapped[str | None]
    unique_until: Mapped[datetime | None]
    #: Work that nobody wants any more from this moment on, unless an attempt has begun.
    expires_at: Mapped[datetime | None]
    #: No attempt begins after this moment: the end of all retries.
    deadline_at: Mapped[datetime | None]
    #: Where the job goes on if its attempt ends early, saved in the job's own transaction. Empty after success and when
    #: a person runs it again: then it starts from the beginning.
    checkpoint: Mapped[dict[str, Any] | None]
    #: When an operator put the dead run aside; it can be undone for a day.
    discarded_at: Mapped[datetime | None]
    #: Name of the schedule that planned it, and the nominal time of its slot.
    schedule: Mapped[str | None]
    slot_at: Mapped[datetime | None]
    #: The webhook that caused it.
    event_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Attempt(Base):
    """One finished execution of a run; written when it ends, together with the run's next state."""

    __tablename__ = "attempts"
    __table_args__ = (
        UniqueConstraint("run_id", "number"),
        CheckConstraint(f"outcome IN ({', '.join(repr(str(o)) for o in Outcome)})", "outcome"),
        Index("attempts_finished_at", "finished_at"),
        GROWING,
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    #: The run's fencing number during this execution.
    number: Mapped[int] = mapped_column(Integer)
    process_id: Mapped[int | None]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime] = mapped_column(server_default=func.now())
    outcome: Mapped[str]
    #: Class of the error, for grouping.
    error_class: Mapped[str | None]
    #: Its message, cut at 10,000 characters.
    error: Mapped[str | None]
    traceback: Mapped[str | None]


class LogLine(Base):
    """One line that a run said. The executor caps lines per attempt and characters per line."""

    __tablename__ = "log_lines"
    __table_args__ = (Index("log_lines_run", "run_id", "id"), GROWING)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    attempt: Mapped[int] = mapped_column(Integer)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    line: Mapped[str]
    fields: Mapped[dict[str, Any] | None] = mapped_column(JSONB)

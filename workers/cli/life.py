"""One run as it stands, and the sentence that says why it stands there.

`look` reads in one query what decides it: the run, whether its queue is held, who could serve it. `why` turns that
into words; it is a pure function.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from models import State
from workers.actions import Refused
from workers.cli.moments import exactly, when
from workers.logs import redact, redact_text
from workers.process import STALE_AFTER

LOOK = text("""
    WITH alive AS (
        SELECT kind, queues FROM processes
        WHERE stopped_at IS NULL AND heartbeat_at > now() - make_interval(secs => :stale)
    )
    SELECT r.id, r.job, r.queue, r.args, r.state, r.attempt, r.failures, r.deaths, r.max_attempts, r.created_at,
           r.due_at, r.queued_at, r.started_at, r.finished_at, r.progress, r.result, r.error, r.cancel_requested_at,
           r.unique_key, r.schedule, r.slot_at, r.event_id, r.process_id,
           now() AS now, q.paused_at, q.paused_by, q.reason, p.host, p.pid,
           (SELECT count(*) FROM alive WHERE kind = 'worker' AND r.queue = ANY(queues)) AS workers,
           (SELECT count(*) FROM alive WHERE kind = 'relay') AS relays
    FROM runs r LEFT JOIN queues q ON q.name = r.queue LEFT JOIN processes p ON p.id = r.process_id
    WHERE r.id = :id
""")
#: Columns of `LOOK` that are no part of the run itself.
_AROUND = ("now", "paused_at", "paused_by", "reason", "host", "pid", "workers", "relays")


@dataclass(frozen=True)
class Life:
    """A run and what decides over it."""

    #: The columns of the run, secrets replaced.
    run: dict[str, Any]
    #: The database's clock.
    now: datetime
    paused_at: datetime | None
    paused_by: str | None
    reason: str | None
    host: str | None
    pid: int | None
    #: Live workers that serve its queue, and live relays.
    workers: int
    relays: int


def look(connection: Connection, run_id: int) -> Life:
    """Read a run and what decides over it.

    Raises:
        Refused: If there is no such run.
    """
    row = connection.execute(LOOK, {"id": run_id, "stale": STALE_AFTER}).mappings().one_or_none()
    if row is None:
        raise Refused(f"there is no run {run_id}: `headrace runs list` shows the newest")
    around = {name: row[name] for name in _AROUND}
    return Life(run=clean({name: value for name, value in row.items() if name not in around}), **around)


def clean(run: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a run with secrets replaced in what people and upstreams wrote."""
    written = {name: redact(run[name]) for name in ("args", "progress", "result") if run.get(name) is not None}
    return run | written | {"error": redact_text(run["error"]) if run["error"] else None}


def word(run: dict[str, Any], now: datetime) -> str:
    """Return the state in the word people use: a waiting run may be `scheduled` or `retrying`."""
    if run["state"] != State.WAITING:
        return str(run["state"])
    if run["failures"]:
        return "retrying"
    return "scheduled" if run["due_at"] > now else "waiting"


def why(life: Life) -> str:
    """Say where a run stands and what it waits for."""
    run = life.run
    match run["state"]:
        case State.SUCCEEDED:
            return f"succeeded {when(run['finished_at'], life.now)}, in attempt {run['attempt']}"
        case State.DEAD:
            return f"is dead after {run['failures']} of {run['max_attempts']} failures: {run['error']}"
        case State.CANCELLED:
            return f"was cancelled: {run['error'] or 'an operator asked for it'}"
        case State.RUNNING:
            return _running(life)
        case _:
            return _not_yet(life)


def _running(life: Life) -> str:
    run = life.run
    where = f" on {life.host}, process {life.pid}" if life.host else ""
    said = f"runs since {exactly(run['started_at'])} in attempt {run['attempt']}{where}"
    return f"{said}; it was asked to stop and ends at its next check" if run["cancel_requested_at"] else said


def _not_yet(life: Life) -> str:
    run = life.run
    if life.paused_at is not None:
        reason = f" ({life.reason})" if life.reason else ""
        return f"waits because {life.paused_by} paused queue {run['queue']}{reason}: `headrace queues resume`"
    if run["state"] == State.WAITING and run["due_at"] > life.now:
        return _later(run, life.now)
    if not life.workers:
        return f"waits because no live worker serves queue {run['queue']}: start one"
    if run["state"] == State.QUEUED:
        return f"is on the broker and waits for one of {life.workers} workers of queue {run['queue']}"
    if not life.relays:
        return "is due, and waits because no relay lives to push it: start one"
    return "is due and goes to the broker in a moment"


def _later(run: dict[str, Any], now: datetime) -> str:
    at = f"{exactly(run['due_at'])}, {when(run['due_at'], now)}"
    if run["failures"]:
        return f"tries again at {at}, after failure {run['failures']} of {run['max_attempts']}: {run['error']}"
    return f"waits until {at}" + (f": {run['error']}" if run["error"] else "")

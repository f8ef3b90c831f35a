"""One run as it stands, and the sentence that says why it stands there.

`look` reads it, and what is in its way if it waits. `why` turns that into words; it is a pure function.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from models import State
from workers import blockers
from workers.actions import Refused
from workers.blockers import Blocker
from workers.cli.moments import exactly, when
from workers.logs import redact, redact_text

LOOK = text("""
    SELECT r.id, r.job, r.queue, r.args, r.state, r.attempt, r.failures, r.deaths, r.max_attempts, r.created_at,
           r.due_at, r.queued_at, r.started_at, r.finished_at, r.progress, r.result, r.error, r.cancel_requested_at,
           r.unique_key, r.schedule, r.slot_at, r.event_id, r.process_id, r.priority, r.key,
           r.checkpoint, r.expires_at, r.deadline_at,
           now() AS now, p.host, p.pid
    FROM runs r LEFT JOIN processes p ON p.id = r.process_id
    WHERE r.id = :id
""")
#: Seconds after which a job that was asked to stop has heard of it, and has not looked up since.
DEAF_AFTER = 10.0
_DEAF = "its job makes no check, or a call blocks it; it ends with its time limit"
#: Columns of `LOOK` that are no part of the run itself.
_AROUND = ("now", "host", "pid")


@dataclass(frozen=True)
class Life:
    """A run and what decides over it."""

    #: The columns of the run, secrets replaced.
    run: dict[str, Any]
    #: The database's clock.
    now: datetime
    host: str | None
    pid: int | None
    #: What it waits for; empty once it runs.
    blocker: Blocker | None = None


def look(connection: Connection, run_id: int) -> Life:
    """Read a run and what decides over it.

    Raises:
        Refused: If there is no such run.
    """
    row = connection.execute(LOOK, {"id": run_id}).mappings().one_or_none()
    if row is None:
        raise Refused(f"there is no run {run_id}: `headrace runs list` shows the newest")
    around = {name: row[name] for name in _AROUND}
    run = clean({name: value for name, value in row.items() if name not in around})
    waits = run["state"] in {State.WAITING, State.QUEUED}
    found = blockers.blocker(run, blockers.look(connection, run, row["now"])) if waits else None
    return Life(run=run, blocker=found, **around)


def clean(run: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a run with secrets replaced in what people and upstreams wrote."""
    names = ("args", "progress", "result", "checkpoint")
    written = {name: redact(run[name]) for name in names if run.get(name) is not None}
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
    if run["cancel_requested_at"] is None:
        return said
    asked = (life.now - run["cancel_requested_at"]).total_seconds()
    if asked < DEAF_AFTER:
        return f"{said}; it was asked to stop and ends at its next check"
    return f"{said}; asked to stop {when(run['cancel_requested_at'], life.now)} it does not listen: {_DEAF}"


def _not_yet(life: Life) -> str:
    found = life.blocker
    if found is None:
        return "waits"
    since = f", since {exactly(found.since)}" if found.since else ""
    until = f", until {exactly(found.until)}, {when(found.until, life.now)}" if found.until else ""
    return f"{found.sentence}{since}{until}"

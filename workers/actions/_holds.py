"""Holding back: a person pauses a queue, a job, a key, an upstream or a schedule.

It stays paused until a person resumes it or the time that was set has come. A paused queue, job or key keeps its runs
in Postgres. Runs that meet a paused upstream are put back and burn no attempt. The fires of a paused schedule are
recorded as skipped. What is under way goes on. Runs that were held go on gently: a ramp lets one through at first, and
all of them at its end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, func, null, select, update
from sqlalchemy.dialects.postgresql import insert

import integrations
import jobs
from models import Base, Pause, Queue, Schedule, Upstream
from workers.actions._audit import Refused, record, require_known

#: Seconds of the ramp after a pause, unless somebody says otherwise.
RAMP = 30


@dataclass(frozen=True)
class Hold:
    """A kind of thing that can be paused."""

    #: In one and in many, as people and the command line say it.
    noun: str
    plural: str
    table: Table
    #: Names that may be paused although no row says so yet; None when any name may be.
    declared: Callable[[], set[str]] | None
    #: The columns that name one.
    identity: Callable[[str], Mapping[str, str]] = lambda name: {"name": name}

    @property
    def timed(self) -> bool:
        """Whether a pause of it may end by itself."""
        return "paused_until" in self.table.c

    @property
    def gradual(self) -> bool:
        """Whether it goes on with a ramp."""
        return "ramp_seconds" in self.table.c

    def row(self, name: str) -> ColumnElement[bool]:
        """Return what its row satisfies."""
        return and_(*(self.table.c[column] == value for column, value in self.identity(name).items()))


def _of_jobs() -> set[str]:
    return {job.queue for job in jobs.load().values()}


def _of_integrations() -> set[str]:
    return set(integrations.load())


def _hold(noun: str, model: type[Base], declared: Callable[[], set[str]]) -> Hold:
    return Hold(noun, f"{noun}s", Base.metadata.tables[model.__tablename__], declared)


def keys_of(job: str) -> Hold:
    """Return the kind "keys of this job"; of all jobs when the name is empty."""
    table = Base.metadata.tables[Pause.__tablename__]
    return Hold("key", "keys", table, None, lambda name: {"job": job, "key": name})


HOLDS = {
    "queues": _hold("queue", Queue, _of_jobs),
    "jobs": Hold(
        "job",
        "jobs",
        Base.metadata.tables[Pause.__tablename__],
        lambda: set(jobs.load()),
        lambda name: {"job": name, "key": ""},
    ),
    "keys": keys_of(""),
    "upstreams": _hold("upstream", Upstream, _of_integrations),
    # A schedule's row is written by the scheduler alone; one that was never written cannot be paused.
    "schedules": _hold("schedule", Schedule, set),
}


def pause(
    connection: Connection,
    kind: Hold,
    name: str,
    *,
    by: str,
    reason: str | None = None,
    until: datetime | None = None,
    ramp: int = RAMP,
) -> bool:
    """Pause it. Returns False if it is paused already; then nothing changes and the first reason stays.

    Args:
        connection: The caller's transaction.
        kind: What it is.
        name: Its name.
        by: Who.
        reason: Why.
        until: When it goes on by itself.
        ramp: Seconds of the ramp if it does; 0 for none.

    Raises:
        Refused: If there is nothing of this name.
    """
    _require(connection, kind, name)
    held: dict[str, Any] = {"paused_at": func.now(), "paused_by": by, "reason": reason}
    if kind.timed:
        held["paused_until"] = until
    if kind.gradual:
        held |= {"resumed_at": null(), "ramp_seconds": ramp or None}
    if kind.declared is None or name in kind.declared():
        connection.execute(insert(kind.table).values(**kind.identity(name)).on_conflict_do_nothing())
    details = {"reason": reason, "until": until.isoformat() if until else None}
    return _change(connection, kind, name, held, paused=False, by=by, action="pause", details=details)


def resume(connection: Connection, kind: Hold, name: str, *, by: str, action: str = "resume", ramp: int = RAMP) -> bool:
    """Let it go on, over so many seconds. Returns False if it is not paused.

    Raises:
        Refused: If there is nothing of this name.
    """
    _require(connection, kind, name)
    held: dict[str, Any] = {"paused_at": null(), "paused_by": null(), "reason": null()}
    if kind.timed:
        held["paused_until"] = null()
    if kind.gradual:
        held |= {"resumed_at": func.now() if ramp else null(), "ramp_seconds": ramp or None}
    details = {"ramp": ramp} if kind.gradual else {}
    return _change(connection, kind, name, held, paused=True, by=by, action=action, details=details)


def limit(connection: Connection, queue: str, most: int | None, *, by: str) -> None:
    """Let at most so many runs of a queue be under way on all workers together; None lifts the limit.

    Raises:
        Refused: If there is no such queue, or the limit would hold it for ever.
    """
    kind = HOLDS["queues"]
    _require(connection, kind, queue)
    if most is not None and most < 1:
        raise Refused("a limit below 1 would hold the queue for ever: `headrace queues pause` does that and says who")
    connection.execute(insert(kind.table).values(name=queue).on_conflict_do_nothing())
    connection.execute(update(kind.table).where(kind.row(queue)).values(concurrency=most))
    record(connection, by=by, action="queues limit", target=queue, details={"concurrency": most})


def is_paused(connection: Connection, kind: Hold, name: str) -> bool:
    """Whether it is paused now.

    Raises:
        Refused: If there is nothing of this name.
    """
    _require(connection, kind, name)
    held = select(kind.table.c.paused_at).where(kind.row(name), kind.table.c.paused_at.is_not(None))
    return connection.execute(held).scalar() is not None


def _change(
    connection: Connection,
    kind: Hold,
    name: str,
    held: dict[str, Any],
    *,
    paused: bool,
    by: str,
    action: str,
    details: dict[str, Any],
) -> bool:
    table = kind.table
    is_so = table.c.paused_at.is_not(None) if paused else table.c.paused_at.is_(None)
    changed = update(table).where(kind.row(name), is_so).values(**held).returning(table.c.paused_at)
    if connection.execute(changed).one_or_none() is None:
        return False
    said = {word: value for word, value in details.items() if value is not None}
    target = " ".join(filter(None, kind.identity(name).values()))
    record(connection, by=by, action=f"{kind.plural} {action}", target=target, details=said or None)
    return True


def _require(connection: Connection, kind: Hold, name: str) -> None:
    if kind.declared is None:
        if not name:
            raise Refused(f"say which {kind.noun}")
        return
    known = kind.declared()
    if "name" in kind.table.c:
        kept = select(kind.table.c.name)
        if "retired_at" in kind.table.c:
            kept = kept.where(kind.table.c.retired_at.is_(None))
        known |= set(connection.execute(kept).scalars())
    require_known(kind.noun, name, known)

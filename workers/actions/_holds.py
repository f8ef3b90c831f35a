"""Holding back: a queue, an upstream or a schedule is paused by a person and stays so until a person resumes it.

A paused queue keeps its runs in Postgres. Runs that meet a paused upstream are put back and burn no attempt. The
fires of a paused schedule are recorded as skipped. What is under way goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, func, null, select, update
from sqlalchemy.dialects.postgresql import insert

import integrations
import jobs
from models import Base, Queue, Schedule, Upstream
from workers.actions._audit import record, require_known


@dataclass(frozen=True)
class Hold:
    """A kind of thing that can be paused."""

    #: In one and in many, as people and the command line say it.
    noun: str
    plural: str
    table: Table
    #: Names that may be paused although no row says so yet.
    declared: Callable[[], set[str]]


def _of_jobs() -> set[str]:
    return {job.queue for job in jobs.load().values()}


def _of_integrations() -> set[str]:
    return set(integrations.load())


def _hold(noun: str, model: type[Base], declared: Callable[[], set[str]]) -> Hold:
    return Hold(noun, f"{noun}s", Base.metadata.tables[model.__tablename__], declared)


HOLDS = {
    "queues": _hold("queue", Queue, _of_jobs),
    "upstreams": _hold("upstream", Upstream, _of_integrations),
    # A schedule's row is written by the scheduler alone; one that was never written cannot be paused.
    "schedules": _hold("schedule", Schedule, set),
}


def pause(connection: Connection, kind: Hold, name: str, *, by: str, reason: str | None = None) -> bool:
    """Pause it. Returns False if it is paused already; then nothing changes and the first reason stays.

    Raises:
        Refused: If there is nothing of this name.
    """
    _require(connection, kind, name)
    held = {"paused_at": func.now(), "paused_by": by, "reason": reason}
    if name in kind.declared():
        connection.execute(insert(kind.table).values(name=name).on_conflict_do_nothing())
    return _change(connection, kind, name, held, paused=False, by=by, action="pause")


def resume(connection: Connection, kind: Hold, name: str, *, by: str, action: str = "resume") -> bool:
    """Let it go on. Returns False if it is not paused.

    Raises:
        Refused: If there is nothing of this name.
    """
    _require(connection, kind, name)
    held = {"paused_at": null(), "paused_by": null(), "reason": null()}
    return _change(connection, kind, name, held, paused=True, by=by, action=action)


def is_paused(connection: Connection, kind: Hold, name: str) -> bool:
    """Whether it is paused now.

    Raises:
        Refused: If there is nothing of this name.
    """
    _require(connection, kind, name)
    held = select(kind.table.c.name).where(kind.table.c.name == name, kind.table.c.paused_at.is_not(None))
    return connection.execute(held).scalar() is not None


def _change(
    connection: Connection, kind: Hold, name: str, held: dict[str, Any], *, paused: bool, by: str, action: str
) -> bool:
    table = kind.table
    is_so = table.c.paused_at.is_not(None) if paused else table.c.paused_at.is_(None)
    changed = connection.execute(
        update(table).where(table.c.name == name, is_so).values(**held).returning(table.c.name)
    ).scalar()
    if changed is None:
        return False
    reason = held["reason"] if isinstance(held["reason"], str) else None
    details = {"reason": reason} if reason else None
    record(connection, by=by, action=f"{kind.plural} {action}", target=name, details=details)
    return True


def _require(connection: Connection, kind: Hold, name: str) -> None:
    kept = select(kind.table.c.name)
    if "retired_at" in kind.table.c:
        kept = kept.where(kind.table.c.retired_at.is_(None))
    require_known(kind.noun, name, set(connection.execute(kept).scalars()) | kind.declared())

"""An operator's schedules: a new one for any job, another rule for one that the code declares, and back.

A rule that an operator gave outlives deploys. The row keeps what the code declared at that moment; once the code
declares something else, both are shown until the operator takes the code's rule or says again that his stays.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, null, select, update
from sqlalchemy.dialects.postgresql import insert

import jobs
from jobs import Job, Overlap, Rule
from models import Schedule
from workers.actions._asking import accepted
from workers.actions._audit import Refused, record, require_known

#: No dots, which the names of jobs have: the code can never declare one of these.
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True)
class Planned:
    """What was decided."""

    rule: Rule
    #: When it fires next.
    first: datetime


def add(connection: Connection, name: str, job: str, rule: Rule, arguments: Mapping[str, str], *, by: str) -> Planned:
    """Make a schedule for a job.

    Args:
        connection: The transaction.
        name: What to call it.
        job: The job that it starts.
        rule: When, and with which policy.
        arguments: For the job, as typed.
        by: Who.

    Raises:
        Refused: If the name cannot be taken, or it would never fire.
        UnknownJob: If there is no such job.
        BadArguments: If the job does not take the arguments.
    """
    known = jobs.find(job)
    args = accepted(known, arguments)
    _check(name, known, rule)
    first = _first(connection, rule)
    policy = rule.policy
    values: dict[str, Any] = {"job": known.name, "args": args, "rule": rule.text, "zone": rule.zone, "changed_by": by}
    values |= {"missed": policy.missed.text, "overlap": str(policy.overlap), "jitter": policy.jitter}
    values |= {"next_fire_at": first, "retired_at": None}
    values |= dict.fromkeys(("paused_at", "paused_by", "reason", "paused_until"))
    # A name that was taken away may be used again.
    free = Schedule.retired_at.is_not(None)
    made = insert(Schedule).values(name=name, **values)
    made = made.on_conflict_do_update("schedules_pkey", set_=values, where=free)
    if connection.execute(made.returning(Schedule.name)).scalar() is None:
        raise Refused(f"there is a schedule called {name} already: `headrace schedules change {name}` changes its rule")
    told = {"job": known.name, "rule": rule.text, "zone": rule.zone, "args": args}
    record(connection, by=by, action="schedules add", target=name, details=told)
    return Planned(rule, first)


def change(connection: Connection, name: str, rule: Rule, *, by: str, reason: str | None = None) -> Planned:
    """Let a schedule fire by another rule, also after the next deploys.

    Raises:
        Refused: If there is no such schedule, or it would never fire.
    """
    row = _row(connection, name)
    replaced = {"replaced_rule": Schedule.declared_rule, "replaced_zone": Schedule.declared_zone, "changed_by": by}
    return _fire_by(connection, row, rule, replaced, by=by, reason=reason)


def as_declared(connection: Connection, name: str, *, by: str, reason: str | None = None) -> Planned:
    """Let a schedule fire as the code declares it again.

    Raises:
        Refused: If there is no such schedule, the code does not declare it, or nobody has changed it.
    """
    row = _row(connection, name)
    if row.declared_rule is None:
        raise Refused(f"{row.changed_by} made the schedule {name}: no code declares it")
    if row.replaced_rule is None:
        raise Refused(f"the schedule {name} fires as the code declares it: {row.rule} ({row.zone})")
    rule = jobs.read_rule(row.declared_rule, row.declared_zone)
    given_back = dict.fromkeys(("replaced_rule", "replaced_zone", "changed_by"), null())
    return _fire_by(connection, row, rule, given_back, by=by, reason=reason)


def remove(connection: Connection, name: str, *, by: str) -> None:
    """Take a schedule away that an operator made; its slots and runs stay.

    Raises:
        Refused: If there is no such schedule, or the code declares it.
    """
    row = _row(connection, name)
    if row.declared_rule is not None:
        raise Refused(f"the code declares {name}: `headrace schedules pause {name}` holds it")
    _set(connection, name, retired_at=func.now())
    record(connection, by=by, action="schedules remove", target=name)


def _check(name: str, job: Job[Any], rule: Rule) -> None:
    if NAME.fullmatch(name) is None:
        raise Refused(f"{name!r} cannot be the name of a schedule: use a-z, 0-9, - and _, at most 63, and no dot")
    if rule.policy.overlap is Overlap.QUEUE and job.limit != 1:
        raise Refused(f"fires of {job.name} would not queue behind each other: it may run more than once at a time")


def _fire_by(
    connection: Connection, row: Any, rule: Rule, columns: Mapping[str, Any], *, by: str, reason: str | None
) -> Planned:
    """Let a schedule fire by a rule from now on, with what belongs to that, and write it into the audit."""
    first = _first(connection, rule)
    _set(connection, row.name, rule=rule.text, zone=rule.zone, next_fire_at=first, **columns)
    told = {"before": f"{row.rule} ({row.zone})", "after": f"{rule.text} ({rule.zone})", "reason": reason}
    record(connection, by=by, action="schedules change", target=row.name, details=told)
    return Planned(rule, first)


def _first(connection: Connection, rule: Rule) -> datetime:
    now: datetime = connection.execute(select(func.now())).scalar_one()
    first = rule.next_after(now)
    if first is None:
        raise Refused(f"{rule.text} lies in the past: it would never fire")
    return first


def _row(connection: Connection, name: str) -> Any:
    found = select(Schedule.__table__).where(Schedule.name == name, Schedule.retired_at.is_(None)).with_for_update()
    row = connection.execute(found).one_or_none()
    if row is None:
        names = connection.execute(select(Schedule.name).where(Schedule.retired_at.is_(None))).scalars()
        require_known("schedule", name, set(names))
    return row


def _set(connection: Connection, name: str, **values: Any) -> None:
    connection.execute(update(Schedule).where(Schedule.name == name).values(**values))

"""Work asked for by a person: a job with arguments as they were typed, or a schedule's job out of turn."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, select

import jobs
from jobs import BadArguments, Job
from models import Schedule
from workers import slots
from workers.actions._audit import Refused, record
from workers.actions._selection import as_value


def enqueue(connection: Connection, name: str, arguments: Mapping[str, str], *, by: str, action: str = "run") -> int:
    """Enqueue a job and return the run's id.

    Args:
        connection: The transaction.
        name: Name of the job.
        arguments: Values as typed: JSON where they spell JSON and the job wants it so, else text.
        by: Who asks.
        action: How the audit calls it.

    Raises:
        UnknownJob: If there is no such job.
        BadArguments: If an argument is missing, unknown or of the wrong type.
    """
    job = jobs.find(name)
    run_id = job.insert(connection, accepted(job, arguments))
    record(connection, by=by, action=action, target=name, details={"run": run_id})
    return run_id


def accepted(job: Job[Any], arguments: Mapping[str, str]) -> dict[str, Any]:
    """Return arguments that a person typed as a run of the job stores them.

    Raises:
        BadArguments: If one is missing, unknown or of the wrong type.
    """
    try:
        return job.accept({key: as_value(typed) for key, typed in arguments.items()})
    except BadArguments:
        # `sku=123` spells a number where the job wants a text; a text is also how a number may be written.
        with suppress(BadArguments):
            return job.accept(arguments)
        raise


def fire(connection: Connection, schedule: str, *, by: str) -> int:
    """Fire a schedule now and return the run's id; its next planned fire stays as it is.

    Raises:
        UnknownJob: If there is no such schedule, and no such job.
        Refused: If no scheduler has declared it yet.
    """
    known = jobs.names().get(schedule)
    schedule = known.name if known else schedule  # a former name is understood
    if connection.execute(select(Schedule.name).where(Schedule.name == schedule)).scalar() is None:
        jobs.find(schedule)
        raise Refused(f"no scheduler has declared {schedule} yet: start one, or use `headrace run {schedule}`")
    run_id = slots.fire(connection, schedule)
    record(connection, by=by, action="schedules fire", target=schedule, details={"run": run_id})
    return run_id

"""Firing schedules: one slot row, one run and the next fire, in one transaction.

Due schedules are taken with SKIP LOCKED and the database's clock decides what is due, so any number of schedulers may
run without a leader; the unique slot makes a double fire impossible whatever happens. After downtime the missed fires
are folded into the last one: each gets its row, marked `coalesced`, and one run does the work. While a run of the
schedule is unfinished, a new fire is folded into it, so an upstream that is away does not pile up runs; the lock on
the schedule's row makes that safe. A paused schedule records that it skipped.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

from sqlalchemy import Connection, text

import jobs
from jobs import BadArguments, BadRule, Job, Rule, UnknownJob
from jobs._schedule import fires
from workers import logs

#: Missed fires that get a row of their own after downtime; earlier ones are only counted.
MOST_MISSED = 100

DECLARE = text("""
    INSERT INTO schedules (name, rule, zone, next_fire_at) VALUES (:name, :rule, :zone, :next_fire_at)
    ON CONFLICT (name) DO UPDATE
    SET rule = excluded.rule, zone = excluded.zone, retired_at = NULL,
        next_fire_at = CASE WHEN schedules.rule = excluded.rule AND schedules.zone = excluded.zone
                            AND schedules.retired_at IS NULL
                       THEN schedules.next_fire_at ELSE excluded.next_fire_at END
""")
RETIRE = text("UPDATE schedules SET retired_at = now() WHERE retired_at IS NULL AND name <> ALL(:names)")
# A renamed job keeps its schedule: whether it is paused, its next fire, its history, and the run under way.
RENAME = (
    text("""
        INSERT INTO schedules (name, rule, zone, next_fire_at, paused_at, paused_by, reason, retired_at)
        SELECT :name, rule, zone, next_fire_at, paused_at, paused_by, reason, retired_at FROM schedules
        WHERE name = ANY(:former) ORDER BY retired_at NULLS FIRST LIMIT 1 ON CONFLICT (name) DO NOTHING
    """),
    text("""
        UPDATE slots s SET schedule = :name WHERE schedule = ANY(:former)
            AND NOT EXISTS (SELECT 1 FROM slots t WHERE t.schedule = :name AND t.fire_at = s.fire_at)
    """),
    text("""
        UPDATE runs SET schedule = :name
        WHERE schedule = ANY(:former) AND state IN ('waiting', 'queued', 'running')
    """),
    text("DELETE FROM schedules WHERE name = ANY(:former)"),
)
FORMER = text("SELECT name FROM schedules WHERE name = ANY(:former) ORDER BY name FOR UPDATE")
DUE = text("""
    SELECT name, next_fire_at, paused_at IS NOT NULL AS paused, now() AS now FROM schedules
    WHERE retired_at IS NULL AND next_fire_at <= now() AND name = ANY(:names)
    ORDER BY next_fire_at FOR UPDATE SKIP LOCKED
""")
ADVANCE = text("UPDATE schedules SET next_fire_at = :next_fire_at WHERE name = :name")
SLOT = text("""
    INSERT INTO slots (schedule, fire_at, outcome) VALUES (:schedule, :fire_at, :outcome)
    ON CONFLICT (schedule, fire_at) DO NOTHING RETURNING id
""")
CAUSED = text("UPDATE slots SET run_id = :run_id, outcome = :outcome WHERE id = ANY(:ids)")
UNFINISHED = text("""
    SELECT id FROM runs WHERE schedule = :name AND state IN ('waiting', 'queued', 'running') ORDER BY id LIMIT 1
""")


@dataclass(frozen=True)
class Fired:
    """One schedule that was due and what came of it."""

    schedule: str
    fire_at: datetime
    outcome: str
    run_id: int | None
    #: Seconds between the nominal time and the recording.
    lateness: float


def declare(connection: Connection, declared: Iterable[Job[Any]], *, retire: bool) -> None:
    """Bring the schedules table in line with the code: new and changed rules in.

    Args:
        connection: The caller's transaction.
        declared: All jobs.
        retire: Whether to retire schedules that the code does not know. During a deploy an older scheduler does not
            know the newest ones, so a scheduler declares again now and then, and retires only when it starts.
    """
    now = connection.execute(text("SELECT now()")).scalar_one()
    names = []
    for job in sorted(declared, key=lambda job: job.name):
        if job.schedule is not None:
            names.append(job.name)
            _rename(connection, job)
            rule = {"rule": job.schedule.text, "zone": job.schedule.zone, "next_fire_at": job.schedule.next_after(now)}
            connection.execute(DECLARE, {"name": job.name, **rule})
    if retire:
        connection.execute(RETIRE, {"names": names})


def _rename(connection: Connection, job: Job[Any]) -> None:
    values = {"name": job.name, "former": list(job.formerly)}
    if job.formerly and connection.execute(FORMER, values).all():
        for statement in RENAME:
            connection.execute(statement, values)


def take_due(connection: Connection) -> list[Fired]:
    """Record every schedule that is due, in the caller's transaction."""
    scheduled = {job.name: job for job in jobs.all_jobs().values() if job.schedule is not None}
    due = connection.execute(DUE, {"names": list(scheduled)}).all()
    return [fired for row in due if (fired := _fire_alone(connection, scheduled[row.name], row))]


def _fire_alone(connection: Connection, job: Job[Any], row: Any) -> Fired | None:
    """Fire one schedule in a savepoint: one that cannot be fired must not hold the others."""
    try:
        with connection.begin_nested():
            return _fire(connection, job, row)
    except (BadArguments, BadRule) as error:
        logs.get().error("a schedule cannot be fired", schedule=job.name, reason=str(error))
        return None


def _fire(connection: Connection, job: Job[Any], row: Any) -> Fired | None:
    rule = job.schedule
    if rule is None:
        return None
    *missed, last = _planned(rule, row.next_fire_at, row.now)
    connection.execute(ADVANCE, {"name": job.name, "next_fire_at": rule.next_after(max(last, row.now))})
    earlier = [
        _slot(connection, job.name, moment, "skipped_paused" if row.paused else "coalesced") for moment in missed
    ]
    slot_id = _slot(connection, job.name, last, "skipped_paused" if row.paused else "ran")
    if slot_id is None:
        return None
    outcome, run_id = ("skipped_paused", None) if row.paused else _enqueue(connection, job, last)
    if run_id is not None:
        ids = [found for found in earlier if found is not None]
        connection.execute(CAUSED, {"run_id": run_id, "outcome": "coalesced", "ids": ids})
        connection.execute(CAUSED, {"run_id": run_id, "outcome": outcome, "ids": [slot_id]})
    return Fired(job.name, last, outcome, run_id, (row.now - last).total_seconds())


def _planned(rule: Rule, first: datetime, now: datetime) -> list[datetime]:
    """Return the planned fires up to now: always the last one, and as many before it as get a row of their own."""
    return list(deque(chain([first], fires(rule, first, now)), maxlen=MOST_MISSED + 1))


def _slot(connection: Connection, schedule: str, fire_at: datetime, outcome: str) -> int | None:
    return connection.execute(SLOT, {"schedule": schedule, "fire_at": fire_at, "outcome": outcome}).scalar()


def _enqueue(connection: Connection, job: Job[Any], fire_at: datetime) -> tuple[str, int]:
    unfinished = connection.execute(UNFINISHED, {"name": job.name}).scalar()
    if unfinished is not None:
        return "coalesced", int(unfinished)
    return "ran", job.options(slot=(job.name, fire_at)).enqueue(connection)


def fire(connection: Connection, name: str) -> int:
    """Fire a schedule by hand, now; return the run.

    Raises:
        UnknownJob: If no schedule has this name.
    """
    job = jobs.find(name)
    if job.schedule is None:
        raise UnknownJob(f"{name} has no schedule: `headrace run {name}` starts it once")
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    run_id = job.options(slot=(job.name, now)).enqueue(connection)
    slot_id = _slot(connection, job.name, now, "fired_by_hand")
    connection.execute(CAUSED, {"run_id": run_id, "outcome": "fired_by_hand", "ids": [slot_id]})
    return run_id

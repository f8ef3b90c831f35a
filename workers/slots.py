"""Firing schedules: one slot row, one run and the next fire, in one transaction.

Due schedules are taken with SKIP LOCKED and the database's clock decides what is due, so any number of schedulers may
run without a leader; the unique slot makes a double fire impossible whatever happens. Each planned fire gets its row
with its outcome: what becomes of those that were missed in a downtime, and of one that meets an unfinished run of its
schedule, its policy says (`jobs/_fire_policy.py`); the lock on the schedule's row makes that look at the runs safe. A
paused schedule records that it skipped.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

import jobs
from jobs import BadArguments, BadRule, Job, Overlap, Rule, UnknownJob
from jobs._fire_policy import FirePolicy, outcomes
from jobs._schedule import fires
from workers import logs

#: Missed fires that get a row of their own after downtime, unless more are made up for; earlier ones have none.
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
        INSERT INTO schedules
            (name, rule, zone, next_fire_at, paused_at, paused_by, reason, paused_until, retired_at)
        SELECT :name, rule, zone, next_fire_at, paused_at, paused_by, reason, paused_until, retired_at FROM schedules
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
    SELECT name, next_fire_at, paused_at IS NOT NULL AS paused, paused_until, now() AS now FROM schedules
    WHERE retired_at IS NULL AND next_fire_at <= now() AND name = ANY(:names)
    ORDER BY next_fire_at FOR UPDATE SKIP LOCKED
""")
# What was planned within the pause is recorded before: a schedule that another scheduler is firing now is lifted later.
LIFT = text("""
    WITH lifted AS (
        UPDATE schedules SET paused_at = NULL, paused_by = NULL, reason = NULL, paused_until = NULL
        WHERE name IN (SELECT name FROM schedules WHERE paused_until <= now() ORDER BY name FOR UPDATE SKIP LOCKED)
        RETURNING name
    )
    INSERT INTO audit (actor, action, target, count) SELECT 'the clock', 'schedules resume', name, 1 FROM lifted
""")
ADVANCE = text("UPDATE schedules SET next_fire_at = :next_fire_at WHERE name = :name")
RECORDED = text("SELECT fire_at FROM slots WHERE schedule = :schedule AND fire_at = ANY(:fires)")
SLOTS = text("""
    INSERT INTO slots (schedule, fire_at, outcome, run_id)
    SELECT :schedule, * FROM unnest(
        CAST(:fires AS timestamptz[]), CAST(:outcomes AS text[]), CAST(:run_ids AS bigint[]))
""")
UNFINISHED = text("""
    SELECT id, state <> 'running' AND attempt = 0 AS waits FROM runs
    WHERE schedule = :name AND state IN ('waiting', 'queued', 'running') ORDER BY id
""")
REPLACE = text("""
    UPDATE runs SET cancel_requested_at = now(),
        state = CASE WHEN state = 'running' THEN state ELSE 'cancelled' END,
        finished_at = CASE WHEN state = 'running' THEN finished_at ELSE now() END,
        unique_key = CASE WHEN state = 'running' THEN unique_key END,
        error = CASE WHEN state = 'running' THEN error ELSE 'cancelled: the next fire of its schedule replaced it' END
    WHERE id IN (SELECT id FROM runs WHERE id = ANY(:ids) AND state IN ('waiting', 'queued', 'running')
                 ORDER BY id FOR UPDATE)
""")


#: What a planned fire becomes that has a run of its own.
WANT_A_RUN = {"ran", "caught_up"}


class Recorded(NamedTuple):
    """A slot."""

    fire_at: datetime
    outcome: str
    run_id: int | None


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
    fired = [_fire_alone(connection, scheduled[row.name], row) for row in due]
    connection.execute(LIFT)
    return [one for one in fired if one is not None]


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
    planned = _planned(rule, row.next_fire_at, row.now)
    last = planned[-1]
    connection.execute(ADVANCE, {"name": job.name, "next_fire_at": rule.next_after(max(last, row.now))})
    known = set(connection.execute(RECORDED, {"schedule": job.name, "fires": planned}).scalars())
    if last in known:
        return None
    fresh = [moment for moment in planned if moment not in known]
    slots = _with_runs(connection, job, rule.policy, _became(rule, row, fresh))
    _record(connection, job.name, slots)
    return Fired(job.name, last, slots[-1].outcome, slots[-1].run_id, (row.now - last).total_seconds())


def _planned(rule: Rule, first: datetime, now: datetime) -> list[datetime]:
    """Return the planned fires up to now: always the last one, and as many before it as get a row of their own."""
    most = max(MOST_MISSED, rule.policy.missed.most)
    return list(deque(chain([first], fires(rule, first, now)), maxlen=most + 1))


def _became(rule: Rule, row: Any, planned: Sequence[datetime]) -> list[tuple[datetime, str]]:
    """Return what fires become if no run is in the way."""
    became = {}
    for moment in planned:
        if row.paused and (row.paused_until is None or moment < row.paused_until):
            became[moment] = "skipped_paused"
        elif rule.policy.excludes(moment, rule.zone):
            became[moment] = "skipped_calendar"
    left = [moment for moment in planned if moment not in became]
    became |= zip(left, outcomes(left, row.now, rule.policy.missed), strict=True)
    return [(moment, became[moment]) for moment in planned]


def _with_runs(
    connection: Connection, job: Job[Any], policy: FirePolicy, became: list[tuple[datetime, str]]
) -> list[Recorded]:
    """Enqueue what the fires want, unless a run is in the way: then they join it."""
    wanting = [moment for moment, outcome in became if outcome in WANT_A_RUN]
    run_id = _make_way(connection, job.name, policy.overlap) if wanting else None
    runs: dict[datetime, int] = {}
    if run_id is not None:
        became = [(moment, "coalesced" if outcome in WANT_A_RUN else outcome) for moment, outcome in became]
    elif wanting:
        runs = {moment: _enqueue(connection, job, policy, moment) for moment in wanting}
        run_id = runs[wanting[-1]]
    return [
        Recorded(moment, outcome, run_id if outcome == "coalesced" else runs.get(moment)) for moment, outcome in became
    ]


def _enqueue(connection: Connection, job: Job[Any], policy: FirePolicy, moment: datetime) -> int:
    due_at = policy.starts(job.name, moment) if policy.jitter else None
    return job.options(slot=(job.name, moment), due_at=due_at).enqueue(connection)


def _make_way(connection: Connection, name: str, overlap: Overlap) -> int | None:
    """Return the run that does the work of a new fire too; without one the way is free."""
    unfinished = [] if overlap is Overlap.ALLOW else connection.execute(UNFINISHED, {"name": name}).all()
    if overlap is Overlap.REPLACE and unfinished:
        connection.execute(REPLACE, {"ids": [run.id for run in unfinished]})
        return None
    return next((int(run.id) for run in unfinished if overlap is Overlap.JOIN or run.waits), None)


def _record(connection: Connection, schedule: str, slots: Sequence[Recorded]) -> None:
    moments, became, run_ids = zip(*slots, strict=True)
    values = {"schedule": schedule, "fires": list(moments), "outcomes": list(became), "run_ids": list(run_ids)}
    connection.execute(SLOTS, values)


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
    _record(connection, job.name, [Recorded(now, "fired_by_hand", run_id)])
    return run_id

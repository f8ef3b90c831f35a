"""Firing schedules: one slot row, one run and the next fire, in one transaction.

Due schedules are taken with SKIP LOCKED and the database's clock decides what is due, so any number of schedulers may
run without a leader; the unique slot makes a double fire impossible whatever happens. All that are due are one set:
the number of statements does not depend on how many there are. Each planned fire gets its row with its outcome
(`workers/plan.py`). One that meets an unfinished run of its schedule does what its policy says
(`jobs/_fire_policy.py`); the lock on the schedule's row makes that look at the runs safe. While its queue, its job or
an upstream that it needs is paused or left alone, fires share one waiting run whatever the policy is.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError, IntegrityError

import jobs
from jobs import BadRule, Overlap, UnknownJob
from jobs._fires import Fire, enqueue_fires
from workers import circuits, logs, throttles
from workers.plan import Plan, Recorded, look

#: Schedules taken in one transaction; fewer when many fires of each are due after a downtime, so that planning takes
#: no longer than a second, and what is written no longer than the fires below.
TOGETHER = 1_000
FIRES = 20_000
PLANNING = 1.0
#: Seconds after which Postgres ends the transaction of a scheduler that was frozen or cut off in its middle: the others
#: wait for its locks, and it lets Postgres wait for no longer than its planning.
IDLE = 5

HURRY = text(f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE}s'")
_ROW = """name, coalesce(job, name) AS job, args, rule, zone, declared_rule IS NOT NULL AS declared, missed, overlap,
    jitter, next_fire_at, paused_at IS NOT NULL AS paused, paused_by, reason, paused_until, now() AS now"""
DUE = text(f"""
    SELECT {_ROW} FROM schedules
    WHERE retired_at IS NULL AND next_fire_at <= now() AND coalesce(job, name) = ANY(:jobs)
    ORDER BY next_fire_at LIMIT :most FOR UPDATE SKIP LOCKED
""")
#: Seconds until the next fire that is not due yet.
NEXT = text("""
    SELECT extract(epoch FROM min(next_fire_at) - clock_timestamp())::float8 FROM schedules
    WHERE retired_at IS NULL AND next_fire_at > now()
""")
# What was planned within the pause is recorded before; a schedule of which something is due still is lifted later.
LIFT = text("""
    WITH lifted AS (
        UPDATE schedules SET paused_at = NULL, paused_by = NULL, reason = NULL, paused_until = NULL
        WHERE name IN (
            SELECT name FROM schedules
            WHERE paused_until <= now() AND (next_fire_at IS NULL OR next_fire_at > now() OR retired_at IS NOT NULL)
            ORDER BY name FOR UPDATE SKIP LOCKED)
        RETURNING name
    )
    INSERT INTO audit (actor, action, target, count) SELECT 'the clock', 'schedules resume', name, 1 FROM lifted
""")
ADVANCE = text("""
    UPDATE schedules s SET next_fire_at = given.next_fire_at
    FROM unnest(CAST(:names AS text[]), CAST(:thens AS timestamptz[])) AS given (name, next_fire_at)
    WHERE s.name = given.name
""")
KNOWN = text("""
    SELECT s.schedule, s.fire_at FROM slots s
    JOIN unnest(CAST(:names AS text[]), CAST(:fires AS timestamptz[])) AS given (schedule, fire_at)
        USING (schedule, fire_at)
""")
SLOTS = text("""
    INSERT INTO slots (schedule, fire_at, outcome, run_id, note)
    SELECT * FROM unnest(CAST(:names AS text[]), CAST(:fires AS timestamptz[]), CAST(:outcomes AS text[]),
        CAST(:run_ids AS bigint[]), CAST(:notes AS text[]))
""")
UNFINISHED = text("""
    SELECT schedule, id, state <> 'running' AND attempt = 0 AS waits FROM runs
    WHERE schedule = ANY(:names) AND state IN ('waiting', 'queued', 'running') ORDER BY id
""")
HELD = text(f"""
    SELECT 'queue' AS kind, name FROM queues WHERE paused_at IS NOT NULL
    UNION ALL SELECT 'job', job FROM pauses WHERE key = '' AND paused_at IS NOT NULL
    UNION ALL SELECT 'upstream', name FROM upstreams WHERE paused_at IS NOT NULL
    UNION ALL SELECT 'upstream', name FROM upstreams WHERE {circuits.IS_OPEN} OR {throttles.IS_THROTTLED}
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
ONE = text("""
    SELECT coalesce(job, name) AS job, args, clock_timestamp() AS moment FROM schedules
    WHERE name = :name AND retired_at IS NULL
""")


#: Policies by which each fire adds a run.
_SHARED = {Overlap.ALLOW, Overlap.QUEUE}


class Unfinished(NamedTuple):
    """A run of a schedule that has not ended."""

    run_id: int
    #: No attempt has begun.
    waits: bool


@dataclass(frozen=True)
class Fired:
    """One schedule that was due and what came of its last fire."""

    schedule: str
    fire_at: datetime
    outcome: str
    run_id: int | None
    #: Seconds between the nominal time and the recording.
    lateness: float


def take_due(connection: Connection) -> list[Fired]:
    """Record schedules that are due, in the caller's transaction; until nothing comes back there may be more."""
    connection.execute(HURRY)
    due = connection.execute(DUE, {"jobs": list(jobs.names()), "most": TOGETHER}).all()
    plans = list(_planned(due))
    fired = _fire(connection, plans) if plans else []
    connection.execute(LIFT)
    return fired


def seconds_to_next(connection: Connection) -> float | None:
    """Return the seconds until a schedule is due next, by the database's clock; None if none ever is."""
    seconds: float | None = connection.execute(NEXT).scalar()
    return seconds


def _planned(due: Iterable[Any]) -> Iterator[Plan]:
    """Yield the plans of rows, as many as one transaction takes."""
    began, fires = time.monotonic(), 0
    for row in due:
        plan = _readable(row)
        if plan is not None:
            yield plan
            fires += len(plan.planned)
        if fires >= FIRES or time.monotonic() - began > PLANNING:
            return


def _readable(row: Any) -> Plan | None:
    """Return the plan of a row; one that cannot be read must not hold the others."""
    try:
        return look(row)
    except (BadRule, UnknownJob) as error:
        logs.get().error("a schedule cannot be fired", schedule=row.name, reason=str(error))
        return None


def _fire(connection: Connection, plans: list[Plan]) -> list[Fired]:
    """Fire schedules in a savepoint, and each in its own if Postgres refuses one of them."""
    try:
        with connection.begin_nested():
            return _fire_together(connection, plans)
    except (DataError, IntegrityError) as error:
        if len(plans) > 1:
            return [fired for plan in plans for fired in _fire(connection, [plan])]
        logs.get().error("a schedule cannot be fired", schedule=plans[0].name, reason=str(error).splitlines()[0])
        return []


def _fire_together(connection: Connection, plans: list[Plan]) -> list[Fired]:
    names, thens = [plan.name for plan in plans], [plan.then for plan in plans]
    connection.execute(ADVANCE, {"names": names, "thens": thens})
    known = _known(connection, plans)
    became = {plan: plan.became(known[plan.name]) for plan in plans}
    became = _with_runs(connection, _joined(connection, became))
    _record(connection, {plan.name: slots for plan, slots in became.items()})
    return [
        Fired(plan.name, last.fire_at, last.outcome, last.run_id, (plan.now - last.fire_at).total_seconds())
        for plan, slots in became.items()
        for last in slots[-1:]
    ]


def _known(connection: Connection, plans: Sequence[Plan]) -> defaultdict[str, set[datetime]]:
    pairs = [(plan.name, moment) for plan in plans for moment in plan.planned]
    names, fires = zip(*pairs, strict=True)
    known = defaultdict(set)
    for schedule, moment in connection.execute(KNOWN, {"names": list(names), "fires": list(fires)}):
        known[schedule].add(moment)
    return known


def _joined(connection: Connection, became: dict[Plan, list[Recorded]]) -> dict[Plan, list[Recorded]]:
    """Let fires that want a run and meet an unfinished one do what their policy says."""
    wanting = [plan for plan, slots in became.items() if any(slot.wants for slot in slots)]
    held = _held(connection) if any(plan.policy.overlap in _SHARED for plan in wanting) else set()
    overlaps = {plan: _overlap(plan, held) for plan in wanting}
    asking = [plan.name for plan, overlap in overlaps.items() if overlap is not Overlap.ALLOW]
    unfinished = _unfinished(connection, asking) if asking else {}
    replaced = [run.run_id for plan in wanting if overlaps[plan] is Overlap.REPLACE for run in unfinished[plan.name]]
    if replaced:
        connection.execute(REPLACE, {"ids": replaced})
    ways = {plan: _in_the_way(overlap, unfinished.get(plan.name, ())) for plan, overlap in overlaps.items()}
    return {plan: _join(slots, ways.get(plan)) for plan, slots in became.items()}


def _held(connection: Connection) -> set[tuple[str, str]]:
    return {(row.kind, row.name) for row in connection.execute(HELD)}


def _overlap(plan: Plan, held: set[tuple[str, str]]) -> Overlap:
    job, overlap = plan.job, plan.policy.overlap
    if overlap not in _SHARED:
        return overlap
    if held & {("upstream", upstream.name) for upstream in job.needs}:
        return Overlap.JOIN  # its run is put back as often as it begins, so it may have begun already
    return Overlap.QUEUE if held & {("queue", job.queue), ("job", job.name)} else overlap


def _unfinished(connection: Connection, names: list[str]) -> defaultdict[str, list[Unfinished]]:
    found = defaultdict(list)
    for schedule, run_id, waits in connection.execute(UNFINISHED, {"names": names}):
        found[schedule].append(Unfinished(run_id, waits))
    return found


def _in_the_way(overlap: Overlap, unfinished: Sequence[Unfinished]) -> int | None:
    """Return the run that does the work of a new fire too; without one the way is free."""
    if overlap is Overlap.REPLACE:
        return None
    return next((run.run_id for run in unfinished if overlap is Overlap.JOIN or run.waits), None)


def _join(slots: list[Recorded], run_id: int | None) -> list[Recorded]:
    if run_id is None:
        return slots
    note = f"run {run_id} had not ended and does its work"
    return [slot._replace(outcome="coalesced", run_id=run_id, note=note) if slot.wants else slot for slot in slots]


def _with_runs(connection: Connection, became: dict[Plan, list[Recorded]]) -> dict[Plan, list[Recorded]]:
    """Enqueue what the fires want; those that were folded into the last one share its run."""
    fires = [
        Fire(plan.name, slot.fire_at, plan.job, plan.args, plan.starts(slot.fire_at))
        for plan, slots in became.items()
        for slot in slots
        if slot.wants
    ]
    runs = enqueue_fires(connection, fires) if fires else {}
    return {plan: _shared(_own(plan.name, slots, runs)) for plan, slots in became.items()}


def _own(name: str, slots: list[Recorded], runs: dict[tuple[str, datetime], int]) -> list[Recorded]:
    return [slot._replace(run_id=runs[name, slot.fire_at]) if slot.wants else slot for slot in slots]


def _shared(slots: list[Recorded]) -> list[Recorded]:
    """Let fires that were folded into the last one say its run."""
    last = next((slot.run_id for slot in reversed(slots) if slot.run_id is not None), None)
    return [slot._replace(run_id=slot.run_id or last) if slot.outcome == "coalesced" else slot for slot in slots]


def _record(connection: Connection, slots: dict[str, list[Recorded]]) -> None:
    rows = [(name, *slot) for name, recorded in slots.items() for slot in recorded]
    if rows:
        columns = map(list, zip(*rows, strict=True))
        connection.execute(SLOTS, dict(zip(("names", "fires", "outcomes", "run_ids", "notes"), columns, strict=True)))


def fire(connection: Connection, name: str) -> int:
    """Fire a schedule by hand, now; return the run.

    Raises:
        UnknownJob: If no schedule has this name, or the code does not have its job.
        BadArguments: If its job does not take its arguments any more.
    """
    row = connection.execute(ONE, {"name": name}).one_or_none()
    if row is None:
        raise UnknownJob(f"{jobs.find(name).name} has no schedule: `headrace run {name}` starts it once")
    job = jobs.find(row.job)
    run_id = job.options(slot=(name, row.moment)).insert(connection, job.accept(row.args))
    _record(connection, {name: [Recorded(row.moment, "fired_by_hand", run_id)]})
    return run_id

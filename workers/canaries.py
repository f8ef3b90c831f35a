"""Where work stands still: the newest of each queue's canaries, and where the one is that should be back.

Each queue has a run a minute that only comes back (`jobs/_canary.py`). Each step of its way leaves a mark on its row,
so the row of one that is missing tells which step was not made:

    no row             scheduler   it lives and records no slot
    waiting            relay       it lives and does not push what is due
    queued             broker      workers live and do not take it from there
    running            worker      it began and does not end; or its workers died with it
    put aside          postgres, search    its job could not reach them, and says why

`look` reads the rows, `stopped` judges them and is a pure function. It is silent about what others say already: a kind
of process of which none lives, a queue that is paused, one whose limit or whose workers are full with other runs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, text

import jobs
from jobs._canary import PREFIX
from models import State
from workers.census import ProcessView, QueueView

#: Seconds after which a canary should be back: so the last one came back at most three minutes ago.
PATIENCE = 120
#: A canary that is under way for less tells nothing yet: the one before it is looked at.
YOUNG = 60
#: Characters of an error in a sentence.
LONGEST_ERROR = 160
#: Entries of the audit that are searched for the end of a pause.
AUDITED = 1_000

# The slots lead to the newest runs in a few steps. Looked for among runs alone, a canary that never came is looked for
# in all of history.
LOOK = text(f"""
    WITH resumed AS MATERIALIZED (
        SELECT target, max(at) AS at FROM (SELECT * FROM audit ORDER BY id DESC LIMIT {AUDITED}) AS newest
        WHERE action LIKE '% resume' GROUP BY target
    )
    SELECT c.queue, home.finished_at AS returned_at, home.result,
           extract(epoch FROM home.finished_at - home.slot_at)::float8 AS seconds,
           missing.created_at AS missing_since, last.id AS run_id, last.state, last.error,
           s.next_fire_at,
           coalesce(s.paused_at, p.paused_at) AS paused_at, coalesce(s.paused_by, p.paused_by) AS paused_by,
           CASE WHEN s.paused_at IS NOT NULL THEN 'schedules' WHEN p.paused_at IS NOT NULL THEN 'jobs' END AS paused_as,
           (SELECT max(at) FROM resumed WHERE target IN (c.queue, c.name)) AS resumed_at
    FROM (SELECT queue, '{PREFIX}' || queue AS name FROM unnest(CAST(:queues AS text[])) AS queue) AS c
    LEFT JOIN LATERAL (
        SELECT fire_at, r.slot_at, r.finished_at, r.result FROM slots JOIN runs r ON r.id = run_id
        WHERE slots.schedule = c.name AND r.state = 'succeeded' ORDER BY fire_at DESC LIMIT 1
    ) AS home ON true
    LEFT JOIN LATERAL (
        SELECT r.created_at FROM slots JOIN runs r ON r.id = run_id
        WHERE slots.schedule = c.name AND fire_at > coalesce(home.fire_at, '-infinity') ORDER BY fire_at LIMIT 1
    ) AS missing ON true
    LEFT JOIN LATERAL (
        SELECT r.id, r.state, r.error FROM slots JOIN runs r ON r.id = run_id
        WHERE slots.schedule = c.name AND fire_at > coalesce(home.fire_at, '-infinity')
            AND (r.state IN ('dead', 'cancelled') OR r.created_at < now() - interval '{YOUNG} s')
        ORDER BY fire_at DESC LIMIT 1
    ) AS last ON true
    LEFT JOIN schedules s ON s.name = c.name AND s.retired_at IS NULL
    LEFT JOIN pauses p ON p.job = c.name AND p.key = ''
    ORDER BY c.queue
""")


@dataclass(frozen=True, slots=True)
class CanaryView:
    """The canaries of one queue."""

    queue: str
    #: When the last one came back, how long after its slot, and how much of that each part took; empty before.
    returned_at: datetime | None
    seconds: float | None
    parts: dict[str, float]
    #: When the oldest that has not come back since was enqueued.
    missing_since: datetime | None
    #: The newest that should be back and is not.
    run_id: int | None
    state: str | None
    error: str | None
    #: When it fires next; empty before a scheduler has declared it.
    next_fire_at: datetime | None
    paused_at: datetime | None
    paused_by: str | None
    #: What was paused: `schedules` or `jobs`.
    paused_as: str | None
    #: When a pause of the queue or the canary ended last.
    resumed_at: datetime | None


@dataclass(frozen=True)
class Stopped:
    """A stage at which canaries stand still."""

    stage: str
    queues: Sequence[str]
    #: Since when they are awaited.
    since: datetime
    #: Where they are and what to do, for people.
    sentence: str


def look(connection: Connection) -> list[CanaryView]:
    """Return the canaries of every queue."""
    rows = connection.execute(LOOK, {"queues": sorted(jobs.canaries())}).mappings()
    return [CanaryView(parts=_parts(row["result"]), **_without(row, "result")) for row in rows]


def _parts(result: Mapping[str, Any] | None) -> dict[str, float]:
    return {name.removesuffix("_ms"): took / 1000 for name, took in (result or {}).items()}


def _without(row: Mapping[Any, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


def stopped(
    views: Iterable[CanaryView], queues: Iterable[QueueView], processes: Sequence[ProcessView], now: datetime
) -> list[Stopped]:
    """Return the stages at which canaries stand still, each with all its queues."""
    known = {queue.name: queue for queue in queues}
    found = [
        (stage, view, since)
        for view, since in _overdue(views, known, processes, now)
        if (stage := _stage(view)) not in _IN_LINE or not _full(known.get(view.queue), _serving(view.queue, processes))
    ]
    stages = groupby(sorted(found, key=lambda one: one[0]), key=lambda one: one[0])
    return [_told(stage, [(view, since) for _, view, since in group], now) for stage, group in stages]


def _overdue(
    views: Iterable[CanaryView], known: Mapping[str, QueueView], processes: Sequence[ProcessView], now: datetime
) -> Iterator[tuple[CanaryView, datetime]]:
    for view in views:
        queue = known.get(view.queue)
        held = view.paused_at or (queue and queue.paused_at)
        complete = _complete_since(view.queue, processes)
        since = None if held or complete is None else _awaited_since(view, complete)
        if since is not None and now - since > timedelta(seconds=PATIENCE):
            yield view, since


def _complete_since(queue: str, processes: Iterable[ProcessView]) -> datetime | None:
    """Return since when somebody lives for each step; None while nobody does for one, which others say."""
    living = [process for process in processes if process.alive]
    crews = (*([one for one in living if one.kind == kind] for kind in ("scheduler", "relay")), _serving(queue, living))
    return max(min(one.started_at for one in crew) for crew in crews) if all(crews) else None


def _awaited_since(view: CanaryView, complete: datetime) -> datetime | None:
    """Return since when the next canary is awaited; in the future when all are back, None when none will come."""
    first = view.missing_since or view.next_fire_at
    if first is None:  # no scheduler of this release lives yet, or its schedule fires no more
        return None
    return max(moment for moment in (first, complete, view.resumed_at) if moment is not None)


def _stage(view: CanaryView) -> str:
    match view.state:
        case None:
            return "scheduler"
        case State.WAITING:
            return "relay"
        case State.QUEUED:
            return "broker"
        case State.RUNNING:
            return "worker"
        case _:
            part = (view.error or "").partition(":")[0]
            return part if part in {"postgres", "search"} else "worker"


#: Stages at which a run stands in line with others.
_IN_LINE = {"relay", "broker"}


def _full(queue: QueueView | None, serving: Iterable[ProcessView]) -> bool:
    """Whether the canary waits for runs that are under way and fill its limit or its workers: that is no standstill."""
    if queue is not None and queue.concurrency is not None and queue.queued + queue.running >= queue.concurrency:
        return True
    return all(process.running >= max(1, process.threads) for process in serving)


def _serving(queue: str, processes: Iterable[ProcessView]) -> list[ProcessView]:
    return [one for one in processes if one.alive and one.kind == "worker" and queue in one.queues]


_SENTENCES = {
    "scheduler": "a scheduler lives and records no slot: look at its log, then restart `python -m scheduler`",
    "relay": "run {run} is due and no relay pushes it, although one lives: look at its log and at `headrace runs show"
    " {run}`, then restart `python -m workers.relay`",
    "broker": "run {run} lies on the broker and no worker takes it, although one lives: look at its log and at"
    " `headrace runs show {run}`, then restart the workers of the queue",
    "worker": "run {run} began and does not succeed{error}: look at `headrace runs show {run}` and at its worker's log",
    "postgres": "workers cannot write to Postgres and read it back{error}: look at `headrace runs show {run}` and at"
    " how the workers reach Postgres",
    "search": "workers get no answer from search{error}: look at `headrace runs show {run}` and at how the workers"
    " reach Elasticsearch",
}


def _told(stage: str, found: Sequence[tuple[CanaryView, datetime]], now: datetime) -> Stopped:
    queues = [view.queue for view, _ in found]
    first, since = min(found, key=lambda one: one[1])
    error = (first.error or "").partition("\n")[0].removeprefix(f"{stage}: ")[:LONGEST_ERROR]
    where = _SENTENCES[stage].format(run=first.run_id, error=f" ({error})" if error else "")
    names = f"the queue {queues[0]}" if len(queues) == 1 else f"the queues {', '.join(queues)}"
    minutes = int((now - since).total_seconds() // 60)
    return Stopped(stage, queues, since, f"No canary of {names} has come back for {minutes} min: {where}.")

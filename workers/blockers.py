"""Why is this run waiting? One truthful sentence: what is in its way, since when and, if it can be known, until when.

`look` reads what decides it; `blocker` is a pure function that names the first thing in the way, in the order in which
a run meets them: somebody holds it, its time has not come, nobody could execute it, others are before it. The limits
are counted as the relay counts them, so the sentence and the relay cannot disagree for long.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, TextClause, text

import jobs
from models import NEVER, State
from workers import circuits, throttles
from workers.gates import ramp
from workers.process import STALE_AFTER

#: Runs before this one that are counted; more is said as "over".
MOST_AHEAD = 10_000
#: Seconds over which the pace of a queue is measured, and attempts looked at.
PACE = 60
#: A run that is due this long after the next probe of a circuit, or the end of a block, waits for something else.
SPREAD = timedelta(seconds=60)
MOST_ATTEMPTS = 20_000

HELD = text("""
    SELECT 'queue ' || name AS what, paused_by, reason, paused_at, paused_until FROM queues
    WHERE name = :queue AND paused_at IS NOT NULL
    UNION ALL
    SELECT CASE WHEN key = '' THEN 'job ' || job WHEN job = '' THEN 'key ' || key
           ELSE 'key ' || key || ' of ' || job END, paused_by, reason, paused_at, paused_until
    FROM pauses WHERE paused_at IS NOT NULL AND job IN ('', :job) AND key IN ('', :key)
    LIMIT 1
""")
ALIVE = text("""
    SELECT count(*) FILTER (WHERE kind = 'worker' AND :queue = ANY(queues)) AS workers,
           coalesce(sum(threads) FILTER (WHERE kind = 'worker' AND :queue = ANY(queues)), 0)::int AS threads,
           count(*) FILTER (WHERE kind = 'worker' AND :queue = ANY(queues) AND :job = ANY(jobs)) AS knowing,
           count(*) FILTER (WHERE kind = 'relay') AS relays
    FROM processes WHERE stopped_at IS NULL AND heartbeat_at > now() - make_interval(secs => :stale)
""")
_UNDER_WAY = """SELECT count(*) AS many, (array_agg(id ORDER BY started_at NULLS LAST, id))[1] AS first,
    min(started_at) AS since FROM runs WHERE state IN ('queued', 'running')"""
OF_QUEUE = text(f"""{_UNDER_WAY} AND queue = :queue""")
OF_JOB = text(f"""{_UNDER_WAY} AND key IS NOT NULL AND job = :job""")
OF_KEY = text(f"""{_UNDER_WAY} AND key IS NOT NULL AND job = :job AND key = :key""")
BEGUN = text("""
    SELECT id, due_at FROM runs
    WHERE key IS NOT NULL AND attempt > 0 AND state = 'waiting' AND job = :job AND key = :key AND id <> :id
    ORDER BY id LIMIT 1
""")
THROTTLED = text(f"""
    SELECT name, {throttles.COLUMNS} FROM upstreams
    WHERE name = ANY(:names) AND {throttles.IS_THROTTLED} ORDER BY throttled_until DESC LIMIT 1
""")
SHUT = text(f"""
    SELECT name, circuit_opened_at, next_probe_at, circuit_error FROM upstreams
    WHERE name = ANY(:names) AND {circuits.IS_SHUT} ORDER BY next_probe_at DESC LIMIT 1
""")
BEFORE = text("SELECT state FROM runs WHERE id = :id")
LIMIT = text("""
    SELECT concurrency, ramp_seconds, extract(epoch FROM now() - resumed_at)::float8 AS since
    FROM queues WHERE name = :queue
""")
RAMPS = text("""
    SELECT job, key, ramp_seconds, resumed_at, extract(epoch FROM now() - resumed_at)::float8 AS since FROM pauses
    WHERE paused_at IS NULL AND ramp_seconds IS NOT NULL AND job IN ('', :job) AND key IN ('', :key)
""")
AHEAD = text(f"""
    SELECT count(*) FROM (
        (SELECT 1 FROM runs WHERE state = 'queued' AND queue = :queue LIMIT {MOST_AHEAD})
        UNION ALL
        (SELECT 1 FROM generate_series(0, :priority) AS level CROSS JOIN LATERAL (
            (SELECT 1 FROM runs WHERE state = 'waiting' AND key IS NULL AND queue = :queue AND priority = level
                AND due_at <= now() AND (level < :priority OR (due_at, id) < (:due_at, :id)) LIMIT {MOST_AHEAD})
            UNION ALL
            (SELECT 1 FROM runs WHERE state = 'waiting' AND key IS NOT NULL AND queue = :queue AND priority = level
                AND due_at <= now() AND (level < :priority OR (due_at, id) < (:due_at, :id)) LIMIT {MOST_AHEAD})
        ) AS before LIMIT {MOST_AHEAD})
    ) AS ahead
""")
STARTED = text(f"""
    SELECT count(*) FROM (SELECT run_id FROM attempts WHERE finished_at > now() - make_interval(secs => {PACE})
                          ORDER BY finished_at DESC LIMIT {MOST_ATTEMPTS}) AS ended
    JOIN runs r ON r.id = ended.run_id WHERE r.queue = :queue
""")


@dataclass(frozen=True)
class Blocker:
    """What a run waits for."""

    #: `held`, `after`, `circuit`, `budget`, `due`, `nobody`, `order`, `limit` or `line`.
    kind: str
    #: Why, to be read after "the run"; it says what to do where something can be done.
    sentence: str
    since: datetime | None = None
    #: When it will be over, or about when the run starts.
    until: datetime | None = None


@dataclass(frozen=True)
class Facts:
    """What decides over a run that has not started; counts are of the moment it was asked."""

    now: datetime
    held: Any = None
    #: An upstream that its job needs and that is left alone.
    shut: Any = None
    #: An upstream that its job needs and that asked us to stay away.
    throttled: Any = None
    workers: int = 1
    threads: int = 1
    #: Of its workers those whose code has the job.
    knowing: int = 1
    relays: int = 1
    #: Runs of its queue, job and key that are under way: `many`, the `first` of them, `since` when.
    of_queue: Any = None
    of_job: Any = None
    of_key: Any = None
    #: How many may be: of the queue, the job, the key; None for no limit.
    most_of_queue: int | None = None
    most_of_job: int | None = None
    most_of_key: int | None = None
    #: Its queue, job or key goes on slowly after a pause.
    slowly: bool = False
    #: A run of its ordered key that has begun and will be tried again.
    begun: Any = None
    #: The run that has to succeed before it.
    before: Any = None
    ahead: int = 0
    #: Attempts that ended within the last `PACE` seconds.
    ended: int = 0


def look(connection: Connection, run: dict[str, Any], now: datetime) -> Facts:
    """Read what decides over a run.

    Args:
        connection: The database.
        run: The columns of its row.
        now: The database's clock.
    """
    job = jobs.names().get(run["job"])
    values = {name: run[name] for name in ("id", "queue", "job", "priority", "due_at")} | {"key": run["key"] or ""}
    alive = connection.execute(ALIVE, values | {"stale": STALE_AFTER}).one()
    limit = connection.execute(LIMIT, values).one_or_none()
    ramps = {(row.job, row.key): ramp(row.since, row.ramp_seconds) for row in connection.execute(RAMPS, values)}
    slow = ramp(limit.since, limit.ramp_seconds) if limit and limit.since is not None and limit.ramp_seconds else None
    return Facts(
        now=now,
        held=connection.execute(HELD, values).one_or_none(),
        shut=_upstream(connection, job, SHUT),
        throttled=_upstream(connection, job, THROTTLED),
        workers=alive.workers,
        threads=alive.threads,
        knowing=alive.knowing,
        relays=alive.relays,
        of_queue=connection.execute(OF_QUEUE, values).one(),
        of_job=connection.execute(OF_JOB, values).one(),
        of_key=connection.execute(OF_KEY, values).one(),
        most_of_queue=_least(limit.concurrency if limit else None, slow),
        most_of_job=_least(job.limit if job else None, ramps.get((run["job"], ""))),
        most_of_key=_least(
            1 if job and job.ordered else job.per_key if job else None,
            ramps.get((run["job"], values["key"])) if run["key"] else None,
            ramps.get(("", values["key"])) if run["key"] else None,
        ),
        slowly=bool(ramps) or slow is not None,
        begun=connection.execute(BEGUN, values).one_or_none() if job and job.ordered else None,
        before=connection.execute(BEFORE, {"id": run["after_id"]}).one_or_none() if run["after_id"] else None,
        ahead=int(connection.execute(AHEAD, values).scalar_one()),
        ended=int(connection.execute(STARTED, values).scalar_one()),
    )


def blocker(run: dict[str, Any], facts: Facts) -> Blocker:
    """Name what is in the way of a run that waits or is queued."""
    return (
        _held(facts)
        or _after(run, facts)
        or _left_alone(run, facts)
        or _throttled(run, facts)
        or _not_due(run, facts)
        or _nobody(run, facts)
        or _behind(run, facts)
        or _full(run, facts)
        or _in_line(run, facts)
    )


def _held(facts: Facts) -> Blocker | None:
    held = facts.held
    if held is None:
        return None
    why = f" ({held.reason})" if held.reason else ""
    noun = held.what.partition(" ")[0]
    return Blocker(
        "held",
        f"waits because {held.paused_by} paused {held.what}{why}: `headrace {noun}s resume`",
        held.paused_at,
        held.paused_until,
    )


def _after(run: dict[str, Any], facts: Facts) -> Blocker | None:
    if run["state"] != State.WAITING or run["due_at"] != NEVER or facts.before is None:
        return None
    said = f"waits for run {run['after_id']}, which is {facts.before.state}"
    if facts.before.state == State.DEAD:
        said += ": retry or discard it"
    elif facts.before.state == State.CANCELLED:
        said += ": retry it, or cancel this one"
    return Blocker("after", said)


def _upstream(connection: Connection, job: jobs.Job[Any] | None, statement: TextClause) -> Any:
    names = [kind.name for kind in job.needs] if job else []
    return connection.execute(statement, {"names": names}).one_or_none() if names else None


def _left_alone(run: dict[str, Any], facts: Facts) -> Blocker | None:
    shut = facts.shut
    if run["state"] != State.WAITING or shut is None or run["due_at"] > shut.next_probe_at + SPREAD:
        return None
    said = circuits.sentence(shut.name, shut.circuit_opened_at, shut.next_probe_at, shut.circuit_error)
    return Blocker("circuit", f"waits because {said}", shut.circuit_opened_at, shut.next_probe_at)


def _throttled(run: dict[str, Any], facts: Facts) -> Blocker | None:
    found = facts.throttled
    # Who met it on the way comes back a little later; who was put back for longer has another turn, and says so.
    if run["state"] != State.WAITING or found is None or run["due_at"] > found.throttled_until + SPREAD:
        return None
    said = throttles.sentence(found, facts.now)
    return Blocker("budget", f"waits because {said}", found.throttled_at, found.throttled_until)


def _not_due(run: dict[str, Any], facts: Facts) -> Blocker | None:
    if run["state"] != State.WAITING or run["due_at"] <= facts.now:
        return None
    if run["failures"]:
        said = f"tries again after failure {run['failures']} of {run['max_attempts']}: {run['error']}"
    else:
        said = "waits until its time comes" + (f": {run['error']}" if run["error"] else "")
    return Blocker("due", said, until=run["due_at"])


def _nobody(run: dict[str, Any], facts: Facts) -> Blocker | None:
    if not facts.workers:
        return Blocker("nobody", f"waits because no live worker serves queue {run['queue']}: start one", run["due_at"])
    if not facts.knowing:
        said = "finds no such job in the code of any live worker: it waits for a worker that knows it"
        return Blocker("nobody", said, run["due_at"])
    if not facts.relays and run["state"] == State.WAITING:
        return Blocker("nobody", "is due, and waits because no relay lives to push it: start one", run["due_at"])
    return None


def _behind(run: dict[str, Any], facts: Facts) -> Blocker | None:
    begun = facts.begun
    if run["state"] != State.WAITING or begun is None:
        return None
    said = f"waits behind run {begun.id}, which has begun: runs of key {run['key']!r} go in order"
    return Blocker("order", said, until=begun.due_at if begun.due_at > facts.now else None)


def _full(run: dict[str, Any], facts: Facts) -> Blocker | None:
    if run["state"] != State.WAITING:
        return None
    for what, most, under_way in (
        (f"key {run['key']!r}", facts.most_of_key, facts.of_key),
        (f"job {run['job']}", facts.most_of_job, facts.of_job),
        (f"queue {run['queue']}", facts.most_of_queue, facts.of_queue),
    ):
        if most is not None and under_way.many >= most:
            holder = f"run {under_way.first} holds it" if most == 1 else f"run {under_way.first} is the first of them"
            slowly = ", for it goes on slowly after a pause" if facts.slowly else ""
            said = f"waits for room: {under_way.many} of {most} runs of {what} are under way, {holder}{slowly}"
            return Blocker("limit", said, under_way.since)
    return None


def _in_line(run: dict[str, Any], facts: Facts) -> Blocker:
    where = f"on the broker for one of {facts.workers} workers" if run["state"] == State.QUEUED else "for its turn"
    many = f"over {MOST_AHEAD:,}" if facts.ahead >= MOST_AHEAD else f"{facts.ahead:,}" if facts.ahead else "no"
    pace = f", which ends {facts.ended / PACE:.3g} a second" if facts.ended else ""
    said = f"is due and waits {where}, with {many} runs of queue {run['queue']} before it{pace}"
    return Blocker("line", said, run["due_at"], _about(facts))


def _about(facts: Facts) -> datetime | None:
    """Estimate the start from the pace of the last minute."""
    if not facts.ended:
        return None
    return facts.now + timedelta(seconds=facts.ahead * PACE / facts.ended)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)

"""Who of the runs that share limits goes next: the one place where limits, order and fairness are decided.

A run with a key, and every run of a limited queue, reaches the broker only through here. One relay at a time decides,
under a lock that ends with its transaction; it reads what is under way, judges, and marks the chosen as queued. What is
queued or running counts, and the claim takes nothing of these that is not queued, so a limit holds on all workers
together. The count is made from the rows themselves: a worker that dies takes no place with it, for the rescue moves
its runs, and nothing has to be given back.

`choose` is the judgement, a pure function. Among runs of one priority, keys take turns: the key with the fewest runs
under way goes first. Runs of an ordered job go one at a time; one that has begun and will be tried again holds back
those behind it, one that is dead does not.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

import jobs
from workers import ledger
from workers.gates import Gates
from workers.ledger import Due, in_order

Lane = tuple[str, str]

#: Due runs looked at in one pass, of one queue and priority, oldest first.
LOOK = 1_000
#: If that was not all, keys looked at beside them, and runs of each.
KEYS = 200
OF_A_KEY = 4
#: Number of the advisory lock that the deciding relay holds; any constant works, it only has to be ours.
LOCK = 8_316_402_118

TRY = text("SELECT pg_try_advisory_xact_lock(:lock)")
_HELD = """job <> ALL(CAST(:held_jobs AS text[])) AND key <> ALL(CAST(:held_keys AS text[]))
    AND (job, key) NOT IN (SELECT * FROM unnest(CAST(:held_of AS text[]), CAST(:held_by AS text[])))"""
OLDEST = text(f"""
    SELECT due.id, due.job, due.queue, due.key, due.priority, due.due_at
    FROM unnest(CAST(:queues AS text[])) AS open (name) CROSS JOIN generate_series(0, 3) AS level CROSS JOIN LATERAL (
        SELECT * FROM runs
        WHERE state = 'waiting' AND key IS NOT NULL AND queue = open.name AND priority = level AND due_at <= now()
            AND {_HELD}
        ORDER BY due_at, id LIMIT :look
    ) AS due
""")
# From one key to the next along the index, past all runs of each, beginning behind the key where the last look ended.
TURNS = text(f"""
    WITH RECURSIVE lanes AS (
        (SELECT job, key, 1 AS place FROM runs
         WHERE state = 'waiting' AND key IS NOT NULL AND queue = :queue AND (job, key) > (:job, :key)
         ORDER BY job, key LIMIT 1)
        UNION ALL
        SELECT after.job, after.key, lanes.place + 1 FROM lanes CROSS JOIN LATERAL (
            SELECT job, key FROM runs
            WHERE state = 'waiting' AND key IS NOT NULL AND queue = :queue AND (job, key) > (lanes.job, lanes.key)
            ORDER BY job, key LIMIT 1
        ) AS after WHERE lanes.place < :keys
    )
    SELECT due.id, lanes.job, :queue AS queue, lanes.key, due.priority, due.due_at, lanes.place
    FROM lanes LEFT JOIN LATERAL (
        SELECT * FROM runs
        WHERE state = 'waiting' AND key IS NOT NULL AND queue = :queue AND job = lanes.job AND key = lanes.key
            AND due_at <= now() AND {_HELD}
        ORDER BY priority, due_at, id LIMIT :of_a_key
    ) AS due ON true
    ORDER BY lanes.place
""")
# One statement, one moment: a run that fails while we look is seen either under way or as one that has begun.
UNDER_WAY = text("""
    SELECT job, key, count(*) AS many, NULL::bigint AS first FROM runs
    WHERE key IS NOT NULL AND state IN ('queued', 'running') GROUP BY job, key
    UNION ALL
    SELECT r.job, r.key, 0, min(r.id) FROM unnest(CAST(:jobs AS text[]), CAST(:keys AS text[])) AS asked (job, key)
    JOIN runs r USING (job, key) WHERE r.key IS NOT NULL AND r.attempt > 0 AND r.state = 'waiting'
    GROUP BY r.job, r.key
""")
IN_QUEUES = text("""
    SELECT queue, count(*) FROM (
        SELECT queue FROM runs WHERE state = 'queued' UNION ALL SELECT queue FROM runs WHERE state = 'running'
    ) AS under_way WHERE queue = ANY(:queues) GROUP BY queue
""")
KEYLESS = text("""
    SELECT job, count(*) FROM (
        SELECT job FROM runs WHERE state = 'queued' AND key IS NULL
        UNION ALL SELECT job FROM runs WHERE state = 'running' AND key IS NULL
    ) AS under_way WHERE job = ANY(:jobs) GROUP BY job
""")
TAKE = text("""
    WITH chosen AS (
        SELECT id FROM runs WHERE id = ANY(:ids) AND state = 'waiting' AND due_at <= now()
        ORDER BY id FOR UPDATE SKIP LOCKED
    )
    UPDATE runs r SET state = 'queued', queued_at = now(), pushes = r.pushes + 1
    FROM chosen c WHERE r.id = c.id
    RETURNING r.id, r.job, r.queue, r.pushes, r.priority, r.due_at
""")


class Candidate(NamedTuple):
    """A due run that shares limits."""

    run_id: int
    job: str
    queue: str
    key: str
    priority: int
    due_at: datetime

    @property
    def lane(self) -> Lane:
        """What it shares limits and order with."""
        return self.job, self.key


@dataclass(frozen=True)
class Limits:
    """How many runs may be under way; what is not named has no limit."""

    jobs: Mapping[str, int] = field(default_factory=dict)
    #: Of each key of the job.
    per_key: Mapping[str, int] = field(default_factory=dict)
    ordered: frozenset[str] = frozenset()
    #: Of one job and key; an empty name stands for all.
    lanes: Mapping[Lane, int] = field(default_factory=dict)


@dataclass
class Count:
    """What is under way, counted on while runs are chosen."""

    lanes: Counter[Lane] = field(default_factory=Counter)
    #: The first run of a lane that has begun and waits to be tried again.
    begun: dict[Lane, int] = field(default_factory=dict)
    jobs: Counter[str] = field(init=False)
    keys: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        self.jobs, self.keys = Counter(), Counter()
        for (job, key), many in self.lanes.items():
            self.jobs[job] += many
            self.keys[key] += many

    def add(self, lane: Lane) -> None:
        """Count one more."""
        job, key = lane
        self.lanes[lane] += 1
        self.jobs[job] += 1
        self.keys[key] += 1


def choose(candidates: Iterable[Candidate], count: Count, limits: Limits, rooms: Mapping[str, int]) -> list[Candidate]:
    """Return the runs that go next.

    Args:
        candidates: Due runs, each once.
        count: What is under way; the chosen are added to it.
        limits: How much may be.
        rooms: How many runs each queue has room for.
    """
    left = Counter(rooms)
    chosen = []
    for candidate in _in_turn(candidates, count):
        if left[candidate.queue] > 0 and _may_go(candidate, count, limits):
            left[candidate.queue] -= 1
            count.add(candidate.lane)
            chosen.append(candidate)
    return chosen


def _in_turn(candidates: Iterable[Candidate], count: Count) -> list[Candidate]:
    """Put runs in the order in which they would go if all could: by priority, and then each key in its turn."""
    before: Counter[tuple[int, Lane]] = Counter()
    ranked = []
    for candidate in sorted(candidates, key=lambda c: (c.priority, c.due_at, c.run_id)):
        ahead = before[candidate.priority, candidate.lane] + count.lanes[candidate.lane]
        before[candidate.priority, candidate.lane] += 1
        ranked.append((candidate.priority, ahead, candidate.due_at, candidate.run_id, candidate))
    return [entry[-1] for entry in sorted(ranked)]


def _may_go(candidate: Candidate, count: Count, limits: Limits) -> bool:
    job, key = lane = candidate.lane
    if job in limits.ordered and (count.lanes[lane] or count.begun.get(lane, candidate.run_id) != candidate.run_id):
        return False
    return (
        _room(limits.jobs.get(job), count.jobs[job])
        and _room(limits.per_key.get(job), count.lanes[lane])
        and _room(limits.lanes.get(lane), count.lanes[lane])
        and _room(limits.lanes.get((job, "")), count.jobs[job])
        and _room(limits.lanes.get(("", key)), count.keys[key])
    )


def _room(most: int | None, many: int) -> bool:
    return most is None or many < most


class Admission:
    """Takes the runs that go next; remembers only whose turn it is."""

    def __init__(self) -> None:
        #: Per queue the key at which the last look along the keys ended.
        self._turns: dict[str, Lane] = {}
        self._passes = 0

    def take(self, connection: Connection, gates: Gates, rooms: Mapping[str, int]) -> list[Due]:
        """Mark those runs as queued that share limits and may go; push them before the commit.

        Args:
            connection: The caller's transaction; another relay that is deciding now makes this one take nothing.
            gates: What is open.
            rooms: How many runs may be pushed, by queue.
        """
        if not connection.execute(TRY, {"lock": LOCK}).scalar():
            return []
        left = Counter(_within_limits(connection, gates, rooms))
        self._passes += 1
        takers = [self._keyed, _keyless]
        due: list[Due] = []
        for taker in takers if self._passes % 2 else reversed(takers):  # neither may leave nothing for the other
            taken = taker(connection, gates, +left)
            left.subtract(run.queue for run in taken)
            due += taken
        return in_order(due)

    def _keyed(self, connection: Connection, gates: Gates, rooms: Mapping[str, int]) -> list[Due]:
        if not gates.keyed or not rooms:
            return []
        # A renamed job shares its limits with the runs that are kept under its former names.
        now = jobs.renamed()
        found = self._candidates(connection, gates, list(rooms))
        candidates = [candidate._replace(job=now.get(candidate.job, candidate.job)) for candidate in found]
        limits = limits_of(gates)
        count = _count(connection, {c.lane for c in candidates if c.job in limits.ordered})
        chosen = choose(candidates, count, limits, rooms)
        return _mark(connection, [candidate.run_id for candidate in chosen])

    def _candidates(self, connection: Connection, gates: Gates, queues: Sequence[str]) -> list[Candidate]:
        held = _held(gates)
        rows = connection.execute(OLDEST, held | {"queues": list(queues), "look": LOOK})
        found = {row.id: Candidate(*row) for row in rows}
        seen = Counter((candidate.queue, candidate.priority) for candidate in found.values())
        for queue in {queue for (queue, _), many in seen.items() if many >= LOOK}:
            found |= {candidate.run_id: candidate for candidate in self._in_turn(connection, queue, held)}
        return list(found.values())

    def _in_turn(self, connection: Connection, queue: str, held: Mapping[str, Any]) -> list[Candidate]:
        """Look along the keys, from where the last look ended: a backlog of one key must not hide the others."""
        job, key = self._turns.get(queue, ("", ""))
        values = {"queue": queue, "job": job, "key": key, "keys": KEYS, "of_a_key": OF_A_KEY, **held}
        rows = connection.execute(TURNS, values).all()
        again = not rows or rows[-1].place < KEYS
        self._turns[queue] = ("", "") if again else (rows[-1].job, rows[-1].key)
        return [Candidate(*row[:-1]) for row in rows if row.id is not None]


def limits_of(gates: Gates) -> Limits:
    """Return the limits that jobs declare and ramps impose."""
    known = jobs.all_jobs().values()
    return Limits(
        jobs={job.name: job.limit for job in known if job.limit is not None},
        per_key={job.name: job.per_key for job in known if job.per_key is not None},
        ordered=frozenset(job.name for job in known if job.ordered),
        lanes=gates.ramps,
    )


def _within_limits(connection: Connection, gates: Gates, rooms: Mapping[str, int]) -> dict[str, int]:
    """Return the rooms, cut to what the limits of queues leave."""
    many = dict(map(tuple, connection.execute(IN_QUEUES, {"queues": gates.limited}))) if gates.limited else {}
    left = {queue: most - many.get(queue, 0) for queue, most in gates.queues.items() if most is not None}
    return {queue: max(0, min(room, left.get(queue, room))) for queue, room in rooms.items()}


def _keyless(connection: Connection, gates: Gates, rooms: Mapping[str, int]) -> list[Due]:
    """Take runs without a key that are limited all the same: their queue has a limit, or their job goes on slowly."""
    slow = {job: most for (job, key), most in gates.ramps.items() if job and not key}
    limited = {queue: room for queue, room in rooms.items() if queue in gates.limited}
    due = ledger.take_due(connection, limited, [*gates.jobs, *slow]) if limited else []
    if slow:
        many = dict(map(tuple, connection.execute(KEYLESS, {"jobs": list(slow)})))
        for job in slow.keys() - set(gates.jobs):
            room = slow[job] - many.get(job, 0)
            due += ledger.take_due(connection, {q: min(room, left) for q, left in rooms.items()}, only=job)[:room]
    return due


def _count(connection: Connection, ordered: Iterable[Lane]) -> Count:
    now = jobs.renamed()
    lanes = sorted(ordered)
    lanes += [(former, key) for former, name in now.items() for job, key in lanes if job == name]
    values = {"jobs": [job for job, _ in lanes], "keys": [key for _, key in lanes]}
    count: Counter[Lane] = Counter()
    begun: dict[Lane, int] = {}
    for row in connection.execute(UNDER_WAY, values):
        lane = now.get(row.job, row.job), row.key
        if row.first is None:
            count[lane] += row.many
        else:
            begun[lane] = min(row.first, begun.get(lane, row.first))
    return Count(count, begun)


def _held(gates: Gates) -> dict[str, Any]:
    return {
        "held_jobs": list(gates.jobs),
        "held_keys": list(gates.keys),
        "held_of": [job for job, _ in gates.lanes],
        "held_by": [key for _, key in gates.lanes],
    }


def _mark(connection: Connection, run_ids: Sequence[int]) -> list[Due]:
    return [Due(*row) for row in connection.execute(TAKE, {"ids": list(run_ids)})] if run_ids else []

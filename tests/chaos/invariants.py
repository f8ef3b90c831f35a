"""What must hold when everything has settled, each as one statement that returns what contradicts it.

An attempt is counted against limits from its claim to its end as the ledger has them. One that ended as `lost` is left
out, and nothing else is: its worker was killed, or frozen for so long that it was taken for dead. A frozen worker goes
on with what it holds when it is thawed, beside the run's next attempt; no ledger can reach into it, and that is why its
end is refused and why effects have a key.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, text

#: Limits of the job `shared`, and seconds between two slots of `tick`.
EACH_TENANT, TENANTS_TOGETHER = 2, 6
SLOT_SECONDS = 2
#: Marks of runs whose transaction was rolled back on purpose begin so.
UNDONE = "undone "
#: Contradictions that are shown of each kind.
SHOWN = 5


@dataclass(frozen=True)
class Violation:
    """Something that contradicts an invariant."""

    invariant: str
    what: str


_FINAL = "('succeeded', 'dead', 'cancelled')"
_OURS = "r.queue = 'chaos'"

INVARIANTS = {
    "every committed run is there": """
        SELECT 'run ' || o.run_id || ', ' || o.mark FROM asked o
        WHERE NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = o.run_id)
    """,
    "every run is in a final state": f"SELECT 'run ' || id || ' is ' || state FROM runs WHERE state NOT IN {_FINAL}",
    "every run that succeeded left its effect": f"""
        SELECT 'run ' || r.id || ', ' || coalesce(r.args->>'mark', r.job) FROM runs r
        WHERE {_OURS} AND r.state = 'succeeded' AND NOT EXISTS (
            SELECT 1 FROM effects e WHERE e.run_id = r.id
                AND e.mark IN (r.args->>'mark', 'slot ' || (r.slot_at AT TIME ZONE 'UTC') || '+00:00'))
    """,
    "every effect belongs to a committed run": """
        SELECT e.mark FROM effects e WHERE NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = e.run_id)
    """,
    "nothing of a transaction that was rolled back ran": f"""
        SELECT mark FROM tries WHERE starts_with(mark, '{UNDONE}')
        UNION ALL SELECT 'run ' || id FROM runs WHERE starts_with(args->>'mark', '{UNDONE}')
    """,
    "no run succeeded twice": """
        SELECT 'run ' || run_id FROM attempts WHERE outcome = 'succeeded' GROUP BY run_id HAVING count(*) > 1
    """,
    "no attempt was executed twice": """
        SELECT 'run ' || run_id || ', attempt ' || attempt FROM tries GROUP BY run_id, attempt HAVING count(*) > 1
    """,
    "every attempt is recorded": """
        SELECT 'run ' || r.id || ': ' || count(a.id) || ' of ' || r.attempt
        FROM runs r LEFT JOIN attempts a ON a.run_id = r.id GROUP BY r.id HAVING count(a.id) <> r.attempt
    """,
    "a run is what its last attempt came to": f"""
        SELECT 'run ' || r.id || ' is ' || r.state || ' after ' || a.outcome
        FROM runs r JOIN attempts a ON a.run_id = r.id AND a.number = r.attempt
        WHERE {_OURS} AND (r.state = 'succeeded') <> (a.outcome = 'succeeded')
    """,
    "every dead run says why": f"""
        SELECT 'run ' || r.id || ': ' || coalesce(r.error, 'nothing') FROM runs r
        WHERE {_OURS} AND r.state = 'dead' AND r.failures < r.max_attempts AND coalesce(r.error, '') NOT LIKE 'poison%'
    """,
    "no run began before it was due": """
        SELECT 'run ' || o.run_id FROM asked o JOIN attempts a ON a.run_id = o.run_id
        WHERE a.started_at < o.not_before
    """,
    "no limit was exceeded": f"""
        WITH ended AS (
            SELECT r.job, r.args, r.key, a.started_at, a.finished_at FROM attempts a JOIN runs r ON r.id = a.run_id
            WHERE {_OURS} AND a.outcome <> 'lost'
        ), spans AS (
            SELECT job AS lane, {TENANTS_TOGETHER} AS most, started_at, finished_at FROM ended WHERE job = 'work.shared'
            UNION ALL SELECT key, {EACH_TENANT}, started_at, finished_at FROM ended WHERE job = 'work.shared'
            UNION ALL SELECT key, 1, started_at, finished_at FROM ended WHERE job = 'work.serial'
            UNION ALL SELECT args->>'subject', 1, started_at, finished_at FROM ended WHERE job = 'work.single'
        ), changes AS (
            SELECT lane, most, started_at AS at, 1 AS change FROM spans
            UNION ALL SELECT lane, most, finished_at, -1 FROM spans
        ), counted AS (
            SELECT lane, most, at, sum(change) OVER (PARTITION BY lane ORDER BY at, change ROWS UNBOUNDED PRECEDING)
                AS many FROM changes
        )
        SELECT lane || ': ' || many || ' at ' || at FROM counted WHERE many > most ORDER BY at
    """,
    "ordered runs succeeded in their order": """
        SELECT 'run ' || id || ' of ' || key FROM (
            SELECT r.id, r.key, (r.args->>'number')::int AS number,
                lag((r.args->>'number')::int) OVER (PARTITION BY r.key ORDER BY a.finished_at, a.id) AS before
            FROM runs r JOIN attempts a ON a.run_id = r.id
            WHERE r.job = 'work.serial' AND a.outcome = 'succeeded'
        ) AS turns WHERE before > number
    """,
    "every slot is there, with one outcome": f"""
        SELECT fire_at::text FROM (
            SELECT fire_at, fire_at - lag(fire_at) OVER (ORDER BY fire_at) AS gap, outcome,
                (SELECT count(*) FROM runs r WHERE r.schedule = s.schedule AND r.slot_at = s.fire_at) AS caused,
                (SELECT count(*) FROM runs r WHERE r.id = s.run_id) AS linked
            FROM slots s WHERE schedule = 'work.tick'
        ) AS slot
        WHERE gap <> interval '{SLOT_SECONDS} seconds' OR caused <> (outcome = 'ran')::int OR linked <> 1
    """,
    "no unique key is left behind": "SELECT 'run ' || id || ', ' || unique_key FROM runs WHERE unique_key IS NOT NULL",
}


def violations(connection: Connection) -> list[Violation]:
    """Return what contradicts the invariants, the first few of each."""
    found = []
    for name, statement in INVARIANTS.items():
        rows = connection.execute(text(f"{statement} LIMIT {SHOWN}")).scalars()
        found += [Violation(name, str(row)) for row in rows]
    return found

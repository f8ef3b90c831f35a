"""Bringing the schedules' rows in line with the code, at each start of a scheduler and once a minute.

What the code declares is added or changed, and what no living scheduler has in its code is retired. During a deploy
schedulers of two releases live side by side: the youngest process decides, so that nothing changes back and forth.
Each of these has its line in the audit.
A rule that an operator gave stays; if the code has changed meanwhile, the row shows both until somebody chooses.
In the ordinary case nothing differs, and one statement reads the rows.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, text

from jobs import BadRule, Job, Rule, read_rule
from workers.process import STALE_AFTER

#: Seconds after the last sign of life of a scheduler that did not say goodbye, until what only its code has is retired.
RETIRE_AFTER = 300

KEPT = text("""
    SELECT name, declared_rule AS rule, declared_zone AS zone, missed, overlap, jitter FROM schedules
    WHERE name = ANY(:names) AND retired_at IS NULL
""")
YOUNGEST = text("""
    SELECT NOT EXISTS (
        SELECT 1 FROM processes p
        WHERE p.kind = 'scheduler' AND p.stopped_at IS NULL AND p.heartbeat_at > now() - :stale * interval '1 second'
            AND p.started_at > (SELECT started_at FROM processes WHERE id = :me))
""")
DECLARE = text("""
    WITH declared AS (
        INSERT INTO schedules AS s
            (name, rule, zone, declared_rule, declared_zone, missed, overlap, jitter, next_fire_at)
        SELECT name, rule, zone, rule, zone, missed, overlap, jitter, next_fire_at
        FROM jsonb_to_recordset(CAST(:declared AS jsonb)) AS d(name text, rule text, zone text, missed text,
            overlap text, jitter float8, next_fire_at timestamptz)
        ORDER BY name
        ON CONFLICT (name) DO UPDATE
        SET declared_rule = excluded.rule, declared_zone = excluded.zone, missed = excluded.missed,
            overlap = excluded.overlap, jitter = excluded.jitter, retired_at = NULL,
            rule = CASE WHEN s.replaced_rule IS NULL THEN excluded.rule ELSE s.rule END,
            zone = CASE WHEN s.replaced_rule IS NULL THEN excluded.zone ELSE s.zone END,
            next_fire_at = CASE
                WHEN s.retired_at IS NULL AND (s.replaced_rule IS NOT NULL
                    OR s.rule = excluded.rule AND s.zone = excluded.zone) THEN s.next_fire_at
                ELSE excluded.next_fire_at END
        RETURNING new.name, old.name IS NULL AS added, old.retired_at IS NOT NULL AS returned,
            old.declared_rule || ' (' || old.declared_zone || ')' AS before,
            new.declared_rule || ' (' || new.declared_zone || ')' AS after
    )
    INSERT INTO audit (actor, action, target, count, details)
    SELECT 'the code', 'schedules ' || CASE WHEN added THEN 'add' WHEN returned THEN 'return' ELSE 'change' END,
        name, 1, jsonb_strip_nulls(jsonb_build_object('before', before, 'after', after))
    FROM declared ORDER BY name
""")
# It fires by these, also when it comes back.
REPLACED = text("SELECT name, rule, zone FROM schedules WHERE name = ANY(:names) AND replaced_rule IS NOT NULL")
# Who said goodbye left with its last sign of life; who was found dead showed the last one before.
RETIRE = text("""
    WITH retired AS (
        UPDATE schedules SET retired_at = now()
        WHERE retired_at IS NULL AND declared_rule IS NOT NULL AND name <> ALL(:names) AND NOT EXISTS (
            SELECT 1 FROM processes p
            WHERE p.kind = 'scheduler' AND (p.stopped_at IS NULL OR p.stopped_at > p.heartbeat_at)
                AND schedules.name = ANY(p.jobs) AND p.heartbeat_at > now() - :stale * interval '1 second')
        RETURNING name
    )
    INSERT INTO audit (actor, action, target, count) SELECT 'the code', 'schedules retire', name, 1 FROM retired
""")
# A renamed job keeps its schedule: whether it is paused, its rule, its next fire, its history, and the run under way.
_CARRIED = """rule, zone, declared_rule, declared_zone, replaced_rule, replaced_zone, changed_by, missed, overlap,
    jitter, next_fire_at, paused_at, paused_by, reason, paused_until, retired_at"""
RENAME = (
    text(f"""
        INSERT INTO schedules (name, {_CARRIED}) SELECT :name, {_CARRIED} FROM schedules
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
CONFLICTS = text("""
    SELECT name FROM schedules
    WHERE replaced_rule IS NOT NULL AND (replaced_rule, replaced_zone) <> (declared_rule, declared_zone)
        AND retired_at IS NULL
    ORDER BY name
""")


def declare(connection: Connection, declared: Iterable[Job[Any]], me: int = 0) -> list[str]:
    """Bring the rows in line with the code; return the schedules that both an operator and the code have changed.

    Args:
        connection: The caller's transaction.
        declared: All jobs.
        me: Id of this process among the schedulers.
    """
    scheduled = {job.name: job for job in declared if job.schedule is not None}
    if connection.execute(YOUNGEST, {"me": me, "stale": STALE_AFTER}).scalar():
        for job in scheduled.values():
            if job.formerly:
                _rename(connection, job)
        _write(connection, {name: job.schedule for name, job in scheduled.items() if job.schedule is not None})
    connection.execute(RETIRE, {"names": list(scheduled), "stale": RETIRE_AFTER})
    return list(connection.execute(CONFLICTS).scalars())


def _write(connection: Connection, rules: dict[str, Rule]) -> None:
    """Add what is not there and change what is otherwise."""
    kept = {row["name"]: dict(row) for row in connection.execute(KEPT, {"names": list(rules)}).mappings()}
    differing = [facts for name in sorted(rules) if kept.get(name) != (facts := _facts(name, rules[name]))]
    if not differing:
        return
    now = connection.execute(text("SELECT now()")).scalar_one()
    rules = rules | _replaced(connection, [facts["name"] for facts in differing])
    for facts in differing:
        first = rules[facts["name"]].next_after(now)
        facts["next_fire_at"] = first and first.isoformat()
    connection.execute(DECLARE, {"declared": json.dumps(differing)})


def _replaced(connection: Connection, names: list[str]) -> dict[str, Rule]:
    found = {}
    for row in connection.execute(REPLACED, {"names": names}):
        with suppress(BadRule):  # what cannot be read is told where it should fire
            found[row.name] = read_rule(row.rule, row.zone)
    return found


def _facts(name: str, rule: Rule) -> dict[str, Any]:
    policy = rule.policy
    own = {"missed": policy.missed.text, "overlap": str(policy.overlap), "jitter": float(policy.jitter)}
    return {"name": name, "rule": rule.text, "zone": rule.zone} | own


def _rename(connection: Connection, job: Job[Any]) -> None:
    values = {"name": job.name, "former": list(job.formerly)}
    if connection.execute(FORMER, values).all():
        for statement in RENAME:
            connection.execute(statement, values)

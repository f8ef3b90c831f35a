"""Whom a run belongs with: the run before it and those behind, its batch, the run that enqueued it, its children."""

from typing import Any

from sqlalchemy import Connection, text

#: Runs of each kind that are named.
MOST = 10

BATCH = text("""
    SELECT id, name, total, succeeded, dead, cancelled FROM batches WHERE id = :batch_id
""")
CALLED = text("SELECT id, name FROM batches WHERE :id IN (finish_run_id, success_run_id)")
_NEAR = "SELECT id, job, state, after_id, parent_id FROM runs"
NEAR = text(f"""
    (SELECT 'after' AS kind, * FROM ({_NEAR} WHERE id = :after_id) AS before)
    UNION ALL (SELECT 'parent', * FROM ({_NEAR} WHERE id = :parent_id) AS parent)
    UNION ALL (SELECT 'behind', * FROM ({_NEAR} WHERE after_id = :id ORDER BY id LIMIT :most) AS behind)
    UNION ALL (SELECT 'children', * FROM ({_NEAR} WHERE parent_id = :id ORDER BY id LIMIT :most) AS children)
""")
COUNTED = text("""
    SELECT (SELECT count(*) FROM runs WHERE after_id = :id) AS behind,
           (SELECT count(*) FROM runs WHERE parent_id = :id) AS children
""")
WORDS = {"after": "after", "behind": "before", "parent": "enqueued by", "children": "enqueued"}


def read(connection: Connection, run: dict[str, Any]) -> dict[str, Any]:
    """Return the relations of a run: `batch`, `callback_of`, and lists of runs with how many there are of each."""
    values = {name: run[name] for name in ("id", "batch_id", "after_id", "parent_id")} | {"most": MOST}
    batch = connection.execute(BATCH, values).mappings().one_or_none()
    called = connection.execute(CALLED, values).mappings().first()
    near = connection.execute(NEAR, values).mappings().all()
    counted = connection.execute(COUNTED, values).one()
    named: dict[str, list[dict[str, Any]]] = {kind: [] for kind in WORDS}
    for row in near:
        named[row["kind"]].append({name: row[name] for name in ("id", "job", "state")})
    counts = {"behind_total": counted.behind, "children_total": counted.children}
    return {"batch": dict(batch) if batch else None, "callback_of": dict(called) if called else None} | named | counts


def facts(relations: dict[str, Any]) -> dict[str, str | None]:
    """Return the relations in words, by what they are."""
    told = {WORDS[kind]: _runs(relations[kind], relations.get(f"{kind}_total", 0)) for kind in WORDS}
    called = relations["callback_of"]
    batch = {"batch": f"{relations['batch']['name']}: {standing(relations['batch'])}" if relations["batch"] else None}
    return batch | {"callback": f"of batch {called['id']}, {called['name']}" if called else None} | told


def standing(batch: dict[str, Any]) -> str:
    """Say how far a batch is: `120 of 500 done, 3 failed`."""
    failed = batch["dead"] + batch["cancelled"]
    said = f"{batch['succeeded'] + failed:,} of {batch['total'] or 0:,} done, {failed:,} failed"
    return f"{said} (`headrace batches show {batch['id']}`)"


def _runs(runs: list[dict[str, Any]], total: int) -> str:
    more = f" and {total - len(runs):,} more" if total > len(runs) else ""
    return ", ".join(f"run {run['id']} {run['job']} ({run['state']})" for run in runs) + more

"""The audit: who did what, to what, and why."""

from typing import Annotated

import typer
from sqlalchemy import select, true

from models import AuditEntry
from workers.cli.opening import reading
from workers.cli.options import AsJson, Before, Limit, Since
from workers.cli.tables import show
from workers.moments import exactly

LISTED = (
    AuditEntry.id,
    AuditEntry.at,
    AuditEntry.actor,
    AuditEntry.role,
    AuditEntry.action,
    AuditEntry.target,
    AuditEntry.count,
    AuditEntry.details,
)
COLUMNS = {
    "id": lambda row: str(row["id"]),
    "at": lambda row: exactly(row["at"]),
    "actor": lambda row: row["actor"],
    "role": lambda row: row["role"],
    "action": lambda row: row["action"],
    "target": lambda row: row["target"],
    "rows": lambda row: row["count"],
    "reason": lambda row: (row["details"] or {}).get("reason"),
}


def audit(
    actor: Annotated[str | None, typer.Option("--actor", metavar="NAME", help="Only what this person did.")] = None,
    since: Since = None,
    *,
    before: Before = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List what operators did, newest first."""
    entry = AuditEntry
    chosen = select(*LISTED).where(
        entry.actor == actor if actor else true(),
        entry.at >= since if since else true(),
        entry.id < before if before else true(),
    )
    with reading() as connection:
        rows = connection.execute(chosen.order_by(entry.id.desc()).limit(limit)).mappings().all()
    show([dict(row) for row in rows], COLUMNS, as_json=as_json, empty="nobody did anything by hand yet")

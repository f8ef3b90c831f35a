"""Upstreams: which accounts at third parties are configured, and holding back the work that needs one."""

from typing import Annotated, Any

import typer
from sqlalchemy import select

import integrations
from models import Upstream
from workers.actions import HOLDS
from workers.cli import holding
from workers.cli.opening import runtime
from workers.cli.options import AsJson, By, DryRun, Reason
from workers.cli.tables import show

app = typer.Typer(name="upstreams", help="List, pause, resume and reset upstreams.")

Name = Annotated[str, typer.Argument(help="The upstream.", show_default=False)]

COLUMNS = {
    "upstream": lambda row: row["name"],
    "configured": lambda row: row["configured"],
    "receives webhooks": lambda row: row["webhook"],
    "paused": lambda row: f"by {row['paused_by']}: {row['reason'] or 'no reason given'}" if row["paused_at"] else None,
}


@app.command("list")
def list_upstreams(*, as_json: AsJson = False) -> None:
    """List upstreams; `headrace doctor` asks each whether it answers."""
    with runtime() as held, held.engine.connect() as connection:
        chosen = select(Upstream.name, Upstream.paused_at, Upstream.paused_by, Upstream.reason)
        kept = {row["name"]: dict(row) for row in connection.execute(chosen).mappings()}
        configured = set(held.settings.integrations)
    rows = [_row(name, kept.get(name), configured) for name in integrations.load()]
    show(rows, COLUMNS, as_json=as_json, empty="there are no upstreams: write one in integrations/")


@app.command()
def pause(name: Name, by: By, reason: Reason = None, *, dry_run: DryRun = False) -> None:
    """Hold the runs that need an upstream: they are put back and burn no attempt."""
    holding.pause(HOLDS["upstreams"], name, by=by, dry_run=dry_run, reason=reason)


@app.command()
def resume(name: Name, by: By, *, dry_run: DryRun = False) -> None:
    """Let the runs that need an upstream go on; each looks again within a minute."""
    holding.resume(HOLDS["upstreams"], name, by=by, dry_run=dry_run)


@app.command()
def reset(name: Name, by: By, *, dry_run: DryRun = False) -> None:
    """Clear what holds an upstream back. Today that is its pause alone: there is no circuit breaker yet."""
    holding.resume(HOLDS["upstreams"], name, by=by, dry_run=dry_run, action="reset")


def _row(name: str, kept: dict[str, Any] | None, configured: set[str]) -> dict[str, Any]:
    nothing = {"paused_at": None, "paused_by": None, "reason": None}
    facts = {"name": name, "configured": name in configured, "webhook": integrations.load()[name].webhook}
    return facts | nothing | (kept or {})

"""Upstreams: which accounts at third parties are configured, which are left alone, and holding back what needs one."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from sqlalchemy import select

import integrations
from models import Upstream
from workers import actions, circuits
from workers.actions import HOLDS
from workers.cli import holding
from workers.cli.opening import runtime
from workers.cli.options import AsJson, By, DryRun, Reason
from workers.cli.tables import show
from workers.moments import when

app = typer.Typer(name="upstreams", help="List, pause, resume and reset upstreams.")

Name = Annotated[str, typer.Argument(help="The upstream.", show_default=False)]

SHOWN = (
    Upstream.name,
    Upstream.paused_at,
    Upstream.paused_by,
    Upstream.reason,
    Upstream.circuit_opened_at,
    Upstream.next_probe_at,
    Upstream.circuit_error,
)
COLUMNS = {
    "upstream": lambda row: row["name"],
    "configured": lambda row: row["configured"],
    "receives webhooks": lambda row: row["webhook"],
    "circuit": lambda row: _circuit(row, datetime.now(UTC)),
    "paused": lambda row: f"by {row['paused_by']}: {row['reason'] or 'no reason given'}" if row["paused_at"] else None,
}


@app.command("list")
def list_upstreams(*, as_json: AsJson = False) -> None:
    """List upstreams; `headrace doctor` asks each whether it answers."""
    with runtime() as held, held.engine.connect() as connection:
        kept = {row["name"]: dict(row) for row in connection.execute(select(*SHOWN)).mappings()}
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
    """Clear what holds an upstream back: its pause, and its circuit if that is open."""
    holding.resume(HOLDS["upstreams"], name, by=by, dry_run=dry_run, action="reset")
    with runtime() as held, held.engine.begin() as connection:
        if dry_run:
            was_open = circuits.is_open(connection, name)
            told = "is open and would be closed" if was_open else "is not open"
        else:
            closed = actions.close_circuit(connection, held.redis, name, by=by)
            told = "is closed: the next call may try" if closed else "was not open: what it had counted is forgotten"
    typer.echo(f"the circuit of {name} {told}")


def _circuit(row: dict[str, Any], now: datetime) -> str:
    if row["circuit_opened_at"] is None:
        return "closed"
    since, probe = when(row["circuit_opened_at"], now), row["next_probe_at"]
    if probe < now - timedelta(seconds=circuits.FORGOTTEN):
        return f"not probed for {circuits.FORGOTTEN // 60} min: opened {since}"
    return f"open since {since}, next probe {probe.astimezone(UTC):%H:%M:%S} UTC: {row['circuit_error'] or 'no error'}"


def _row(name: str, kept: dict[str, Any] | None, configured: set[str]) -> dict[str, Any]:
    nothing = dict.fromkeys(column.key for column in SHOWN)
    facts = {"name": name, "configured": name in configured, "webhook": integrations.load()[name].webhook}
    return nothing | facts | (kept or {})

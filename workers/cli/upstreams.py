"""Upstreams: which accounts at third parties are configured, which are left alone, and holding back what needs one."""

from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from sqlalchemy import select

import integrations
from integrations import POLITE, Hindrance
from models import Upstream
from workers import actions, circuits, doors, throttles
from workers.actions import HOLDS
from workers.cli import holding
from workers.cli.opening import runtime
from workers.cli.options import AsJson, By, DryRun, Reason
from workers.cli.tables import show
from workers.doors import BudgetView
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
    Upstream.throttled_at,
    Upstream.throttled_until,
    Upstream.throttle_reason,
)
COLUMNS = {
    "upstream": lambda row: row["name"],
    "configured": lambda row: row["configured"],
    "receives webhooks": lambda row: row["webhook"],
    "circuit": lambda row: _circuit(row, datetime.now(UTC)),
    "budget": lambda row: _budget(row, datetime.now(UTC)),
    "under way": lambda row: None if row["tokens"] is None else f"{row['calls_under_way']} of {row['concurrency']}",
    "paused": lambda row: f"by {row['paused_by']}: {row['reason'] or 'no reason given'}" if row["paused_at"] else None,
}


@app.command("list")
def list_upstreams(*, as_json: AsJson = False) -> None:
    """List upstreams; `headrace doctor` asks each whether it answers."""
    with runtime() as held, held.engine.connect() as connection:
        kept = {row["name"]: dict(row) for row in connection.execute(select(*SHOWN)).mappings()}
        configured = set(held.settings.integrations)
        budgets = doors.budgets(held.hasty_redis, held.settings.integrations)
    rows = [_row(name, kept.get(name), budgets.get(name), configured) for name in integrations.load()]
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
    """Clear what holds an upstream back: its pause, its circuit if that is open, and its budget."""
    holding.resume(HOLDS["upstreams"], name, by=by, dry_run=dry_run, action="reset")
    with runtime() as held, held.engine.begin() as connection:
        if dry_run:
            circuit = "is open and would be closed" if circuits.is_open(connection, name) else "is not open"
            until = throttles.until(connection, name)
            budget = f"is blocked until {until:%H:%M:%S} UTC and would be full" if until else "would be full"
        else:
            rate = doors.rates(held.settings.integrations).get(name, POLITE)
            found = actions.reset_upstream(connection, held.redis, name, rate, by=by)
            closed = "is closed: the next call may try"
            circuit = closed if Hindrance.CIRCUIT in found else "was not open: what it had counted is forgotten"
            budget = "is full: the next call may try" if Hindrance.BLOCKED in found else "is full"
    typer.echo(f"the circuit of {name} {circuit}\nthe budget of {name} {budget}")


def _circuit(row: dict[str, Any], now: datetime) -> str:
    if row["circuit_opened_at"] is None:
        return "closed"
    since, probe = when(row["circuit_opened_at"], now), row["next_probe_at"]
    if probe < now - timedelta(seconds=circuits.FORGOTTEN):
        return f"not probed for {circuits.FORGOTTEN // 60} min: opened {since}"
    return f"open since {since}, next probe {probe.astimezone(UTC):%H:%M:%S} UTC: {row['circuit_error'] or 'no error'}"


def _budget(row: dict[str, Any], now: datetime) -> str | None:
    if row["throttled_until"] is not None and row["throttled_until"] > now:
        why = throttles.in_short(row["throttle_reason"]) or "no reason given"
        return f"blocked until {row['throttled_until'].astimezone(UTC):%H:%M:%S} UTC: {why}"
    if row["blocked_seconds"] is not None:
        return f"blocked for {row['blocked_seconds']:.0f} s" if row["blocked_seconds"] else "one call asks next"
    if row["rate"] is None:
        return None
    return f"{'unknown' if row['tokens'] is None else row['tokens']} of {row['burst']}, {row['rate']}"


def _row(name: str, kept: dict[str, Any] | None, budget: BudgetView | None, configured: set[str]) -> dict[str, Any]:
    nothing = dict.fromkeys([*(column.key for column in SHOWN), *(field.name for field in fields(BudgetView))])
    facts = {"name": name, "configured": name in configured, "webhook": integrations.load()[name].source is not None}
    return nothing | facts | (kept or {}) | (asdict(budget) if budget else {})

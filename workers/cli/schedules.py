"""Schedules: when they fire next, what their slots became, holding them back, firing one by hand."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from sqlalchemy import select, true

import jobs
from jobs import Rule, UnknownJob
from models import Slot
from workers import actions, census
from workers.actions import HOLDS
from workers.cli import holding
from workers.cli.opening import acting, reading
from workers.cli.options import AsJson, Before, By, DryRun, Limit, Reason, Until
from workers.cli.tables import show
from workers.moments import exactly

app = typer.Typer(name="schedules", help="List, preview, pause, resume and fire schedules.")

Name = Annotated[str, typer.Argument(help="The schedule, by the name of its job.", show_default=False)]

COLUMNS = {
    "schedule": lambda row: row.name,
    "rule": lambda row: f"{row.rule} ({row.zone})",
    "next fire": lambda row: None if row.retired_at else row.next_fire_at,
    "last fire": lambda row: row.last_fire_at,
    "became": lambda row: row.last_outcome,
    "run": lambda row: f"{row.last_run_id} {row.last_run_state or ''}" if row.last_run_id else None,
    "held": lambda row: "retired" if row.retired_at else _held(row) if row.paused_at else None,
}
SLOT_COLUMNS = {
    "schedule": lambda row: row["schedule"],
    "fire": lambda row: exactly(row["fire_at"]),
    "became": lambda row: row["outcome"],
    "run": lambda row: str(row["run_id"]) if row["run_id"] else None,
    "recorded": lambda row: row["recorded_at"],
}
FIRE_COLUMNS = {
    "fire (UTC)": lambda row: exactly(row["fire_at"]),
    "on the wall": lambda row: row["local"],
    "distance": lambda row: row["fire_at"],
    "note": lambda row: row["note"],
}


def _held(row: Any) -> str:
    until = f" until {exactly(row.paused_until)}" if row.paused_until else ""
    return f"paused by {row.paused_by}{until}"


@app.command("list")
def list_schedules(*, as_json: AsJson = False) -> None:
    """List schedules with their next and last fire."""
    with reading() as connection:
        rows = census.schedules(connection)
    show(rows, COLUMNS, as_json=as_json, empty="no schedule is known yet: start a scheduler (`python -m scheduler`)")


@app.command()
def preview(
    name: Name,
    *,
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="Fires to show.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show the next fires of a schedule, as its rule in the code plans them."""
    rule = _rule(name)
    rows = list(islice(_fires(rule), count))
    show(rows, FIRE_COLUMNS, as_json=as_json, empty="it never fires again")


@app.command()
def slots(
    name: Annotated[str | None, typer.Argument(help="Only this schedule.", show_default=False)] = None,
    *,
    before: Before = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List recorded slots, newest first: each planned fire has exactly one outcome."""
    wanted = select(Slot.id, Slot.schedule, Slot.fire_at, Slot.outcome, Slot.run_id, Slot.recorded_at).where(
        Slot.schedule == name if name else true(), Slot.id < before if before else true()
    )
    with reading() as connection:
        rows = connection.execute(wanted.order_by(Slot.id.desc()).limit(limit)).mappings().all()
    show([dict(row) for row in rows], SLOT_COLUMNS, as_json=as_json, empty="no slot was recorded yet")


@app.command()
def pause(name: Name, by: By, reason: Reason = None, until: Until = None, *, dry_run: DryRun = False) -> None:
    """Hold a schedule: its fires are recorded as skipped."""
    holding.pause(HOLDS["schedules"], name, by=by, dry_run=dry_run, reason=reason, until=until)


@app.command()
def resume(name: Name, by: By, *, dry_run: DryRun = False) -> None:
    """Let a schedule fire again; skipped fires are not made up for."""
    holding.resume(HOLDS["schedules"], name, by=by, dry_run=dry_run)


@app.command()
def fire(name: Name, by: By, *, dry_run: DryRun = False) -> None:
    """Fire a schedule now, out of turn, and print the run's id."""
    _rule(name)
    if dry_run:
        typer.echo(f"{name} would be fired now (dry run, nothing was changed)")
        return
    with acting() as connection:
        typer.echo(str(actions.fire(connection, name, by=by)))


def _rule(name: str) -> Rule:
    jobs.load()
    rule = jobs.find(name).schedule
    if rule is None:
        raise UnknownJob(f"job {name} has no schedule: `headrace jobs` shows which have one")
    return rule


def _fires(rule: Rule) -> Iterator[dict[str, Any]]:
    moment = datetime.now(UTC)
    before = moment.astimezone(ZoneInfo(rule.zone))
    while True:
        moment = rule.next_after(moment)
        local = moment.astimezone(ZoneInfo(rule.zone))
        notes = {
            "the clock has moved": local.utcoffset() != before.utcoffset(),
            "left out": rule.policy.excludes(moment, rule.zone),
        }
        note = ", ".join(word for word, so in notes.items() if so) or None
        yield {"fire_at": moment, "local": local.strftime("%a %Y-%m-%d %H:%M:%S %Z"), "note": note}
        before = local

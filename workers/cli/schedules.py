"""Schedules: when they fire next, what their slots became and why, holding them back, firing one by hand."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from sqlalchemy import select, true

import jobs
from jobs import FirePolicy, Rule, UnknownJob
from models import Slot
from workers import actions, timetable
from workers.actions import HOLDS
from workers.cli import holding, rules
from workers.cli.opening import acting, reading
from workers.cli.options import AsJson, Before, By, DryRun, Limit, Reason, Until
from workers.cli.tables import print_json, show
from workers.moments import exactly, span
from workers.timetable import ScheduleView

app = typer.Typer(name="schedules", help="List, explain, make, change, pause and fire schedules.")

Name = Annotated[str, typer.Argument(help="The schedule: the name of its job, or its own.", show_default=False)]

COLUMNS = {
    "schedule": lambda row: row.name,
    "job": lambda row: row.job,
    "rule": lambda row: f"{row.rule} ({row.zone})",
    "next fire": lambda row: None if row.retired_at else row.next_fire_at,
    "last fire": lambda row: row.last_fire_at,
    "became": lambda row: row.last_outcome,
    "run": lambda row: f"{row.last_run_id} {row.last_run_state or ''}" if row.last_run_id else None,
    "besides": lambda row: "; ".join(_besides(row)) or None,
}
SLOT_COLUMNS = {
    "schedule": lambda row: row["schedule"],
    "fire": lambda row: exactly(row["fire_at"]),
    "became": lambda row: row["outcome"],
    "run": lambda row: str(row["run_id"]) if row["run_id"] else None,
    "late": lambda row: span(max(0.0, (row["recorded_at"] - row["fire_at"]).total_seconds())),
    "why": lambda row: row["note"],
}
FIRE_COLUMNS = {
    "fire (UTC)": lambda row: exactly(row["fire_at"]),
    "on the wall": lambda row: row["local"],
    "distance": lambda row: row["fire_at"],
    "note": lambda row: row["note"],
}


def _besides(row: ScheduleView) -> Iterator[str]:
    """Yield what is out of the ordinary about a schedule."""
    if row.retired_at:
        yield "retired"
    if row.paused_at:
        yield f"paused by {row.paused_by}" + (f" until {exactly(row.paused_until)}" if row.paused_until else "")
    if row.declared_rule is None:
        yield f"made by {row.changed_by}"
    elif row.in_conflict:
        yield f"changed by {row.changed_by}, and since by the code to {row.declared_rule} ({row.declared_zone}): choose"
    elif row.replaced_rule is not None:
        yield f"changed by {row.changed_by}, declared as {row.declared_rule} ({row.declared_zone})"
    if (row.missed, row.overlap, row.jitter) != ("once", "join", 0):
        yield f"missed: {row.missed}, overlap: {row.overlap}" + (f", jitter: {row.jitter:g} s" if row.jitter else "")


@app.command("list")
def list_schedules(*, as_json: AsJson = False) -> None:
    """List schedules with their next and last fire."""
    with reading() as connection:
        rows = timetable.schedules(connection)
    show(rows, COLUMNS, as_json=as_json, empty="no schedule is known yet: start a scheduler (`python -m scheduler`)")


@app.command()
def preview(
    name: Name,
    *,
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="Fires to show.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the next fires of a schedule, in UTC and on the wall of its zone."""
    rows = list(islice(_fires(_rule(name)), count))
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
    wanted = select(Slot.__table__).where(
        Slot.schedule == name if name else true(), Slot.id < before if before else true()
    )
    with reading() as connection:
        rows = connection.execute(wanted.order_by(Slot.id.desc()).limit(limit)).mappings().all()
    show([dict(row) for row in rows], SLOT_COLUMNS, as_json=as_json, empty="no slot was recorded yet")


@app.command()
def why(
    name: Name,
    moment: Annotated[
        str, typer.Argument(help="Date and time, on the wall of the schedule's zone.", show_default=False)
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Say what became of the fire at a moment, or why there was none."""
    with reading() as connection:
        answer = timetable.explain(connection, name, moment)
    if as_json:
        print_json(answer)
    else:
        typer.echo(answer.sentence)


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
    jobs.load()
    if dry_run:
        _rule(name)
        typer.echo(f"{name} would be fired now (dry run, nothing was changed)")
        return
    with acting() as connection:
        typer.echo(str(actions.fire(connection, name, by=by)))


for command in (rules.add, rules.change, rules.remove):
    app.command()(command)


def _rule(name: str) -> Rule:
    """Return the rule by which a schedule fires; before a scheduler knows it, the one that the code declares."""
    jobs.load()
    known = jobs.names().get(name)
    with reading() as connection:
        row = timetable.schedule(connection, known.name if known else name)
    if row is not None and row.retired_at is None:
        policy = known.schedule.policy if known and known.schedule else FirePolicy()
        return jobs.read_rule(row.rule, row.zone, policy)
    rule = jobs.find(name).schedule
    if rule is None:
        raise UnknownJob(f"job {name} has no schedule: `headrace schedules list` shows all")
    return rule


def _fires(rule: Rule) -> Iterator[dict[str, Any]]:
    moment = rule.next_after(datetime.now(UTC))
    before = datetime.now(ZoneInfo(rule.zone))
    while moment is not None:
        local = moment.astimezone(ZoneInfo(rule.zone))
        notes = {
            "the clock has moved": local.utcoffset() != before.utcoffset(),
            "left out": rule.policy.excludes(moment, rule.zone),
        }
        note = ", ".join(word for word, so in notes.items() if so) or None
        yield {"fire_at": moment, "local": local.strftime("%a %Y-%m-%d %H:%M:%S %Z"), "note": note}
        moment, before = rule.next_after(moment), local

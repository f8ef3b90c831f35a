"""Schedules: when they fire next, what their slots became and why, holding them back, firing one by hand."""

from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

import typer

import jobs
from jobs import Rule, UnknownJob
from workers import actions, timetable
from workers.actions import HOLDS
from workers.cli import holding, rules
from workers.cli.opening import acting, reading
from workers.cli.options import AsJson, Before, By, DryRun, Limit, Reason, Until
from workers.cli.tables import print_json, printable, show
from workers.moments import exactly, span

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
    "besides": lambda row: "; ".join(timetable.besides(row)) or None,
}
SLOT_COLUMNS = {
    "schedule": lambda row: row.schedule,
    "fire": lambda row: exactly(row.fire_at),
    "became": lambda row: row.outcome,
    "run": lambda row: f"{row.run_id} {row.run_state or ''}" if row.run_id else None,
    "late": lambda row: span(row.late),
    "why": lambda row: row.note,
}
FIRE_COLUMNS = {
    "fire (UTC)": lambda row: exactly(row.fire_at),
    "on the wall": lambda row: row.local,
    "here": lambda row: row.fire_at.astimezone().strftime("%a %H:%M:%S %Z"),
    "distance": lambda row: row.fire_at,
    "note": lambda row: row.note,
}


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
    """Show the next fires of a schedule: in UTC, on the wall of its zone, and here."""
    rows = list(islice(timetable.ahead(_rule(name), datetime.now(UTC)), count))
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
    with reading() as connection:
        rows = timetable.slots(connection, name, before=before, most=limit)
    show(rows, SLOT_COLUMNS, as_json=as_json, empty="no slot was recorded yet")


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
        typer.echo(printable(answer.sentence))


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
        return timetable.rule_of(row)
    rule = jobs.find(name).schedule
    if rule is None:
        raise UnknownJob(f"job {name} has no schedule: `headrace schedules list` shows all")
    return rule

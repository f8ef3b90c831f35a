"""Redrives: dead runs that are run again with care. Begin one (`runs retry --canary`), watch it, list, show, stop.

Whoever watches only looks. A redrive belongs to the relays: Ctrl-C ends the watching and not the work.
"""

import time
from typing import Annotated, Any

import typer
from sqlalchemy import Engine

from workers import actions
from workers.actions import Care, Selection
from workers.cli.opening import acting, reading, runtime
from workers.cli.options import LARGEST_ID, AsJson, By, DryRun, Limit
from workers.cli.tables import print_json, show
from workers.cli.waiting import INTERRUPTED

app = typer.Typer(name="redrives", help="List, show, watch and stop careful retries of many runs.")

#: Seconds between two looks.
EVERY = 0.5

Id = Annotated[int, typer.Argument(min=1, max=LARGEST_ID, metavar="ID", help="The redrive.", show_default=False)]


def standing(row: dict[str, Any]) -> str:
    """Say in a few words how a redrive stands."""
    if row["stopped_at"] is not None:
        rest = "" if row["ended_at"] is not None else "; what runs is waited for"
        return f"stopped: {row['why']}{rest}"
    if row["ended_at"] is not None:
        return f"ended: {row['why']}"
    canary = row["canary"]
    out = canary is not None and (row["moved"] < canary or (row["moved"] == canary and row["under_way"] > 0))
    return f"the canary of {canary} is out" if out else "goes on"


COLUMNS = {
    "id": lambda row: str(row["id"]),
    "runs": lambda row: row["total"],
    "succeeded": lambda row: row["succeeded"],
    "failed again": lambda row: row["failed"],
    "under way": lambda row: row["under_way"],
    "to go": lambda row: row["to_go"],
    "left dead": lambda row: row["kept"],
    "moved by others": lambda row: row["gone"] + row["passed"],
    "begun": lambda row: row["created_at"],
    "by": lambda row: row["created_by"],
    "stands": standing,
}


@app.command("list")
def list_redrives(*, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List redrives, newest first."""
    with reading() as connection:
        rows = actions.redrives(connection, limit=limit)
    show(rows, COLUMNS, as_json=as_json, empty="no redrive yet: `headrace runs retry --canary N` begins one")


@app.command("show")
def show_redrive(redrive: Id, *, as_json: AsJson = False) -> None:
    """Show one redrive: its limits, what its runs came to, and why it stopped."""
    with reading() as connection:
        (row,) = actions.redrives(connection, redrive)
    _report(row, as_json=as_json)


@app.command()
def watch(redrive: Id, *, as_json: AsJson = False) -> None:
    """Watch a redrive to its end; exit 1 if it was stopped."""
    with runtime() as held:
        _watch(held.engine, redrive, as_json=as_json)


@app.command()
def stop(redrive: Id, by: By, *, dry_run: DryRun = False) -> None:
    """Stop a redrive: what it has moved and nobody has started is dead again, as it was."""
    if dry_run:
        with reading() as connection:
            (row,) = actions.redrives(connection, redrive)
        typer.echo(f"redrive {redrive} would be stopped; it {standing(row)} (dry run, nothing was changed)")
        return
    with acting() as connection:
        stopped = actions.stop_redrive(connection, redrive, by=by)
    typer.echo(f"redrive {redrive} " + ("is stopped" if stopped else "has stopped already: nothing was changed"))


def begin(selection: Selection, care: Care, by: str, *, no_wait: bool, as_json: bool) -> None:
    """Begin a redrive, and watch it unless told not to."""
    with runtime() as held:
        with held.engine.begin() as connection:
            number = actions.begin_redrive(connection, selection, care, by=by)
            (row,) = actions.redrives(connection, number)
        if no_wait:
            print_json(row) if as_json else typer.echo(str(number))
            return
        runs = f"{row['total']:,} run{'' if row['total'] == 1 else 's'}"
        typer.echo(f"redrive {number} has taken {runs}; the relays move them on", err=True)
        _watch(held.engine, number, as_json=as_json)


def _watch(engine: Engine, number: int, *, as_json: bool) -> None:
    try:
        row = _until_ended(engine, number)
    except KeyboardInterrupt:
        typer.echo(f"redrive {number} goes on without you: `headrace redrives watch {number}`, or `stop`", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _report(row, as_json=as_json)
    if row["stopped_at"] is not None:
        raise typer.Exit(1)


def _until_ended(engine: Engine, number: int) -> dict[str, Any]:
    said = ""
    while True:
        with engine.connect() as connection:
            (row,) = actions.redrives(connection, number)
        if row["ended_at"] is not None:
            return row
        if (line := _line(row)) != said:
            typer.echo(line, err=True)
            said = line
        time.sleep(EVERY)


def _line(row: dict[str, Any]) -> str:
    counts = f"{row['succeeded']:,} succeeded, {row['failed']:,} failed again, {row['under_way']:,} under way"
    return f"redrive {row['id']} {standing(row)}: {counts}, {row['to_go']:,} to go"


def _report(row: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    show([row], COLUMNS, as_json=False, empty="")
    limits = [f"--canary {row['canary']}"] if row["canary"] else []
    limits += [f"--rate {row['rate']:g}"] if row["rate"] else []
    typer.echo(f"selected by {row['selection']}; {' '.join([*limits, '--stop-at ' + str(row['stop_at'])])}")
    if row["failed"]:
        typer.echo(
            f"of those that failed again, {row['failed_dead']:,} are dead, {row['failed_trying']:,} try again by the"
            f" rules of their job, {row['failed_succeeded']:,} have succeeded since"
        )

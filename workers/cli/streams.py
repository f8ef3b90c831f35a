"""Streams: how far each was read, and reading one again from an earlier moment."""

from datetime import datetime
from typing import Annotated, Any

import typer
from sqlalchemy import Connection, select

from models import Quarantine, Stream, StreamMove
from workers import actions, census
from workers.cli.opening import acting, reading
from workers.cli.options import AsJson, By, DryRun, Limit, Reason
from workers.cli.performing import NoWait, perform
from workers.cli.run import Timeout
from workers.cli.tables import cell, console, print_json, show
from workers.moments import exactly, moment, span

app = typer.Typer(name="streams", help="List, show, verify, repair and rewind streams, and approve deletions.")

#: What a verification counts that nothing explains.
DRIFT = ("missing", "stale", "orphans")
#: The word for reading everything again.
START = "start"

Name = Annotated[
    str, typer.Argument(metavar="[UPSTREAM/]STREAM", help="The stream, such as warehouse/products.", show_default=False)
]

AnyName = Annotated[
    str | None,
    typer.Argument(
        metavar="[[UPSTREAM/]STREAM]", help="The stream; all of the warehouse without it.", show_default=False
    ),
]

COLUMNS = {
    "stream": lambda row: f"{row.upstream}/{row.name}",
    "read up to": lambda row: row.high_water,
    "last walk": lambda row: span(row.freshness_seconds) + " ago" if row.freshness_seconds is not None else None,
    "walking": lambda row: f"run {row.run_id}" if row.walking else None,
    "seen": lambda row: row.counts.get("seen"),
    "changed": lambda row: row.counts.get("changed"),
    "quarantined": lambda row: row.quarantined,
    "held deletions": lambda row: row.held_deletions,
}
MOVE_COLUMNS = {
    "at": lambda row: exactly(row["at"]),
    "from": lambda row: exactly(row["moved_from"]) if row["moved_from"] else None,
    "to": lambda row: exactly(row["moved_to"]) if row["moved_to"] else START,
    "reason": lambda row: row["reason"],
    "run": lambda row: str(row["run_id"]) if row["run_id"] else None,
}


QUARANTINE_COLUMNS = {
    "item": lambda row: row["external_id"],
    "reason": lambda row: row["reason"],
    "times": lambda row: row["times"],
    "first seen": lambda row: row["first_seen_at"],
    "last seen": lambda row: row["last_seen_at"],
}


@app.command("list")
def list_streams(*, as_json: AsJson = False) -> None:
    """List streams with how far they were read."""
    with reading() as connection:
        rows = census.streams(connection)
    show(rows, COLUMNS, as_json=as_json, empty="no stream was read yet: `headrace run warehouse.sync --wait`")


@app.command("show")
def show_stream(name: Name, *, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Show one stream, the newest moves of its mark, and what of it is in quarantine and why."""
    with reading() as connection:
        mark = actions.find_stream(connection, name)
        view = next(row for row in census.streams(connection) if f"{row.upstream}/{row.name}" == mark.name)
        chosen = select(
            StreamMove.at, StreamMove.moved_from, StreamMove.moved_to, StreamMove.reason, StreamMove.run_id
        ).where(StreamMove.stream_id == mark.id)
        found = connection.execute(chosen.order_by(StreamMove.id.desc()).limit(limit)).mappings()
        moves = [dict(row) for row in found]
        quarantined = _quarantined(connection, view, limit)
    if as_json:
        print_json(census.as_json(view) | {"moves": moves, "quarantine": quarantined})
        return
    show([view], COLUMNS, as_json=False, empty="")
    console().print("counts of its walk:", ", ".join(f"{key} {cell(value)}" for key, value in view.counts.items()))
    show(moves, MOVE_COLUMNS, as_json=False, empty="its mark never moved: no walk was complete yet")
    show(quarantined, QUARANTINE_COLUMNS, as_json=False, empty="nothing of it is in quarantine")


def _quarantined(connection: Connection, stream: census.StreamView, limit: int) -> list[dict[str, Any]]:
    """Return the open quarantine rows of a stream, those seen last first."""
    chosen = select(
        Quarantine.external_id, Quarantine.reason, Quarantine.times, Quarantine.first_seen_at, Quarantine.last_seen_at
    ).join(Stream, Stream.id == Quarantine.stream_id)
    named = chosen.where(Stream.upstream == stream.upstream, Stream.name == stream.name)
    found = named.where(Quarantine.resolved_at.is_(None)).order_by(Quarantine.last_seen_at.desc(), Quarantine.id)
    return [dict(row) for row in connection.execute(found.limit(limit)).mappings()]


@app.command()
def verify(
    by: By, name: AnyName = None, timeout: Timeout = None, *, no_wait: NoWait = False, as_json: AsJson = False
) -> None:
    """Read everything upstream and count what differs from the database; exit 1 if anything does."""
    job, chosen = _checked(name)
    result = perform(job, chosen, by, timeout, no_wait=no_wait, as_json=as_json)
    if drift := sum(int(counts[kind]) for counts in result.values() for kind in DRIFT):
        typer.echo(f"{drift:,} items differ: `headrace streams repair` writes what the upstream says", err=True)
        raise typer.Exit(1)


@app.command()
def repair(
    by: By, name: AnyName = None, timeout: Timeout = None, *, no_wait: NoWait = False, as_json: AsJson = False
) -> None:
    """Verify, and write what the upstream says of everything that differs."""
    job, chosen = _checked(name)
    perform(job, chosen | {"repair": "true"}, by, timeout, no_wait=no_wait, as_json=as_json)


@app.command()
def approve(
    name: Name,
    by: By,
    timeout: Timeout = None,
    *,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Remove the items whose deletion is held: two full walks did not meet them, and they were too many to believe."""
    with reading() as connection:
        mark = actions.find_stream(connection, name)
        held = connection.execute(select(Stream.held_deletions).where(Stream.id == mark.id)).scalar_one()
    if not held or dry_run:
        note = " would be removed (dry run, nothing was changed)" if held else ": nothing is held"
        typer.echo(f"{held:,} items of {mark.name}{note}")
        return
    upstream, _, stream = mark.name.partition("/")
    chosen = {"stream": stream, "most": str(held)}
    perform(f"{upstream}.remove_missing", chosen, by, timeout, no_wait=no_wait, as_json=as_json)


def _checked(name: str | None) -> tuple[str, dict[str, str]]:
    """Return the job that verifies a stream, and its arguments."""
    if name is None:
        return "warehouse.verify", {}
    with reading() as connection:
        upstream, _, stream = actions.find_stream(connection, name).name.partition("/")
    return f"{upstream}.verify", {"stream": stream}


@app.command()
def rewind(
    name: Name,
    by: By,
    to: Annotated[str, typer.Option("--to", metavar="WHEN", help=f"2h, 2026-11-23T05:00 (UTC), or `{START}`.")],
    reason: Reason = None,
    *,
    dry_run: DryRun = False,
) -> None:
    """Set a stream's mark back: the next sync reads again what changed since. Ends a walk under way."""
    back_to = None if to == START else moment(to)
    if dry_run:
        with reading() as connection:
            mark = actions.check_rewind(connection, name, back_to)
            expected = actions.estimate(connection, mark, back_to)
    else:
        with acting() as connection:
            mark = actions.rewind(connection, name, back_to, by=by, reason=reason)
            expected = actions.estimate(connection, mark, back_to)
    verb = "would go" if dry_run else "went"
    note = " (dry run, nothing was changed)" if dry_run else ": the next sync reads from there"
    typer.echo(f"stream {mark.name} {verb} from {_said(mark.high_water)} back to {_said(back_to)}{note}")
    if expected is not None:
        typer.echo(_expected(expected))


def _expected(expected: actions.Estimate) -> str:
    time = span(expected.seconds) + " of waiting" if expected.seconds is not None else "nobody knows yet how long"
    return f"it reads about {expected.rows:,} rows again: {expected.calls:,} calls, {time}"


def _said(at: datetime | None) -> Any:
    return exactly(at) if at else START

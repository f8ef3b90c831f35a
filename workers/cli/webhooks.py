"""Webhooks: what was received, what it caused, handing one to its job again, fetching those that never came."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any

import typer
from rich.text import Text
from sqlalchemy import Connection, select, true

import integrations
from models import Event, Run, Verdict
from workers import actions
from workers.actions import EventSelection, Refused, Replayed
from workers.cli.opening import acting, reading, runtime
from workers.cli.options import LARGEST_ID, AsJson, Before, By, DryRun, Limit, Since, pairs
from workers.cli.tables import console, print_json, printable, show
from workers.logs import redact, redact_text
from workers.runtime import Runtime

app = typer.Typer(name="webhooks", help="List, show, replay and backfill webhooks.")

#: Events that one transaction of a backfill keeps.
_BATCH = 100
#: How far back it is asked; Stripe keeps its events so long.
_KEPT = timedelta(days=30)

Id = Annotated[int, typer.Argument(min=1, max=LARGEST_ID, metavar="ID", help="The event.", show_default=False)]
Ids = Annotated[
    list[int] | None, typer.Argument(min=1, max=LARGEST_ID, metavar="ID", help="Events.", show_default=False)
]
Source = Annotated[str | None, typer.Option("--source", metavar="NAME", help="Only events of this upstream.")]
Type = Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only events of this type.")]
Fields = Annotated[
    list[str] | None,
    typer.Option("--field", metavar="PATH=VALUE", help="Only events with this in the body: data.object.id=pi_1."),
]
OfVerdict = Annotated[Verdict | None, typer.Option("--verdict", help="Only what the receiver judged so.")]

LISTED = (
    Event.id,
    Event.source,
    Event.external_id,
    Event.type,
    Event.verdict,
    Event.received_at,
    Event.duplicates,
    Event.run_id,
    Event.joined_run,
    Event.reason,
    Event.address,
    Event.secret,
)
COLUMNS = {
    "id": lambda row: str(row["id"]),
    "source": lambda row: row["source"],
    "type": lambda row: row["type"],
    "their id": lambda row: row["external_id"],
    "verdict": lambda row: row["verdict"],
    "received": lambda row: row["received_at"],
    "duplicates": lambda row: row["duplicates"],
    "run": lambda row: f"{row['run_id']} {row['run_state'] or ''}" if row["run_id"] else row["reason"],
}
REPLAYED_COLUMNS = {
    "event": lambda row: str(row.event_id),
    "source": lambda row: row.source,
    "type": lambda row: row.type,
    "job": lambda row: row.job or "no job answers it",
    "new run": lambda row: str(row.run_id) if row.run_id else None,
}


@app.command("list")
def list_webhooks(
    source: Source = None,
    type_: Type = None,
    verdict: OfVerdict = None,
    since: Since = None,
    *,
    field: Fields = None,
    before: Before = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List received events, newest first."""
    selection = EventSelection(source=source, type=type_, verdict=verdict, since=since, fields=_pairs(field))
    with reading() as connection:
        rows = _listed(connection, selection, before, limit)
    show(rows, COLUMNS, as_json=as_json, empty="no event matches: senders post to /webhooks/NAME")


@app.command("show")
def show_webhook(
    event: Id,
    *,
    raw: Annotated[bool, typer.Option("--raw", help="Write the body alone, byte for byte as it came.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one event with its headers and body, secrets replaced."""
    if raw:
        with reading() as connection:
            typer.get_binary_stream("stdout").write(_body(connection, event))
        return
    with reading() as connection:
        found = _one(connection, event)
    if as_json:
        print_json(found)
        return
    page = console()
    for name, value in found.items():
        written = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
        page.print(Text(f"{name:<12}", style="dim").append(printable(written), style="default"))


@app.command()
def replay(
    *,
    by: By,
    ids: Ids = None,
    source: Source = None,
    type_: Type = None,
    verdict: OfVerdict = None,
    since: Since = None,
    field: Fields = None,
    limit: Limit = 1000,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Hand events to their jobs again, oldest first: by id, or all that match the filters."""
    chosen = EventSelection(source=source, type=type_, verdict=verdict, since=since, fields=_pairs(field))
    selection = replace(chosen, ids=tuple(ids or ()))
    if dry_run:
        with reading() as connection:
            events = actions.replayable(connection, selection, limit=limit)
    else:
        with acting() as connection:
            events = actions.replay(connection, selection, by=by, limit=limit)
    show(events, REPLAYED_COLUMNS, as_json=as_json, empty="no event matches: nothing was replayed")
    if dry_run:
        typer.echo("dry run: nothing was changed", err=True)
    _complain(selection, events)


@app.command()
def backfill(
    by: By,
    source: Annotated[str, typer.Argument(help="An upstream that lists its events.")] = "stripe",
    since: Since = None,
    *,
    dry_run: DryRun = False,
) -> None:
    """Fetch the events of an upstream that never reached us, keep them and enqueue their jobs."""
    with runtime() as held:
        events = _listing(held, source, since or datetime.now(UTC) - _KEPT)
        seen = missing = 0
        while batch := list(islice(events, _BATCH)):
            seen += len(batch)
            missing += _keep(held, source, batch, by, dry_run=dry_run)
    verb = "would be fetched (dry run, nothing was changed)" if dry_run else "were missing and are kept now"
    typer.echo(f"{source} lists {seen:,} events: {missing:,} {verb}")


def _listing(held: Runtime, source: str, since: datetime) -> Iterator[Mapping[str, Any]]:
    kinds = integrations.load()
    if source not in kinds or not kinds[source].lists_events:
        why = "does not list its events" if source in kinds else "is no upstream"
        able = ", ".join(name for name, kind in kinds.items() if kind.lists_events)
        raise Refused(f"{source} {why}: backfill works for {able} only")
    return held.use(kinds[source]).happened(since)


def _keep(held: Runtime, source: str, batch: list[Mapping[str, Any]], by: str, *, dry_run: bool) -> int:
    if not dry_run:
        with held.engine.begin() as connection:
            return actions.backfill(connection, source, batch, by=by)
    ids = [str(event["id"]) for event in batch]
    wanted = select(Event.external_id).where(Event.source == source, Event.external_id.in_(ids))
    with held.engine.connect() as connection:
        return len(ids) - len(connection.execute(wanted).all())


def _listed(connection: Connection, selection: EventSelection, before: int | None, limit: int) -> list[dict[str, Any]]:
    page = Event.id < before if before is not None else true()
    chosen = select(*LISTED, Run.state.label("run_state")).outerjoin(Run, Run.id == Event.run_id)
    chosen = chosen.where(selection.condition(), page).order_by(Event.id.desc()).limit(limit)
    return [dict(row) for row in connection.execute(chosen).mappings()]


def _one(connection: Connection, event_id: int) -> dict[str, Any]:
    row = connection.execute(select(*LISTED, Event.headers, Event.body).where(Event.id == event_id)).mappings().first()
    if row is None:
        raise Refused(f"there is no event {event_id}: `headrace webhooks list` shows the newest")
    return dict(row) | {"headers": redact(row["headers"]), "body": _readable(row["body"])}


def _body(connection: Connection, event_id: int) -> bytes:
    body = connection.execute(select(Event.body).where(Event.id == event_id)).scalar()
    if body is None:
        raise Refused(f"there is no event {event_id}: `headrace webhooks list` shows the newest")
    return bytes(body)


def _pairs(typed: list[str] | None) -> tuple[tuple[str, str], ...]:
    return tuple(pairs(typed, "--field").items())


def _readable(body: bytes) -> Any:
    """Return a body as JSON where it is JSON, else as text; in both, secrets are replaced."""
    try:
        return redact(json.loads(body))
    except (ValueError, RecursionError):
        return redact_text(body.decode(errors="backslashreplace"))


def _complain(selection: EventSelection, events: list[Replayed]) -> None:
    lines = [f"event {one.event_id} was left: no job answers {one.source} {one.type}" for one in events if not one.job]
    found = {event.event_id for event in events}
    lines += [f"event {number} was left: there is no such event" for number in selection.ids if number not in found]
    for line in lines:
        typer.echo(printable(line), err=True)
    if lines and selection.ids:
        raise typer.Exit(1)

"""Alerts: what should not go on, who was told, and silence while you know already."""

from datetime import datetime
from typing import Annotated, Any

import typer
from sqlalchemy import text

from jobs._episodes import SILENCED
from workers import actions
from workers.cli.opening import acting, reading, runtime
from workers.cli.options import AsJson, By, DryRun, Limit, Reason
from workers.cli.tables import print_json, show
from workers.moments import exactly, later

app = typer.Typer(name="alerts", help="List and silence alerts; try whether they arrive.")

KindOf = Annotated[str, typer.Argument(help="A kind, such as `late`, or `all`.", show_default=False)]
Subject = Annotated[str | None, typer.Argument(help="What they are about; anything if left out.", show_default=False)]
Until = Annotated[
    datetime, typer.Option("--until", parser=later, metavar="WHEN", help="Its end: in 10m, 2h or 3d, or at a time.")
]

ALERTS = text(f"""
    SELECT id, kind, subject, sentence, opened_at, last_seen_at, resolved_at,
           CASE WHEN resolved_at IS NOT NULL THEN 'resolved' WHEN {SILENCED.format(a="alerts")} THEN 'silenced'
                ELSE 'open' END AS state,
           (SELECT coalesce(array_agg(concat_ws(' ', n.channel, n.what, coalesce(r.state, 'pruned'), 'run ' || n.run_id)
                                      ORDER BY n.what, n.channel), '{{}}')
            FROM alert_notices n LEFT JOIN runs r ON r.id = n.run_id WHERE n.alert_id = alerts.id) AS told
    FROM alerts WHERE resolved_at IS NULL OR :resolved
    ORDER BY resolved_at IS NOT NULL, id DESC LIMIT :limit
""")
SILENCES = text("""
    SELECT coalesce(nullif(kind, ''), 'all') AS kind, nullif(subject, '') AS subject, until, silenced_at, silenced_by,
           reason
    FROM silences WHERE until > now() ORDER BY until
""")

COLUMNS = {
    "id": lambda row: str(row["id"]),
    "kind": lambda row: row["kind"],
    "subject": lambda row: row["subject"],
    "state": lambda row: row["state"],
    "since": lambda row: row["opened_at"],
    "told": lambda row: row["told"],
    "what it is": lambda row: row["sentence"],
}
SILENCE_COLUMNS = {
    "kind": lambda row: row["kind"],
    "subject": lambda row: row["subject"] or "anything",
    "until": lambda row: exactly(row["until"]),
    "by": lambda row: row["silenced_by"],
    "reason": lambda row: row["reason"],
}


@app.command("list")
def list_alerts(
    *,
    resolved: Annotated[bool, typer.Option("--resolved", help="Also those that are over, newest first.")] = False,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List what should not go on, who was told, and by which run."""
    with reading() as connection:
        rows = connection.execute(ALERTS, {"resolved": resolved, "limit": limit}).mappings().all()
    empty = "no alert yet" if resolved else "no alert is open: nothing that is looked for goes wrong"
    show([dict(row) for row in rows], COLUMNS, as_json=as_json, empty=empty)


@app.command()
def silences(*, as_json: AsJson = False) -> None:
    """List about what nobody is told at the moment."""
    with reading() as connection:
        rows = connection.execute(SILENCES).mappings().all()
    show([dict(row) for row in rows], SILENCE_COLUMNS, as_json=as_json, empty="no silence: every alert is told")


@app.command()
def silence(
    kind: KindOf, until: Until, by: By, subject: Subject = None, reason: Reason = None, *, dry_run: DryRun = False
) -> None:
    """Record alerts without telling anybody, until then; what is still wrong then is told."""
    what = _named(kind, subject)
    if dry_run:
        actions.silence_name(kind, subject)
        typer.echo(f"{what} would be silent until {exactly(until)} (dry run, nothing was changed)")
        return
    with acting() as connection:
        actions.silence(connection, kind, subject, until=until, by=by, reason=reason)
    typer.echo(f"{what} are silent until {exactly(until)}")


@app.command()
def unsilence(kind: KindOf, by: By, subject: Subject = None, *, dry_run: DryRun = False) -> None:
    """End a silence now."""
    what = _named(kind, subject)
    if dry_run:
        actions.silence_name(kind, subject)
        typer.echo(f"the silence about {what} would end (dry run, nothing was changed)")
        return
    with acting() as connection:
        ended = actions.unsilence(connection, kind, subject, by=by)
    typer.echo(f"{what} are told again" if ended else f"there is no silence about {what}: nothing was changed")


@app.command("test")
def try_them(by: By, *, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Send a message through every configured channel; its "resolved" follows within minutes."""
    from jobs.alerts import COURIERS  # noqa: PLC0415 - every command would pay for its slow import

    with runtime() as held:
        couriers = {name: job for name, job in COURIERS.items() if name in held.settings.integrations}
        if dry_run:
            through = ", ".join(couriers) or "no channel, because none is configured"
            typer.echo(f"a message would be sent through {through} (dry run, nothing was changed)")
            return
        with held.engine.begin() as connection:
            runs = actions.try_alerts(connection, couriers, by=by)
    _tell(runs, as_json=as_json)


def _tell(runs: dict[str, int], *, as_json: bool) -> None:
    if as_json:
        print_json(runs)
        return
    for channel, run_id in runs.items():
        typer.echo(f"{channel}: run {run_id}")


def _named(kind: str, subject: str | None) -> str:
    alerts: Any = "all alerts" if kind == actions.ALL else f"alerts of the kind {kind}"
    return f"{alerts} about {subject}" if subject else str(alerts)

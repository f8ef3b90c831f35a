"""Rules given by operators: a new schedule for a job, another rule for one that is there, and back to the code's."""

from typing import Annotated

import typer
from sqlalchemy import Connection

import jobs
from jobs import BadRule, FirePolicy, Overlap, Rule
from workers import actions
from workers.actions import Planned
from workers.cli.opening import acting
from workers.cli.options import Arguments, By, DryRun, Reason, pairs
from workers.moments import exactly, when

Name = Annotated[str, typer.Argument(help="The schedule.", show_default=False)]
Every = Annotated[str | None, typer.Option("--every", metavar="INTERVAL", help="Fire every 90s, 15m, 2h or 1d.")]
Cron = Annotated[str | None, typer.Option("--cron", metavar="FIELDS", help="Fire by cron's five or six fields.")]
At = Annotated[str | None, typer.Option("--at", metavar="MOMENT", help="Fire once, at 2026-12-01T08:00.")]
Zone = Annotated[str, typer.Option("--zone", help="In whose time: an IANA name such as Europe/Berlin.")]
Missed = Annotated[
    str, typer.Option("--missed", help="After downtime: once, skip, each 24, or each 24 within 86400 s.")
]


def add(
    name: Name,
    by: By,
    job: Annotated[str, typer.Option("--job", help="The job that it starts.", show_default=False)],
    *,
    every: Every = None,
    cron: Cron = None,
    at: At = None,
    zone: Zone = "UTC",
    arguments: Arguments = None,
    missed: Missed = "once",
    overlap: Annotated[Overlap, typer.Option("--overlap", help="While an earlier run has not ended.")] = Overlap.JOIN,
    jitter: Annotated[float, typer.Option("--jitter", help="Seconds over which its runs are spread.")] = 0,
    dry_run: DryRun = False,
) -> None:
    """Make a schedule for a job, with arguments of its own."""
    jobs.load()
    rule = _rule(every, cron, at, zone, FirePolicy(jobs.read_missed(missed), overlap, jitter=jitter))
    with acting() as connection:
        planned = actions.add(connection, name, job, rule, pairs(arguments), by=by)
        _end(connection, f"schedule {name} starts {job}", planned, dry_run=dry_run)


def change(
    name: Name,
    by: By,
    *,
    every: Every = None,
    cron: Cron = None,
    at: At = None,
    zone: Zone = "UTC",
    as_declared: Annotated[bool, typer.Option("--as-declared", help="Fire as the code declares it again.")] = False,
    reason: Reason = None,
    dry_run: DryRun = False,
) -> None:
    """Let a schedule fire by another rule; deploys leave it so until --as-declared gives it back."""
    jobs.load()
    with acting() as connection:
        if as_declared:
            planned = actions.as_declared(connection, name, by=by, reason=reason)
        else:
            planned = actions.change(connection, name, _rule(every, cron, at, zone), by=by, reason=reason)
        _end(connection, f"schedule {name} fires", planned, dry_run=dry_run)


def remove(name: Name, by: By, *, dry_run: DryRun = False) -> None:
    """Take away a schedule that an operator made; what it recorded stays."""
    with acting() as connection:
        actions.remove(connection, name, by=by)
        if dry_run:
            connection.rollback()
    typer.echo(f"schedule {name} " + ("would be taken away (dry run, nothing was changed)" if dry_run else "is gone"))


def _rule(every: str | None, cron: str | None, at: str | None, zone: str, policy: FirePolicy | None = None) -> Rule:
    """Return the one rule that was given.

    Raises:
        BadRule: If there was none or more than one, or it cannot be read.
    """
    given = [f"{kind} {typed}" for kind, typed in (("every", every), ("cron", cron), ("at", at)) if typed is not None]
    if len(given) != 1:
        raise BadRule("give one rule: --every 15m, --cron '0 3 * * *' or --at 2026-12-01T08:00")
    return jobs.read_rule(given[0], zone, policy or FirePolicy())


def _end(connection: Connection, what: str, planned: Planned, *, dry_run: bool) -> None:
    """Say what was decided; take it back if it was only asked what would happen."""
    if dry_run:
        connection.rollback()
    rule = f"{planned.rule.text} ({planned.rule.zone}), first {exactly(planned.first)}, {when(planned.first)}"
    typer.echo(f"{what} {rule}" + (" (dry run, nothing was changed)" if dry_run else ""))

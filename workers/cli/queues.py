"""Queues: what waits in them, who serves them, holding them back and limiting them."""

from typing import Annotated

import typer

import jobs
from workers import actions, census
from workers.actions import HOLDS, RAMP
from workers.cli import holding
from workers.cli.opening import acting, reading
from workers.cli.options import AsJson, By, DryRun, Ramp, Reason, Until
from workers.cli.tables import show

app = typer.Typer(name="queues", help="List, pause, resume and limit queues.")

Name = Annotated[str, typer.Argument(help="The queue.", show_default=False)]

COLUMNS = {
    "queue": lambda queue: queue.name,
    "waiting": lambda queue: queue.waiting,
    "due": lambda queue: queue.due,
    "queued": lambda queue: queue.queued,
    "running": lambda queue: queue.running,
    "oldest due": lambda queue: queue.oldest_due_at,
    "limit": lambda queue: queue.concurrency,
    "workers": lambda queue: queue.workers,
    "paused": lambda queue: f"by {queue.paused_by}: {queue.reason or 'no reason given'}" if queue.paused_at else None,
}


@app.command("list")
def list_queues(*, as_json: AsJson = False) -> None:
    """List queues with what waits in them."""
    known = {job.queue for job in jobs.load().values()}
    with reading() as connection:
        rows = census.queues(connection, known)
    show(rows, COLUMNS, as_json=as_json, empty="there are no queues: no job declares one")


@app.command()
def pause(
    name: Name, by: By, reason: Reason = None, until: Until = None, ramp: Ramp = RAMP, *, dry_run: DryRun = False
) -> None:
    """Hold a queue: its runs stay in Postgres, what is running goes on."""
    holding.pause(HOLDS["queues"], name, by=by, dry_run=dry_run, reason=reason, until=until, ramp=ramp)


@app.command()
def resume(name: Name, by: By, ramp: Ramp = RAMP, *, dry_run: DryRun = False) -> None:
    """Let a queue go on, slowly at first."""
    holding.resume(HOLDS["queues"], name, by=by, dry_run=dry_run, ramp=ramp)


@app.command()
def limit(
    name: Name,
    by: By,
    most: Annotated[int, typer.Argument(help="Runs under way at the same time; 0 for no limit.", min=0)],
    *,
    dry_run: DryRun = False,
) -> None:
    """Let at most so many runs of a queue be under way on all workers together."""
    said = f"at most {most} runs of queue {name}" if most else f"any number of runs of queue {name}"
    if dry_run:
        with reading() as connection:
            actions.is_paused(connection, HOLDS["queues"], name)
        typer.echo(f"{said} would be under way at the same time (dry run, nothing was changed)")
        return
    with acting() as connection:
        actions.limit(connection, name, most or None, by=by)
    typer.echo(f"{said} are under way at the same time")

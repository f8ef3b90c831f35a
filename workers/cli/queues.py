"""Queues: what waits in them, who serves them, and holding them back."""

from typing import Annotated

import typer

import jobs
from workers import census
from workers.cli import holding
from workers.cli.opening import reading
from workers.cli.options import AsJson, By, DryRun, Reason
from workers.cli.tables import show

app = typer.Typer(name="queues", help="List, pause and resume queues.")

Name = Annotated[str, typer.Argument(help="The queue.", show_default=False)]

COLUMNS = {
    "queue": lambda queue: queue.name,
    "waiting": lambda queue: queue.waiting,
    "due": lambda queue: queue.due,
    "queued": lambda queue: queue.queued,
    "running": lambda queue: queue.running,
    "oldest due": lambda queue: queue.oldest_due_at,
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
def pause(name: Name, by: By, reason: Reason = None, *, dry_run: DryRun = False) -> None:
    """Hold a queue: its runs stay in Postgres, what is running goes on."""
    holding.pause("queues", name, by=by, reason=reason, dry_run=dry_run)


@app.command()
def resume(name: Name, by: By, *, dry_run: DryRun = False) -> None:
    """Let a queue go on."""
    holding.resume("queues", name, by=by, dry_run=dry_run)

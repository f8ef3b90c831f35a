"""Keys: what runs are about, such as a tenant or a sku, and holding one of them back."""

from typing import Annotated

import typer
from sqlalchemy import select

from models import Pause
from workers.actions import RAMP, keys_of
from workers.cli import holding
from workers.cli.opening import reading
from workers.cli.options import AsJson, By, DryRun, Ramp, Reason, Until
from workers.cli.tables import show

app = typer.Typer(name="keys", help="List held jobs and keys, pause and resume keys.")

Key = Annotated[str, typer.Argument(help="The key, as `runs show` names it.", show_default=False)]
OfJob = Annotated[str, typer.Option("--job", metavar="NAME", help="Only for runs of this job.")]

COLUMNS = {
    "job": lambda pause: pause["job"] or "every job",
    "key": lambda pause: pause["key"] or "every key",
    "paused": lambda pause: (
        f"by {pause['paused_by']}: {pause['reason'] or 'no reason given'}" if pause["paused_at"] else None
    ),
    "until": lambda pause: pause["paused_until"],
    "goes on since": lambda pause: pause["resumed_at"],
}


@app.command("list")
def list_held(*, as_json: AsJson = False) -> None:
    """List the jobs and keys that are held, or go on slowly after a pause."""
    with reading() as connection:
        rows = [
            dict(row) for row in connection.execute(select(Pause.__table__).order_by(Pause.job, Pause.key)).mappings()
        ]
    show(rows, COLUMNS, as_json=as_json, empty="no job and no key is held: `headrace keys pause KEY` holds one")


@app.command()
def pause(
    name: Key,
    by: By,
    job: OfJob = "",
    *,
    reason: Reason = None,
    until: Until = None,
    ramp: Ramp = RAMP,
    dry_run: DryRun = False,
) -> None:
    """Hold the runs of a key: they stay in Postgres, what is running goes on."""
    holding.pause(keys_of(job), name, by=by, dry_run=dry_run, reason=reason, until=until, ramp=ramp)


@app.command()
def resume(name: Key, by: By, job: OfJob = "", ramp: Ramp = RAMP, *, dry_run: DryRun = False) -> None:
    """Let the runs of a key go on, slowly at first."""
    holding.resume(keys_of(job), name, by=by, dry_run=dry_run, ramp=ramp)

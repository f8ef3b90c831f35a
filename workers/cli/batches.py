"""Batches: how far each is, what of it failed, and the runs that were written at its end."""

from typing import Annotated, Any

import typer
from sqlalchemy import Connection, case, select, true

from models import Batch, Run, State
from workers.actions import Refused
from workers.cli.opening import reading
from workers.cli.options import LARGEST_ID, AsJson, Before, Limit
from workers.cli.tables import print_json, show
from workers.logs import redact_text
from workers.moments import exactly

app = typer.Typer(name="batches", help="List and show batches of runs.")

Id = Annotated[int, typer.Argument(min=1, max=LARGEST_ID, metavar="ID", help="The batch.", show_default=False)]

_ENDED = Batch.succeeded + Batch.dead + Batch.cancelled
#: What is read of a batch.
LISTED = (
    Batch.id,
    Batch.name,
    Batch.total,
    (Batch.total - _ENDED).label("unfinished"),
    Batch.succeeded,
    Batch.dead,
    Batch.cancelled,
    Batch.created_at,
    Batch.finished_at,
    Batch.succeeded_at,
    Batch.on_success,
    Batch.on_finish,
    Batch.success_run_id,
    Batch.finish_run_id,
)
COLUMNS = {
    "id": lambda batch: str(batch["id"]),
    "name": lambda batch: batch["name"],
    "done": lambda batch: f"{batch['total'] - batch['unfinished']:,} of {batch['total']:,}",
    "succeeded": lambda batch: batch["succeeded"],
    "dead": lambda batch: batch["dead"],
    "cancelled": lambda batch: batch["cancelled"],
    "created": lambda batch: batch["created_at"],
    "finished": lambda batch: batch["finished_at"],
}
FAILED = {
    "id": lambda run: str(run["id"]),
    "job": lambda run: run["job"],
    "state": lambda run: run["state"],
    "ended": lambda run: exactly(run["finished_at"]),
    "error": lambda run: (run["error"] or "").partition("\n")[0],
}


@app.command("list")
def list_batches(*, before: Before = None, limit: Limit = 50, as_json: AsJson = False) -> None:
    """List batches, newest first."""
    page = Batch.id < before if before is not None else true()
    chosen = select(*LISTED).where(page, Batch.total.is_not(None)).order_by(Batch.id.desc()).limit(limit)
    with reading() as connection:
        rows = [dict(row) for row in connection.execute(chosen).mappings()]
    show(rows, COLUMNS, as_json=as_json, empty="no batch was written yet: `with batch(session, name)` writes one")


@app.command("show")
def show_batch(number: Id, *, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Show one batch: how far it is, its newest failures, and its callbacks."""
    with reading() as connection:
        found = connection.execute(select(*LISTED).where(Batch.id == number)).mappings().one_or_none()
        if found is None:
            raise Refused(f"there is no batch {number}: `headrace batches list` shows the newest")
        failed = _failed(connection, number, limit)
    if as_json:
        print_json(dict(found) | {"failed": failed})
        return
    show([found], COLUMNS, as_json=False, empty="")
    for word, callback, written in (
        ("all have succeeded", found["on_success"], found["success_run_id"]),
        ("all have ended", found["on_finish"], found["finish_run_id"]),
    ):
        if callback:
            typer.echo(f"when {word}: {callback['job']}" + (f", which is run {written}" if written else ""))
    show(failed, FAILED, as_json=False, empty=f"none failed; all of them: `headrace runs list --batch {number}`")


def _failed(connection: Connection, number: int, limit: int) -> list[dict[str, Any]]:
    """Return the newest members that are dead or cancelled, the dead first."""
    failed = Run.state.in_((State.DEAD, State.CANCELLED))
    chosen = select(Run.id, Run.job, Run.state, Run.finished_at, Run.error).where(Run.batch_id == number, failed)
    dead_first = case((Run.state == State.DEAD, 0), else_=1)
    rows = connection.execute(chosen.order_by(dead_first, Run.finished_at.desc(), Run.id).limit(limit))
    return [dict(row) | {"error": redact_text(row["error"] or "") or None} for row in rows.mappings()]

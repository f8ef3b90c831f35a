"""Runs: find them, look at one, run them again, cancel them, discard them."""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from sqlalchemy import Connection, func, select, true

from models import Run, State
from workers import actions
from workers.actions import CANCEL, DISCARD, RETRY, Move, Moved, Selection
from workers.cli import story
from workers.cli.life import clean, word
from workers.cli.opening import acting, reading
from workers.cli.options import LARGEST_ID, Arguments, AsJson, Before, By, DryRun, Limit, Since, pairs
from workers.cli.tables import print_json, show

app = typer.Typer(name="runs", help="List, show, retry, cancel and discard runs.")

Id = Annotated[int, typer.Argument(min=1, max=LARGEST_ID, metavar="ID", help="The run.", show_default=False)]
Ids = Annotated[list[int] | None, typer.Argument(min=1, max=LARGEST_ID, metavar="ID", help="Runs.", show_default=False)]
States = Annotated[list[State] | None, typer.Option("--state", help="Only these states; may be given more than once.")]
JobName = Annotated[str | None, typer.Option("--job", metavar="NAME", help="Only runs of this job.")]
QueueName = Annotated[str | None, typer.Option("--queue", metavar="NAME", help="Only runs of this queue.")]
ErrorPart = Annotated[str | None, typer.Option("--error", metavar="TEXT", help="Only runs whose error contains this.")]

#: What a listing reads of a run.
LISTED = (
    Run.id,
    Run.job,
    Run.queue,
    Run.state,
    Run.attempt,
    Run.failures,
    Run.max_attempts,
    Run.args,
    Run.created_at,
    Run.due_at,
    Run.started_at,
    Run.finished_at,
    Run.progress,
    Run.result,
    Run.error,
    Run.schedule,
    Run.slot_at,
    Run.event_id,
)
#: What the moves do, as their help.
MOVES = {
    RETRY: "Run again: any ended run by id; by filters the dead ones, unless --state says otherwise.",
    CANCEL: "Cancel waiting and queued runs, and ask running ones to stop at their next check.",
    DISCARD: "Put dead runs aside for good; they stay listed as cancelled.",
}
#: Ids that are said one by one when a move is told.
_TOLD = 10

#: Characters of an error in a listing; `runs show` has all of it.
LONGEST_ERROR = 60
COLUMNS = {
    "id": lambda run: str(run["id"]),
    "job": lambda run: run["job"],
    "state": lambda run: word(run, run["now"]),
    "attempt": lambda run: run["attempt"],
    "created": lambda run: run["created_at"],
    "due": lambda run: run["due_at"] if run["state"] == State.WAITING else None,
    "ended": lambda run: run["finished_at"],
    "error": lambda run: (run["error"] or "").partition("\n")[0][:LONGEST_ERROR],
}


@app.command("list")
def list_runs(
    *,
    state: States = None,
    job: JobName = None,
    queue: QueueName = None,
    error: ErrorPart = None,
    since: Since = None,
    arguments: Arguments = None,
    before: Before = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    selection = Selection(
        states=tuple(state or ()), job=job, queue=queue, error=error, since=since, arguments=pairs(arguments)
    )
    with reading() as connection:
        rows = _listed(connection, selection, before, limit)
    if as_json:
        print_json([{name: value for name, value in row.items() if name != "now"} for row in rows])
        return
    show(rows, COLUMNS, as_json=False, empty="no run matches: `headrace run JOB` makes one")
    if len(rows) == limit:
        typer.echo(f"older ones: --before {rows[-1]['id']}", err=True)


@app.command("show")
def show_run(run: Id, *, as_json: AsJson = False) -> None:
    """Show one run: where it stands and why, its attempts and what it said."""
    with reading() as connection:
        told = story.read(connection, run)
    if as_json:
        print_json(story.as_object(told))
    else:
        story.tell(told)


def _mover(kind: Move) -> Callable[..., None]:
    def act(
        *,
        ids: Ids = None,
        state: States = None,
        job: JobName = None,
        queue: QueueName = None,
        error: ErrorPart = None,
        since: Since = None,
        arguments: Arguments = None,
        dry_run: DryRun = False,
        as_json: AsJson = False,
        by: By,
    ) -> None:
        selection = Selection(
            ids=tuple(ids or ()),
            states=tuple(state or ()),
            job=job,
            queue=queue,
            error=error,
            since=since,
            arguments=pairs(arguments),
        )
        _move(kind, selection, by, dry_run=dry_run, as_json=as_json)

    return act


for move, summary in MOVES.items():
    app.command(move.verb, help=summary)(_mover(move))


def _listed(connection: Connection, selection: Selection, before: int | None, limit: int) -> list[dict[str, Any]]:
    page = Run.id < before if before is not None else true()
    chosen = select(*LISTED, func.now().label("now")).where(selection.condition(), page)
    return [clean(dict(row)) for row in connection.execute(chosen.order_by(Run.id.desc()).limit(limit)).mappings()]


def _move(kind: Move, selection: Selection, by: str, *, dry_run: bool, as_json: bool) -> None:
    if dry_run:
        with reading() as connection:
            moved = actions.candidates(connection, kind, selection)
    else:
        with acting() as connection:
            moved = actions.move(connection, kind, selection, by=by)
    if as_json:
        print_json({"action": kind.verb, "dry_run": dry_run, "count": len(moved.ids)} | vars(moved))
    else:
        typer.echo(_told(kind, moved, dry_run=dry_run))
    for number, reason in moved.left.items():
        typer.echo(f"run {number} stays as it is: {reason}", err=True)
    if moved.left:
        raise typer.Exit(1)


def _told(kind: Move, moved: Moved, *, dry_run: bool) -> str:
    count = f"{len(moved.ids):,} run{'' if len(moved.ids) == 1 else 's'}"
    ids = ": " + ", ".join(map(str, moved.ids[:_TOLD])) + (", ..." if len(moved.ids) > _TOLD else "")
    verb = f"would be touched by {kind.verb} (dry run, nothing was changed)" if dry_run else kind.done
    return f"{count} {verb}{ids if moved.ids else ''}"

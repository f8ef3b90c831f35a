"""Runs: find them, look at one, and move one or many."""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from sqlalchemy import Connection, func, select, true

from jobs import Priority
from models import NEVER, Run, State
from workers import story
from workers.actions import CANCEL, DISCARD, RESTORE, RETRY, Care, Move, Selection, prioritise
from workers.cli import moving, redrives
from workers.cli.opening import reading
from workers.cli.options import LARGEST_ID, Arguments, AsJson, Before, By, DryRun, Limit, Reason, Since, pairs
from workers.cli.story import tell
from workers.cli.tables import print_json, show
from workers.life import clean, word

app = typer.Typer(name="runs", help="List, show, retry, cancel, discard, restore and prioritise runs.")

PRIORITIES = ", ".join(priority.name.lower() for priority in Priority)


def urgency(typed: str) -> Priority:
    """Read a priority by its name.

    Raises:
        typer.BadParameter: If it is none.
    """
    try:
        return Priority[typed.upper()]
    except KeyError:
        raise typer.BadParameter(f"{typed!r} is no priority: give one of {PRIORITIES}") from None


Id = Annotated[int, typer.Argument(min=1, max=LARGEST_ID, metavar="ID", help="The run.", show_default=False)]
Ids = Annotated[list[int] | None, typer.Argument(min=1, max=LARGEST_ID, metavar="ID", help="Runs.", show_default=False)]
States = Annotated[list[State] | None, typer.Option("--state", help="Only these states; may be given more than once.")]
JobName = Annotated[str | None, typer.Option("--job", metavar="NAME", help="Only runs of this job.")]
QueueName = Annotated[str | None, typer.Option("--queue", metavar="NAME", help="Only runs of this queue.")]
Canary = Annotated[
    int | None, typer.Option("--canary", min=1, metavar="N", help="Try so many first, and wait for what they come to.")
]
Rate = Annotated[
    float | None, typer.Option("--rate", min=0.001, max=10_000, metavar="R", help="So many a second at most.")
]
StopAt = Annotated[
    int | None,
    typer.Option("--stop-at", min=0, max=100, metavar="PERCENT", help="Stop when more of the tried ones fail again."),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Begin, print the redrive's id and do not watch it.")]
To = Annotated[Priority, typer.Option("--to", parser=urgency, metavar="PRIORITY", help=f"One of {PRIORITIES}.")]
BatchId = Annotated[
    int | None, typer.Option("--batch", min=1, max=LARGEST_ID, metavar="ID", help="Only members of this batch.")
]
ErrorPart = Annotated[str | None, typer.Option("--error", metavar="TEXT", help="Only runs whose error contains this.")]

#: What a listing reads of a run.
LISTED = (
    Run.id,
    Run.job,
    Run.queue,
    Run.state,
    Run.priority,
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
    Run.discarded_at,
    Run.schedule,
    Run.slot_at,
    Run.event_id,
    Run.batch_id,
    Run.after_id,
    Run.parent_id,
)
#: What the moves that need no more than a selection do, as their help.
MOVES = {
    CANCEL: "Cancel waiting and queued runs, and ask running ones to stop at their next check.",
    DISCARD: "Put dead runs aside; they stay listed as cancelled, and `restore` brings them back for a day.",
    RESTORE: "Bring back runs that were discarded within the last 24 hours: dead, as they were.",
}

#: Characters of an error in a listing; `runs show` has all of it.
LONGEST_ERROR = 60
COLUMNS = {
    "id": lambda run: str(run["id"]),
    "job": lambda run: run["job"],
    "state": lambda run: word(run, run["now"]),
    "attempt": lambda run: run["attempt"],
    "created": lambda run: run["created_at"],
    "due": lambda run: _due(run) if run["state"] == State.WAITING else None,
    "ended": lambda run: run["finished_at"],
    "error": lambda run: (run["error"] or "").partition("\n")[0][:LONGEST_ERROR],
}


@app.command("list")
def list_runs(
    *,
    state: States = None,
    job: JobName = None,
    queue: QueueName = None,
    batch: BatchId = None,
    error: ErrorPart = None,
    since: Since = None,
    arguments: Arguments = None,
    before: Before = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    states = tuple(state or ())
    selection = Selection(
        states=states, job=job, queue=queue, batch=batch, error=error, since=since, arguments=pairs(arguments)
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
        tell(told)


@app.command()
def retry(
    *,
    ids: Ids = None,
    state: States = None,
    job: JobName = None,
    queue: QueueName = None,
    batch: BatchId = None,
    error: ErrorPart = None,
    since: Since = None,
    arguments: Arguments = None,
    canary: Canary = None,
    rate: Rate = None,
    stop_at: StopAt = None,
    no_wait: NoWait = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    by: By,
) -> None:
    """Run again: any ended run by id; by filters the dead ones, unless --state says otherwise.

    With --canary, --rate or --stop-at, dead runs are run again with care, by the relays: this command only watches.
    """
    selection = Selection(
        ids=tuple(ids or ()),
        states=tuple(state or ()),
        job=job,
        queue=queue,
        batch=batch,
        error=error,
        since=since,
        arguments=pairs(arguments),
    )
    if dry_run or canary == rate == stop_at is None:
        moving.apply(RETRY, selection, by, dry_run=dry_run, as_json=as_json)
        return
    care = Care(canary=canary, rate=rate) if stop_at is None else Care(canary=canary, rate=rate, stop_at=stop_at)
    redrives.begin(selection, care, by, no_wait=no_wait, as_json=as_json)


def _mover(chosen: Move) -> Callable[..., None]:
    def act(
        *,
        ids: Ids = None,
        state: States = None,
        job: JobName = None,
        queue: QueueName = None,
        batch: BatchId = None,
        error: ErrorPart = None,
        since: Since = None,
        arguments: Arguments = None,
        reason: Reason = None,
        dry_run: DryRun = False,
        as_json: AsJson = False,
        by: By,
    ) -> None:
        selection = Selection(
            ids=tuple(ids or ()),
            states=tuple(state or ()),
            job=job,
            queue=queue,
            batch=batch,
            error=error,
            since=since,
            arguments=pairs(arguments),
        )
        moving.apply(chosen, selection, by, dry_run=dry_run, as_json=as_json, reason=reason)

    return act


for move, summary in MOVES.items():
    app.command(move.verb, help=summary)(_mover(move))


@app.command("prioritise")
def prioritise_runs(
    *,
    to: To,
    ids: Ids = None,
    job: JobName = None,
    queue: QueueName = None,
    batch: BatchId = None,
    error: ErrorPart = None,
    since: Since = None,
    arguments: Arguments = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    by: By,
) -> None:
    """Make waiting runs more or less urgent; those that are on the broker already keep their place there."""
    selection = Selection(
        ids=tuple(ids or ()),
        job=job,
        queue=queue,
        batch=batch,
        error=error,
        since=since,
        arguments=pairs(arguments),
    )
    moving.apply(prioritise(to), selection, by, dry_run=dry_run, as_json=as_json)


def _due(run: dict[str, Any]) -> Any:
    return f"after run {run['after_id']}" if run["due_at"] == NEVER else run["due_at"]


def _listed(connection: Connection, selection: Selection, before: int | None, limit: int) -> list[dict[str, Any]]:
    page = Run.id < before if before is not None else true()
    chosen = select(*LISTED, func.now().label("now")).where(selection.condition(), page)
    return [clean(dict(row)) for row in connection.execute(chosen.order_by(Run.id.desc()).limit(limit)).mappings()]

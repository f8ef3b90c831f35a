"""A command that is a job: it is enqueued, waited for, and its result is the command's."""

from typing import Annotated, Any

import typer

from workers import actions
from workers.cli.opening import runtime
from workers.cli.waiting import follow

NoWait = Annotated[bool, typer.Option("--no-wait", help="Print the run's id and do not wait for its end.")]


def perform(
    job: str, arguments: dict[str, str], by: str, timeout: float | None, *, no_wait: bool, as_json: bool
) -> dict[str, Any]:
    """Enqueue a job and wait for its end; return its result, empty if nobody waits.

    Raises:
        typer.Exit: As `follow`.
    """
    with runtime() as held:
        with held.engine.begin() as connection:
            run_id = actions.enqueue(connection, job, arguments, by=by)
        if no_wait:
            typer.echo(str(run_id))
            return {}
        return follow(held.engine, run_id, timeout=timeout, as_json=as_json).run["result"] or {}

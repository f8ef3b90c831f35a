"""Running a job by hand: one run like any other, with the person in the audit."""

from typing import Annotated

import typer

from workers import actions
from workers.cli.opening import runtime
from workers.cli.options import Arguments, AsJson, By, pairs
from workers.cli.tables import print_json
from workers.cli.waiting import follow

Timeout = Annotated[float | None, typer.Option("--timeout", min=0.0, metavar="SECONDS", help="Wait at most so long.")]


def run(
    job: Annotated[str, typer.Argument(help="Name of the job; `headrace jobs` lists them.", show_default=False)],
    by: By,
    arguments: Arguments = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end; exit 0 only if it succeeded.")] = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Enqueue a job and print the run's id, or with --wait its result."""
    if timeout is not None and not wait:
        raise typer.BadParameter("--timeout says how long to wait: give --wait with it")
    with runtime() as held:
        with held.engine.begin() as connection:
            run_id = actions.enqueue(connection, job, pairs(arguments), by=by)
        if wait:
            follow(held.engine, run_id, timeout=timeout, as_json=as_json)
        elif as_json:
            print_json({"id": run_id, "job": job})
        else:
            typer.echo(str(run_id))

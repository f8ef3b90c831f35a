"""The jobs of this system: what can be run, when it runs by itself, what it answers, and holding one back."""

import inspect
from typing import Annotated, Any, get_args, get_origin

import typer

import jobs as registry
from jobs import Job
from workers.actions import HOLDS, RAMP
from workers.cli import holding
from workers.cli.options import AsJson, By, DryRun, Ramp, Reason, Until
from workers.cli.tables import show

app = typer.Typer(name="jobs", invoke_without_command=True, help="List jobs, pause and resume them.")

Name = Annotated[str, typer.Argument(help="The job.", show_default=False)]

COLUMNS = {
    "job": lambda job: job["name"],
    "queue": lambda job: job["queue"],
    "schedule": lambda job: job["schedule"],
    "events": lambda job: len(job["on"]) or None,
    "attempts": lambda job: job["max_attempts"],
    "arguments": lambda job: job["arguments"],
}


@app.callback()
def jobs(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the jobs, with their queue, schedule, events and arguments."""
    if context.invoked_subcommand is not None:
        return
    rows = [_row(job) for _, job in sorted(registry.load().items())]
    show(rows, COLUMNS, as_json=as_json, empty="there are no jobs: write one in jobs/")


@app.command()
def pause(
    name: Name, by: By, reason: Reason = None, until: Until = None, ramp: Ramp = RAMP, *, dry_run: DryRun = False
) -> None:
    """Hold a job: its runs stay in Postgres, what is running goes on."""
    holding.pause(HOLDS["jobs"], name, by=by, dry_run=dry_run, reason=reason, until=until, ramp=ramp)


@app.command()
def resume(name: Name, by: By, ramp: Ramp = RAMP, *, dry_run: DryRun = False) -> None:
    """Let a job go on, slowly at first."""
    holding.resume(HOLDS["jobs"], name, by=by, dry_run=dry_run, ramp=ramp)


def _row(job: Job[Any]) -> dict[str, Any]:
    return {
        "name": job.name,
        "queue": job.queue,
        "schedule": f"{job.schedule.text} ({job.schedule.zone})" if job.schedule else None,
        "on": [f"{key.source}:{key.type}" for key in job.on],
        "max_attempts": job.max_attempts,
        "priority": job.priority.name.lower(),
        "key": job.key,
        "limit": job.limit,
        "per_key": job.per_key,
        "ordered": job.ordered,
        "time_limit_seconds": job.time_limit,
        "arguments": [_shown(parameter) for parameter in _parameters(job)],
        "summary": (inspect.getdoc(job.function) or "").partition("\n")[0],
    }


def _shown(parameter: inspect.Parameter) -> str:
    """Return name, type and default; the bounds of a value are told to whoever passes them."""
    kind = parameter.annotation
    return str(parameter.replace(annotation=get_args(kind)[0] if get_origin(kind) is Annotated else kind))


def _parameters(job: Job[Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(job.function).parameters.values())[1:]

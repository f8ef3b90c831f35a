"""The commands put together, and the one place where what went wrong becomes a line and an exit code."""

import gc
import sys

import typer

from workers.cli import (
    alerts,
    audit,
    batches,
    doctor,
    importing,
    jobs,
    keys,
    migrate,
    orders,
    processes,
    queues,
    redrives,
    run,
    runs,
    schedules,
    search,
    streams,
    upstreams,
    users,
    webhooks,
)
from workers.cli.failures import explain

app = typer.Typer(
    name="headrace",
    help="Background jobs and integrations for shops: nothing lost, nothing done twice, every wait explained.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (migrate.migrate, doctor.doctor, run.run, processes.processes, audit.audit):
    app.command()(command)
app.add_typer(jobs.app)
NOUNS = (
    runs,
    redrives,
    batches,
    queues,
    keys,
    schedules,
    upstreams,
    webhooks,
    streams,
    importing,
    search,
    orders,
    alerts,
    users,
)
for noun in NOUNS:
    app.add_typer(noun.app, no_args_is_help=True)


def main() -> None:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")  # a terminal that lacks a sign shows a question mark instead of failing
    gc.freeze()  # what was read so far is no garbage: to look through it takes a fifth of the time of a command
    sys.exit(answer(sys.argv[1:]))


def answer(arguments: list[str]) -> int:
    """Run one command line and return its exit code; what went wrong is one line on standard error."""
    try:
        code = app(arguments or ["--help"], prog_name="headrace", standalone_mode=False)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        failure = explain(error)
        if failure is None:
            raise
        if failure.sentence:  # help that was asked for by saying nothing is printed already
            typer.echo(failure.sentence, err=True)
        return failure.code
    return code if isinstance(code, int) else 0

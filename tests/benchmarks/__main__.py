"""`make bench`: one question after the other, ours beside the peers, in one run on the same servers.

    drain        no-op runs per second from a full queue
    enqueue      jobs per second that are enqueued in bulk and one by one
    transaction  what an enqueue adds to the business transaction it rides in
    latency      from the call of enqueue to the start of the job, at 200 a second
    waiting      jobs that wait 10 ms, at concurrency 32, beside the ideal
    history      the cost of a run beside up to five million rows of history
    ticks        the scheduler's cost with ten thousand schedules that are due at once
    ingress      signed webhooks per second at 64 connections, beside a plain insert for each and pgbench
    sync         the whole catalogue from the stand-in warehouse into Postgres, beside a bare COPY

Figures of different machines or runs do not compare; the ratios within one run do.
"""

import sys
from contextlib import ExitStack
from typing import Annotated

import typer
from rich.console import Console

from sandbox.fleet import ROOT
from tests.benchmarks import drain, enqueue, history, ingress, latency, report, sync, ticks, transaction, waiting
from tests.benchmarks.contestants import CONTESTANTS, Contestant
from tests.benchmarks.ground import Ground
from tests.benchmarks.plan import Plan

QUESTIONS = {
    "drain": drain.measure,
    "enqueue": enqueue.measure,
    "transaction": transaction.measure,
    "latency": latency.measure,
    "waiting": waiting.measure,
    "history": history.measure,
    "ticks": ticks.measure,
    "ingress": ingress.measure,
    "sync": sync.measure,
}
DOCUMENT = ROOT / "docs" / "benchmarks.md"

app = typer.Typer(add_completion=False)


@app.command()
def bench(
    questions: Annotated[
        list[str] | None, typer.Argument(help=f"Any of {', '.join(QUESTIONS)}; all by default.")
    ] = None,
    only_peer: Annotated[list[str] | None, typer.Option(help="Measure only these contestants.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of each contestant.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="One short round: does everything run?")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Write the tables into docs/benchmarks.md.")] = False,
) -> None:
    """Measure and print tables."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    chosen = _chosen(questions or list(QUESTIONS))
    contestants = _contestants(only_peer)
    if keep and (quick or only_peer):
        raise typer.BadParameter("a quick run, or one without all peers, is nothing to keep: leave --keep out")
    with ExitStack() as stack:
        ground = stack.enter_context(Ground.start())
        plan = Plan(ground, contestants, 1 if quick else repeats, quick, lambda word: console.print(word, style="dim"))
        for question in chosen:
            table = QUESTIONS[question](plan)
            table.draw(console)
            if keep:
                report.keep(DOCUMENT, question, table, report.machine(ground))


def _chosen(names: list[str]) -> list[str]:
    if unknown := [name for name in names if name not in QUESTIONS]:
        raise typer.BadParameter(f"no question is called {unknown[0]!r}: choose from {', '.join(QUESTIONS)}")
    return names


def _contestants(names: list[str] | None) -> list[Contestant]:
    known = {contestant.name: contestant for contestant in CONTESTANTS}
    if unknown := [name for name in names or [] if name not in known]:
        raise typer.BadParameter(f"no peer is called {unknown[0]!r}: choose from {', '.join(known)}")
    return [contestant for contestant in CONTESTANTS if not names or contestant.name in names]


if __name__ == "__main__":
    app()

"""`make chaos`: everything is killed, frozen, cut, wiped and restarted under load, and then it has to add up."""

import secrets
import sys
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.chaos.sabotage import SABOTAGES
from tests.chaos.trial import Plan, Verdict, conduct


def main(
    minutes: Annotated[float, typer.Option(min=0, help="Minutes of faults.")] = 5.0,
    seed: Annotated[int | None, typer.Option(help="Seed of faults and load; a new one by default.")] = None,
    rate: Annotated[float, typer.Option(min=1, help="Runs enqueued per second.")] = 120.0,
    broker: Annotated[str, typer.Option(help="Address of another broker; a private Valkey by default.")] = "",
    sabotage: Annotated[str, typer.Option(help="Break the settled ledger first: this must be reported.")] = "",
) -> None:
    """Exit with 0 if every invariant holds, and with 1, the seed and the first violations if not."""
    if sabotage and sabotage not in SABOTAGES:
        raise typer.BadParameter(f"choose --sabotage from {', '.join(SABOTAGES)}")
    drawn = secrets.randbelow(1_000_000) if seed is None else seed
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"chaos with seed {drawn}: {minutes:g} minutes of faults", style="bold")
    began = time.monotonic()
    verdict = conduct(Plan(drawn, minutes * 60, rate, broker, sabotage))
    _show(console, verdict, time.monotonic() - began)
    if not verdict.good:
        _complain(console, verdict, drawn)
        raise typer.Exit(1)
    console.print(f"Everything adds up; each of {len(SABOTAGES)} sabotages was noticed.", style="green")


def _show(console: Console, verdict: Verdict, seconds: float) -> None:
    table = Table(show_header=False)
    for title, figures in verdict.figures.items():
        table.add_section()
        for name, figure in figures.items():
            table.add_row(title, name, str(figure))
            title = ""  # noqa: PLW2901 - shown once
    table.add_row("", "seconds in all", f"{seconds:.0f}")
    console.print(table)


def _complain(console: Console, verdict: Verdict, seed: int) -> None:
    for violation in verdict.violations:
        console.print(f"VIOLATED: {violation.invariant}: {violation.what}", style="red", highlight=False)
    for name in verdict.unnoticed:
        console.print(f"NOT NOTICED: the sabotage {name}: no invariant reports it", style="red")
    console.print(f"It does not add up. Again: --seed {seed}; the logs are in {verdict.logs}.", style="red")


if __name__ == "__main__":
    typer.run(main)

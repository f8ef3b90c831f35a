"""Waiting for a run: on a terminal a moving bar, elsewhere one quiet line for each thing that changed.

Whoever waits only looks. The run belongs to the workers: Ctrl-C or a timeout ends the waiting and not the work.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from sqlalchemy import Engine

from models import FINAL, State
from workers.cli.tables import print_json, printable
from workers.life import Life, look, why

#: Seconds between two looks.
EVERY = 0.2
#: Exit code of somebody who pressed Ctrl-C.
INTERRUPTED = 130


class Watcher(Protocol):
    """Somebody who is told how the run stands at each look."""

    def __call__(self, life: Life) -> None: ...


def follow(engine: Engine, run_id: int, *, timeout: float | None, as_json: bool = False) -> Life:
    """Wait for a run to end, say how it ended, and leave with exit code 1 if it did not succeed.

    Args:
        engine: The database.
        run_id: The run.
        timeout: Seconds to wait at most.
        as_json: Print the ended run as one JSON object instead of its result.

    Raises:
        typer.Exit: If it died or was cancelled, if it took too long, or if Ctrl-C was pressed.
    """
    try:
        with _watcher() as watch:
            life = _until_final(engine, run_id, timeout, watch)
    except KeyboardInterrupt:
        typer.echo(f"run {run_id} goes on without you: `headrace runs show {run_id}`", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _tell(life, as_json=as_json)
    if life.run["state"] != State.SUCCEEDED:
        raise typer.Exit(1)
    return life


def _until_final(engine: Engine, run_id: int, timeout: float | None, watch: Watcher) -> Life:
    deadline = time.monotonic() + timeout if timeout is not None else None
    while True:
        with engine.connect() as connection:
            life = look(connection, run_id)
        watch(life)
        if life.run["state"] in FINAL or (deadline is not None and time.monotonic() >= deadline):
            return life
        time.sleep(EVERY)


def _tell(life: Life, *, as_json: bool) -> None:
    run = life.run
    if as_json:
        print_json({"why": why(life)} | run)
    elif run["state"] == State.SUCCEEDED and run["result"] is not None:
        print_json(run["result"])
    if run["state"] not in FINAL:
        typer.echo(f"run {run['id']} has not ended and goes on: {why(life)}", err=True)
    elif run["state"] != State.SUCCEEDED:
        typer.echo(f"run {run['id']} {why(life)}", err=True)


@contextmanager
def _watcher() -> Iterator[Watcher]:
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress)


class _Lines:
    """Writes a line when what the run does has changed; how far it is goes unsaid."""

    def __init__(self) -> None:
        self._said: tuple[Any, ...] = ()

    def __call__(self, life: Life) -> None:
        run = life.run
        now = (run["state"], run["attempt"], life.blocker and life.blocker.kind)
        if now != self._said and run["state"] not in FINAL:
            typer.echo(f"run {run['id']} {run['job']}: {why(life)}", err=True)
        self._said = now


class _Bar:
    """Moves a bar on the terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def __call__(self, life: Life) -> None:
        run, step = life.run, life.run["progress"] or {}
        said = step.get("note") if run["state"] == State.RUNNING else why(life)
        description = printable(f"{run['job']} {said or run['state']}").replace("[", r"\[")
        self._progress.update(
            self._task, description=description, completed=step.get("done") or 0, total=step.get("total")
        )

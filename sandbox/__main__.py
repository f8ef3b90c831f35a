"""The sandbox's programs: `python -m sandbox services|demo|up`.

Standard output carries only what another program may read; everything meant for people goes to standard error.
"""

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from sandbox import demo as demonstration
from sandbox import up as everything
from sandbox._process import ServerStartError
from sandbox.services import Services
from sandbox.stage import NotSettled

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def sandbox() -> None:
    """Headrace on this machine alone: embedded servers and stand-in upstreams."""


@app.command()
def services(
    root: Annotated[Path, typer.Option(help="Folder for the servers' data.")] = Path(".sandbox"),
) -> None:
    """Run Postgres, Valkey and the search server until interrupted; print their addresses as NAME=value lines."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    print("Starting Postgres, Valkey and the search server ...", file=sys.stderr)
    try:
        with Services.start(name="services", root=root) as running:
            for name, value in running.environment().items():
                print(f"{name}={value}", flush=True)
            print("Ready. Ctrl-C stops them.", file=sys.stderr)
            threading.Event().wait()
    except ServerStartError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(code=1) from error


Products = Annotated[int, typer.Option(min=1, max=92_331, help="Products of the stand-in warehouse.")]
Stores = Annotated[int, typer.Option(min=1, max=20, help="Its stores.")]


@app.command()
def demo(
    products: Products = 5_000,
    stores: Stores = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
    tamper: Annotated[bool, typer.Option(help="Falsify one stock level first: the demo must notice and fail.")] = False,
) -> None:
    """Perform the main job end to end and prove that it adds up; exit code 0 only if it does."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _abandon)
    try:
        code = demonstration.run(products=products, stores=stores, as_json=as_json, tamper=tamper)
    except ServerStartError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(code=1) from error
    raise typer.Exit(code=code)


@app.command()
def up(
    products: Products = 5_000,
    stores: Stores = 5,
    rate: Annotated[float, typer.Option(min=0, help="Sale lines replayed per second.")] = 3.0,
) -> None:
    """Run everything with live stock changes until Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        everything.run(products=products, stores=stores, rate=rate)
    except (NotSettled, RuntimeError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(code=1) from error


def _leave(_number: int, _frame: FrameType | None) -> None:
    _end(0)


def _abandon(number: int, _frame: FrameType | None) -> None:
    # What was interrupted has proved nothing: the exit code is the shell's for a program that a signal ended.
    _end(128 + number)


def _end(code: int) -> NoReturn:
    # Once is enough: a second Ctrl-C must not interrupt the clean-up. Nothing is ignored outright, for a server
    # that is being started at this moment would inherit that and not hear our request to stop.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stay)
    raise SystemExit(code)


def _stay(_number: int, _frame: FrameType | None) -> None:
    """Finish the clean-up that is under way."""


if __name__ == "__main__":
    app(prog_name="python -m sandbox")

"""`make up`: everything running, with live sales, until Ctrl-C.

Members that die are started again, so anybody may kill one and watch the system heal. What the processes read is
written to `.sandbox/up.env` while they run, so that the command line can join in:

    set -a; . .sandbox/up.env; .venv/bin/headrace doctor
"""

import json
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from sandbox.fleet import ROOT
from sandbox.stage import Stage

ENVIRONMENT = ROOT / ".sandbox" / "up.env"

screen = Console(stderr=True)

#: Who may do everything on the pages, with a password that is drawn at each start.
ADMIN = "admin"

#: Seconds between two looks at the members.
WATCH = 0.5


def run(*, products: int, stores: int, rate: float) -> None:
    """Run everything until interrupted.

    Args:
        products: Products of the stand-in warehouse.
        stores: Its stores.
        rate: Sale lines replayed per second.
    """
    with ExitStack() as running:
        with screen.status("starting Postgres, Valkey, search, the warehouse, Stripe and Headrace"):
            stage = running.enter_context(Stage.start("up", products=products, stores=stores))
            running.enter_context(written(stage.environment, ENVIRONMENT))
            stage.start_all()
        running.callback(screen.print, "Stopping ...")
        screen.print(f"Dashboard  [bold]{stage.web_url}/[/bold]")
        screen.print(f"Sign in    as [bold]{ADMIN}[/bold] with [bold]{_admin(stage)}[/bold]")
        screen.print(f"Commands   set -a; . {ENVIRONMENT.relative_to(ROOT)}; .venv/bin/headrace doctor")
        screen.print(f"Logs       {stage.fleet.folder.relative_to(ROOT)}")
        screen.print("Ctrl-C stops it all.", style="dim")
        stage.headrace("run", "warehouse.sync")
        stage.upstreams.admin.live(rate)
        _watch(stage)


def _admin(stage: Stage) -> str:
    """Make the user that signs in; return the password."""
    made = stage.headrace("users", "add", ADMIN, "--role", "admin", "--by", "make up", "--json")
    return str(json.loads(made.stdout)["password"])


def _watch(stage: Stage) -> NoReturn:
    while True:
        time.sleep(WATCH)
        for name in (*stage.services.supervise(), *stage.fleet.supervise()):
            screen.print(f"[yellow]{name} ended and was started again[/yellow]")


@contextmanager
def written(environment: Mapping[str, str], path: Path) -> Iterator[None]:
    """Keep the environment in a file that a shell can read, for as long as the block lasts."""
    path.touch(mode=0o600)
    path.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in environment.items()))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)

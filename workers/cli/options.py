"""The options that commands share, so that each is spelled and explained once."""

import getpass
import os
from datetime import datetime
from typing import Annotated

import typer

from workers.moments import later, moment

#: The largest id that Postgres can hold.
LARGEST_ID = 2**63 - 1


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        return f"uid {os.getuid()}"


def pairs(typed: list[str] | None, option: str = "--arg") -> dict[str, str]:
    """Read `name=value` pairs.

    Raises:
        typer.BadParameter: If one has no `=`, no name, or a name that came before.
    """
    found: dict[str, str] = {}
    for pair in typed or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{option} {pair!r} is no pair: write {option} name=value")
        if name in found:
            raise typer.BadParameter(f"{option} {name}=... was given twice: give it once")
        found[name] = value
    return found


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")]
By = Annotated[str, typer.Option("--by", help="Who does this, for the audit.", default_factory=_login)]
Reason = Annotated[str | None, typer.Option("--reason", help="Why, for whoever finds it later.")]
Until = Annotated[
    datetime | None,
    typer.Option("--until", parser=later, metavar="WHEN", help="Go on by itself: in 10m, 2h or 3d, or at a time."),
]
Ramp = Annotated[int, typer.Option("--ramp", min=0, max=86_400, help="Seconds until it goes on fully; 0: at once.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Rows at most.")]
Before = Annotated[
    int | None,
    typer.Option("--before", min=1, max=LARGEST_ID, metavar="ID", help="Only rows before this id: the next page."),
]
Since = Annotated[
    datetime | None,
    typer.Option("--since", parser=moment, metavar="WHEN", help="Since 10m, 2h or 3d ago, or 2026-11-23T05:00 (UTC)."),
]
Arguments = Annotated[
    list[str] | None, typer.Option("--arg", metavar="NAME=VALUE", help="An argument; may be given more than once.")
]

"""Pausing and resuming, told in the same words for whatever can be paused."""

from datetime import datetime
from typing import Any

import typer

from workers import actions
from workers.actions import Hold
from workers.cli.opening import acting, reading
from workers.moments import exactly


def pause(kind: Hold, name: str, *, by: str, dry_run: bool, **details: Any) -> None:
    """Pause one and say so.

    Args:
        kind: What it is.
        name: Its name.
        by: Who.
        dry_run: Only say what would happen.
        details: Reason, and for what goes on by itself `until` and `ramp`.
    """
    if dry_run:
        _would(kind, name, "pause")
        return
    with acting() as connection:
        changed = actions.pause(connection, kind, name, by=by, **details)
    until: datetime | None = details.get("until")
    ends = f" until {exactly(until)}" if until else ""
    typer.echo(f"{kind.noun} {name} is paused" + (ends if changed else " already: nothing was changed"))


def resume(kind: Hold, name: str, *, by: str, dry_run: bool, action: str = "resume", ramp: int = 0) -> None:
    """Let one go on and say so."""
    if dry_run:
        _would(kind, name, action)
        return
    with acting() as connection:
        changed = actions.resume(connection, kind, name, by=by, action=action, ramp=ramp)
    gently = f", slowly at first, fully after {ramp} s" if ramp and kind.gradual else ""
    typer.echo(f"{kind.noun} {name} " + (f"goes on{gently}" if changed else "was not paused: nothing was changed"))


def _would(kind: Hold, name: str, action: str) -> None:
    with reading() as connection:
        paused = actions.is_paused(connection, kind, name)
    state = "paused" if paused else "not paused"
    typer.echo(f"{action} would be done to {kind.noun} {name}, which is {state} (dry run, nothing was changed)")

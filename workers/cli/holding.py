"""Pausing and resuming, told in the same words for queues, upstreams and schedules."""

import typer

from workers import actions
from workers.actions import HOLDS
from workers.cli.opening import acting, reading


def pause(plural: str, name: str, *, by: str, reason: str | None, dry_run: bool) -> None:
    """Pause one and say so."""
    kind = HOLDS[plural]
    if dry_run:
        _would(plural, name, "pause")
        return
    with acting() as connection:
        changed = actions.pause(connection, kind, name, by=by, reason=reason)
    typer.echo(f"{kind.noun} {name} is paused" + ("" if changed else " already: nothing was changed"))


def resume(plural: str, name: str, *, by: str, dry_run: bool, action: str = "resume") -> None:
    """Let one go on and say so."""
    kind = HOLDS[plural]
    if dry_run:
        _would(plural, name, action)
        return
    with acting() as connection:
        changed = actions.resume(connection, kind, name, by=by, action=action)
    typer.echo(f"{kind.noun} {name} " + ("goes on" if changed else "was not paused: nothing was changed"))


def _would(plural: str, name: str, action: str) -> None:
    kind = HOLDS[plural]
    with reading() as connection:
        paused = actions.is_paused(connection, kind, name)
    state = "paused" if paused else "not paused"
    typer.echo(f"{action} would be done to {kind.noun} {name}, which is {state} (dry run, nothing was changed)")

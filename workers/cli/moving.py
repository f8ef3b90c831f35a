"""Moving runs and saying so: the same words for one run and for a million, after the fact and in a dry run.

A dry run also says what would be touched by job and class of error, because "4,211 runs" hides the twelve that failed
of something else.
"""

from typing import Any

import typer
from sqlalchemy import Connection

from workers import actions
from workers.actions import Group, Move, Moved, Selection
from workers.cli.opening import acting, reading
from workers.cli.tables import print_json, show
from workers.logs import redact_text

#: Ids that are said one by one.
_TOLD = 10
#: Characters of an error in the table of a dry run.
_LONGEST = 60

COLUMNS = {
    "job": lambda group: group.job,
    "error": lambda group: group.error_class,
    "runs": lambda group: group.count,
    "oldest": lambda group: group.oldest,
    "newest": lambda group: group.newest,
    "for example": lambda group: _example(group)[:_LONGEST],
}


def apply(
    kind: Move, selection: Selection, by: str, *, dry_run: bool, as_json: bool, reason: str | None = None
) -> None:
    """Move runs, or say which would move.

    Raises:
        typer.Exit: With 1 if a run that was named stays as it is.
    """
    if dry_run:
        with reading() as connection:
            moved, groups = actions.candidates(connection, kind, selection), actions.groups(connection, kind, selection)
            late = _late(connection, kind, selection)
    else:
        with acting() as connection:
            moved, groups = actions.move(connection, kind, selection, by=by, reason=reason), []
            late = _late(connection, kind, selection)
    if as_json:
        print_json(_object(kind, moved, groups, dry_run=dry_run) | ({"on_the_broker": late} if late else {}))
    else:
        _tell(kind, moved, groups, dry_run=dry_run)
    if late:
        typer.echo(f"on the broker already, where they keep their place: {late:,} matching", err=True)
    for number, why in moved.left.items():
        typer.echo(f"run {number} stays as it is: {why}", err=True)
    if moved.left:
        raise typer.Exit(1)


def _late(connection: Connection, kind: Move, selection: Selection) -> int:
    """Return how many runs were pushed before they could be made more urgent; those named by id are told one by one."""
    if kind.verb != "prioritise" or selection.ids:
        return 0
    return actions.on_the_broker(connection, selection)


def _object(kind: Move, moved: Moved, groups: list[Group], *, dry_run: bool) -> dict[str, Any]:
    told = {"action": kind.verb, "dry_run": dry_run, "count": len(moved.ids)} | vars(moved)
    return told | {"groups": [vars(group) | {"example": _example(group)} for group in groups]} if dry_run else told


def _tell(kind: Move, moved: Moved, groups: list[Group], *, dry_run: bool) -> None:
    count = f"{len(moved.ids):,} run{'' if len(moved.ids) == 1 else 's'}"
    ids = ": " + ", ".join(map(str, moved.ids[:_TOLD])) + (", ..." if len(moved.ids) > _TOLD else "")
    verb = f"would be touched by {kind.verb} (dry run, nothing was changed)" if dry_run else kind.done
    typer.echo(f"{count} {verb}{ids if moved.ids else ''}")
    if groups:
        show(groups, COLUMNS, as_json=False, empty="")


def _example(group: Group) -> str:
    return redact_text((group.example or "").partition("\n")[0])

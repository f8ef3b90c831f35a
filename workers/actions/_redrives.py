"""Redrives as operators handle them: begin one over a selection of dead runs, look at it, stop it.

Beginning only writes rows; the runs stay dead until a relay moves them on, as `workers/redrive.py` tells.
"""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, insert, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert as insert_new

from models import Redrive, Redriven, Run, State
from workers import redrive
from workers.actions._audit import Refused, record
from workers.actions._moves import RETRY, movable
from workers.actions._selection import Selection

# What became since of the runs that failed again: by their own rules some try again, and may succeed after all.
LOOK = text("""
    SELECT d.id, d.selection, d.created_by, d.created_at, d.canary, d.rate, d.stop_at, d.total, d.moved, d.succeeded,
        d.failed, d.gone, d.passed, d.kept, d.stopped_at, d.ended_at, d.why,
        d.moved - d.succeeded - d.failed - d.gone AS under_way, d.total - d.moved - d.passed - d.kept AS to_go,
        coalesce(since.dead, 0) AS failed_dead, coalesce(since.trying, 0) AS failed_trying,
        coalesce(since.succeeded, 0) AS failed_succeeded
    FROM redrives d LEFT JOIN LATERAL (
        SELECT count(*) FILTER (WHERE r.state = 'dead') AS dead,
            count(*) FILTER (WHERE r.state IN ('waiting', 'queued', 'running')) AS trying,
            count(*) FILTER (WHERE r.state = 'succeeded') AS succeeded
        FROM redriven m JOIN runs r ON r.id = m.run_id WHERE m.redrive_id = d.id AND m.fate = 'failed'
    ) since ON true
    WHERE CAST(:id AS bigint) IS NULL OR d.id = :id
    ORDER BY d.id DESC LIMIT :limit
""")


@dataclass(frozen=True, kw_only=True)
class Care:
    """How carefully runs are run again."""

    #: Runs that are tried before all others.
    canary: int | None = None
    #: Runs a second at most.
    rate: float | None = None
    #: Percent of the tried runs that may fail again before it stops.
    stop_at: int = 20


def begin_redrive(connection: Connection, selection: Selection, care: Care, *, by: str) -> int:
    """Take the selected dead runs into a new redrive and return its id; those of another open one stay there.

    Raises:
        Refused: If the selection is empty, names other states, or no dead run is free.
    """
    if set(selection.states) - {State.DEAD}:
        raise Refused("--canary, --rate and --stop-at are for dead runs: leave out the other states")
    wanted = movable(RETRY, selection if selection.empty else selection.within(frozenset({State.DEAD})))
    made = insert(Redrive).values(selection=selection.describe(), created_by=by, **asdict(care)).returning(Redrive.id)
    number = int(connection.execute(made).scalar_one())
    members = select(literal(number), Run.id).where(wanted).order_by(Run.id)
    taken = insert_new(Redriven).from_select(["redrive_id", "run_id"], members)
    total = connection.execute(taken.on_conflict_do_nothing().returning(Redriven.run_id)).all()
    if not total:
        raise Refused("no dead run matches that is not in an open redrive already: `headrace redrives list`")
    connection.execute(update(Redrive).where(Redrive.id == number).values(total=len(total)))
    details = {"redrive": number} | asdict(care)
    record(connection, by=by, action="runs retry", target=selection.describe(), count=len(total), details=details)
    return number


def redrives(connection: Connection, number: int | None = None, *, limit: int = 1) -> list[dict[str, Any]]:
    """Return redrives as they stand, newest first, or the one with this id.

    Raises:
        Refused: If there is none with this id.
    """
    rows = [dict(row) for row in connection.execute(LOOK, {"id": number, "limit": limit}).mappings()]
    if number is not None and not rows:
        raise Refused(f"there is no redrive {number}: `headrace redrives list` shows the newest")
    return rows


def stop_redrive(connection: Connection, number: int, *, by: str) -> bool:
    """Stop it and put back what has not started. Returns False if it has stopped or ended already.

    Raises:
        Refused: If there is none with this id.
    """
    redrives(connection, number)
    stopped = redrive.stop(connection, number, f"{by} stopped it")
    if stopped:
        record(connection, by=by, action="redrives stop", target=str(number))
    return stopped

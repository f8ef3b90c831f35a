"""What a move is about to touch, before it does: how many runs of which job, and what they failed of."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, func, select

from models import Attempt, Run, State
from workers.actions._moves import Move, movable
from workers.actions._selection import Selection


@dataclass(frozen=True)
class Group:
    """Runs of one job whose last attempt failed of the same class of error."""

    job: str
    error_class: str | None
    count: int
    #: When the first and the last of them ended, or were enqueued if they have not ended.
    oldest: datetime
    newest: datetime
    #: One of the errors.
    example: str | None


def groups(connection: Connection, kind: Move, selection: Selection) -> list[Group]:
    """Return what `move` would touch, by job and class of the last error, the largest first.

    Raises:
        Refused: As `move`.
    """
    at = func.coalesce(Run.finished_at, Run.created_at)
    last = and_(Attempt.run_id == Run.id, Attempt.number == Run.attempt)
    counted = (
        select(Run.job, Attempt.error_class, func.count(), func.min(at), func.max(at), func.max(Run.error))
        .outerjoin_from(Run, Attempt, last)
        .where(movable(kind, selection))
        .group_by(Run.job, Attempt.error_class)
        .order_by(func.count().desc(), Run.job, Attempt.error_class)
    )
    return [Group(*row) for row in connection.execute(counted)]


def on_the_broker(connection: Connection, selection: Selection) -> int:
    """Return how many of the selected runs were pushed already: what changes now comes too late for them."""
    pushed = select(func.count()).where(selection.condition(), Run.state == State.QUEUED)
    return int(connection.execute(pushed).scalar_one())

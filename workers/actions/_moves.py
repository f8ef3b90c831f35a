"""Moves of runs by hand: run again, cancel, discard. One statement moves one run or a million.

    retry     dead, cancelled, succeeded -> waiting, due now, with a fresh allowance of failures
    cancel    waiting, queued -> cancelled; a running run is asked to stop and ends at its next check
    discard   dead -> cancelled: nobody needs to look at it any more
    restore   cancelled -> dead, for a day after it was discarded

`prioritise` changes no state: it says how urgent waiting runs are. What was pushed already keeps its place.

What becomes of the runs that wait behind a moved one, and of its batch, is done by Postgres in the same statement. A
run behind another one that is run again waits for that one first; if it has succeeded, the commit finds it so.

Rows are locked in the order of their ids, as the workers do it, so that a large move and a busy worker never wait for
each other in a circle.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, null, or_, select, true, update

from jobs import Priority
from models import NEVER, Run, State
from workers.actions._audit import Refused, record
from workers.actions._selection import Selection

#: Ids that the audit keeps of one action.
KEPT_IDS = 100
#: How long a discarded run may be restored.
REGRET = timedelta(hours=24)


@dataclass(frozen=True, eq=False)
class Move:
    """A move: its name, the states it leaves, and what it writes."""

    verb: str
    #: In the past, for what is said afterwards.
    done: str
    leaves: frozenset[State]
    #: States it leaves when runs are selected by filters that name no state.
    usual: frozenset[State]
    values: Callable[[str], Mapping[str, Any]]
    #: What else a row must satisfy.
    further: ColumnElement[bool]
    #: What the audit keeps beside the ids.
    noted: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Moved:
    """What a move did."""

    ids: list[int]
    #: Runs named by id that it left alone, each with why.
    left: dict[int, str]


def _again(by: str) -> dict[str, Any]:
    # The run starts over: nothing of its earlier life is left to explain, and whoever asks for it now wants it now.
    del by
    return {
        "state": State.WAITING,
        "failures": 0,
        "deaths": 0,
        "pushes": 0,
        "due_at": case((Run.after_id.is_(None), func.now()), else_=NEVER),
        "queued_at": null(),
        "finished_at": null(),
        "cancel_requested_at": null(),
        "discarded_at": null(),
        "progress": null(),
        "result": null(),
        "error": null(),
        "checkpoint": null(),
        "expires_at": null(),
        "deadline_at": null(),
    }


def _cancelled(by: str) -> dict[str, Any]:
    running = Run.state == State.RUNNING
    return {
        "state": case((running, Run.state), else_=State.CANCELLED),
        "finished_at": case((running, Run.finished_at), else_=func.now()),
        "error": case((running, Run.error), else_=f"cancelled by {by} before it ran"),
        # The key is free again: the same work may be asked for anew.
        "unique_key": case((running, Run.unique_key), else_=null()),
        "cancel_requested_at": func.now(),
    }


def _discarded(by: str) -> dict[str, Any]:
    del by  # the audit says who; the run keeps the error it died of
    return {"state": State.CANCELLED, "discarded_at": func.now()}


def _restored(by: str) -> dict[str, Any]:
    del by
    return {"state": State.DEAD, "discarded_at": null()}


RETRY = Move(
    "retry",
    "will run again",
    frozenset({State.DEAD, State.CANCELLED, State.SUCCEEDED}),
    frozenset({State.DEAD}),
    _again,
    true(),
)
CANCEL = Move(
    "cancel",
    "cancelled",
    frozenset({State.WAITING, State.QUEUED, State.RUNNING}),
    frozenset({State.WAITING, State.QUEUED, State.RUNNING}),
    _cancelled,
    or_(Run.state != State.RUNNING, Run.cancel_requested_at.is_(None)),
)
DISCARD = Move("discard", "discarded", frozenset({State.DEAD}), frozenset({State.DEAD}), _discarded, true())
RESTORE = Move(
    "restore",
    "dead again, as before they were discarded",
    frozenset({State.CANCELLED}),
    frozenset({State.CANCELLED}),
    _restored,
    Run.discarded_at > func.now() - REGRET,
)


def prioritise(to: Priority) -> Move:
    """Return the move that gives waiting runs this priority."""
    return Move(
        "prioritise",
        f"now {to.name.lower()}",
        frozenset({State.WAITING}),
        frozenset({State.WAITING}),
        lambda _: {"priority": to.value},
        Run.priority != to.value,
        {"to": to.name.lower()},
    )


def move(connection: Connection, kind: Move, selection: Selection, *, by: str, reason: str | None = None) -> Moved:
    """Move the selected runs that are in a state the move leaves.

    Args:
        connection: The caller's transaction.
        kind: What to do with them.
        selection: Which.
        by: Who.
        reason: Why, for the audit.

    Raises:
        Refused: If the selection is empty, because that would be everything.
    """
    locked = select(Run.id).where(movable(kind, selection)).order_by(Run.id).with_for_update()
    # The state is named twice: a row that changed while we waited for its lock is judged anew.
    again = and_(Run.state.in_(kind.leaves), kind.further)
    moved = update(Run).where(Run.id.in_(locked), again).values(**kind.values(by)).returning(Run.id)
    ids = sorted(connection.execute(moved).scalars())
    if ids:
        details = {"ids": ids[:KEPT_IDS], **kind.noted} | ({"reason": reason} if reason else {})
        target = selection.describe()
        record(connection, by=by, action=f"runs {kind.verb}", target=target, count=len(ids), details=details)
    return Moved(ids, _left(connection, kind, selection, set(ids)))


def candidates(connection: Connection, kind: Move, selection: Selection) -> Moved:
    """Return what `move` would do now, without doing it.

    Raises:
        Refused: As `move`.
    """
    ids = list(connection.execute(select(Run.id).where(movable(kind, selection)).order_by(Run.id)).scalars())
    return Moved(ids, _left(connection, kind, selection, set(ids)))


def movable(kind: Move, selection: Selection) -> ColumnElement[bool]:
    """Return which runs a move takes.

    Raises:
        Refused: If the selection is empty, because that would be everything.
    """
    if selection.empty:
        raise Refused(f"say which runs to {kind.verb}: ids, or filters such as --state or --job")
    wanted = selection if selection.ids else selection.within(kind.usual)
    return and_(wanted.condition(), Run.state.in_(kind.leaves), kind.further)


def _left(connection: Connection, kind: Move, selection: Selection, moved: set[int]) -> dict[int, str]:
    left = [number for number in selection.ids if number not in moved]
    if not left:
        return {}
    asked = select(Run.id, Run.state, Run.cancel_requested_at, Run.discarded_at).where(Run.id.in_(left))
    found = {row.id: row for row in connection.execute(asked)}
    return {number: _why_left(kind, found.get(number)) for number in left}


def _why_left(kind: Move, run: Any) -> str:
    if run is None:
        return "there is no such run"
    if kind is CANCEL and run.state == State.RUNNING and run.cancel_requested_at:
        return "it was asked to stop already and ends at its next check"
    if kind is RESTORE and run.state == State.CANCELLED:
        return "it was discarded more than a day ago" if run.discarded_at else "it was cancelled, not discarded"
    if kind.verb == "prioritise" and run.state in {State.WAITING, State.QUEUED}:
        return "it is so already" if run.state == State.WAITING else "it is on the broker and keeps its place there"
    if run.state in kind.leaves:
        return "it does not match the filters"
    known = ", ".join(sorted(kind.leaves))
    return f"it is {run.state}, and {kind.verb} takes only: {known}"

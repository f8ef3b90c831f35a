"""Webhooks again: an event that was kept can be handed to its job once more, one that never came can be fetched.

The event stays one row: `run_id` names the newest run it caused. An event that nobody answered when it came is
answered now, if a job has learned to.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, select, true, update

import jobs
from jobs import _missed_events as missed_events
from models import Event, Verdict
from workers.actions._audit import Refused, record

#: Ids that the audit keeps of one action.
KEPT_IDS = 100


@dataclass(frozen=True, kw_only=True)
class EventSelection:
    """Events that match every given part."""

    ids: tuple[int, ...] = ()
    source: str | None = None
    type: str | None = None
    verdict: Verdict | None = None
    #: Received at or after this moment.
    since: datetime | None = None

    @property
    def empty(self) -> bool:
        """Whether it selects everything."""
        return self == EventSelection()

    def condition(self) -> ColumnElement[bool]:
        """Return what a row of `events` must satisfy."""
        tests: list[ColumnElement[bool]] = []
        if self.ids:
            tests.append(Event.id.in_(self.ids))
        named = ((Event.source, self.source), (Event.type, self.type), (Event.verdict, self.verdict))
        tests += [column == value for column, value in named if value is not None]
        if self.since is not None:
            tests.append(Event.received_at >= self.since)
        return and_(true(), *tests)


@dataclass(frozen=True)
class Replayed:
    """One selected event: the job that answers it and its new run, or nothing where no job does."""

    event_id: int
    source: str
    type: str
    job: str | None
    run_id: int | None = None


def replayable(connection: Connection, selection: EventSelection, *, limit: int) -> list[Replayed]:
    """Return the selected events, oldest first, with the job that would answer each.

    Raises:
        Refused: If the selection is empty.
    """
    if selection.empty:
        raise Refused("say which events: ids, or filters such as --source, --type or --since")
    chosen = select(Event.id, Event.source, Event.type).where(selection.condition()).order_by(Event.id).limit(limit)
    return [
        Replayed(row.id, row.source, row.type, _handler(row.source, row.type)) for row in connection.execute(chosen)
    ]


def replay(connection: Connection, selection: EventSelection, *, by: str, limit: int) -> list[Replayed]:
    """Enqueue the job of each selected event again.

    Raises:
        Refused: If the selection is empty.
    """
    replayed = [_enqueue(connection, event) for event in replayable(connection, selection, limit=limit)]
    ids = [event.event_id for event in replayed if event.run_id is not None]
    if ids:
        named = {"source": selection.source, "type": selection.type, "verdict": selection.verdict}
        filters = {name: value for name, value in named.items() if value is not None}
        target = " ".join(f"--{name} {value}" for name, value in filters.items()) or " ".join(map(str, ids[:20]))
        details = {"ids": ids[:KEPT_IDS]}
        record(connection, by=by, action="webhooks replay", target=target, count=len(ids), details=details)
    return replayed


def backfill(connection: Connection, source: str, events: Iterable[Mapping[str, Any]], *, by: str) -> int:
    """Keep the events that never reached us and enqueue their jobs. Returns how many were missing.

    Args:
        connection: The transaction.
        source: The integration they were fetched from.
        events: The sender's events as JSON objects with `id` and `type`.
        by: Who asks.
    """
    missing = missed_events.keep(connection, source, events, by=by)
    if missing:
        details = {"ids": missing[:KEPT_IDS]}
        record(connection, by=by, action="webhooks backfill", target=source, count=len(missing), details=details)
    return len(missing)


def _enqueue(connection: Connection, event: Replayed) -> Replayed:
    if event.job is None:
        return event
    job = jobs.find(event.job).options(event_id=event.event_id)
    run_id = job.enqueue(connection, event_id=event.event_id)
    answered = {"run_id": run_id, "verdict": Verdict.ACCEPTED}
    connection.execute(update(Event).where(Event.id == event.event_id).values(**answered))
    return Replayed(event.event_id, event.source, event.type, event.job, run_id)


def _handler(source: str, event_type: str) -> str | None:
    job = jobs.handler_of(source, event_type)
    return job.name if job else None

"""Webhooks again: an event that was kept can be handed to its job once more, one that never came can be fetched.

The event stays one row: `run_id` names the newest run it caused. An event that nobody answered when it came is
answered now, if a job has learned to.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, cast, func, select, true
from sqlalchemy.dialects.postgresql import JSONB

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
    #: Places in the body, such as `data.object.id`, and what stands there.
    fields: tuple[tuple[str, str], ...] = ()

    def words(self) -> str:
        """Return the filters as somebody would type them."""
        named = {"source": self.source, "type": self.type, "verdict": self.verdict, "since": self.since}
        typed = [f"--{name} {value}" for name, value in named.items() if value is not None]
        typed += [f"--field {path}={value}" for path, value in self.fields]
        return " ".join(typed) or " ".join(map(str, self.ids[:20]))

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
        tests += [_field(path) == value for path, value in self.fields]
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
        details = {"ids": ids[:KEPT_IDS]}
        record(connection, by=by, action="webhooks replay", target=selection.words(), count=len(ids), details=details)
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
    body = connection.execute(select(Event.body).where(Event.id == event.event_id)).scalar_one()
    run_id = jobs.answer(connection, jobs.find(event.job), event.event_id, body)
    return Replayed(event.event_id, event.source, event.type, event.job, run_id)


def _field(path: str) -> ColumnElement[str]:
    """Return the text at a place of the body; what Postgres cannot read as JSON has none, and none is tried."""
    body = func.convert_from(Event.body, "UTF8")
    readable = Event.verdict.in_([Verdict.ACCEPTED, Verdict.IGNORED])
    parsed = case((readable, case((func.pg_input_is_valid(body, "jsonb"), cast(body, JSONB)))))
    return func.jsonb_extract_path_text(parsed, *path.split("."))


def _handler(source: str, event_type: str) -> str | None:
    job = jobs.handler_of(source, event_type)
    return job.name if job else None

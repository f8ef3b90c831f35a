"""Events that never reached us, kept as if they had: the same row, the same run.

The key of sender and event id makes one out of two: an event that is fetched here while its own delivery is under way
is kept once, and causes one run.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from jobs._answer import answer
from jobs._job import handler_of
from models import Event, Verdict


def keep(session: Session | Connection, source: str, events: Iterable[Mapping[str, Any]], *, by: str) -> list[str]:
    """Keep those of the events that we lack and enqueue their jobs.

    Args:
        session: The transaction.
        source: The integration they were fetched from.
        events: The sender's events as JSON objects with `id` and `type`.
        by: Who fetched them, kept with each.

    Returns:
        The ids of those that were missing.
    """
    return [str(event["id"]) for event in events if _keep(session, source, event, by)]


def _keep(session: Session | Connection, source: str, event: Mapping[str, Any], by: str) -> bool:
    handler = handler_of(source, str(event["type"]))
    values: dict[str, Any] = {
        "source": source,
        "external_id": str(event["id"]),
        "type": str(event["type"]),
        "verdict": Verdict.ACCEPTED if handler else Verdict.IGNORED,
        "headers": {"backfilled-by": by},
        "body": orjson.dumps(event),
    }
    kept = session.execute(insert(Event).values(**values).on_conflict_do_nothing().returning(Event.id)).scalar()
    if kept is not None and handler is not None:
        answer(session, handler, kept, values["body"])
    return kept is not None

"""What answers an event: the run that it causes, or one that waits already for another event of the same entity.

    @job(on=[Warehouse.event("product.updated")], entity="data.sku", unique=Unique())   forty updates, one run
    @job(on=[Warehouse.event("product.updated")], entity="data.sku", ordered=True)      one at a time, as they came

A job that declares no entity gets a run for each event. With unique runs, events of one entity join the run that no
worker has taken yet, and that run is to look at all of them (`answered`), or to ask the upstream how the entity is now.
An event that comes once a worker has taken the run causes the next one, so nothing is overlooked. `Unique(wait=...)`
lets more of them come together. An event that names no entity has a run of its own.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from sqlalchemy import Connection, case, or_, select, update
from sqlalchemy.orm import Session

from integrations import at_path, label
from jobs._job import Job
from models import Event, Run, Verdict


def entity_of(paths: Iterable[str], payload: Mapping[str, Any]) -> str | None:
    """Return what an event is about: what stands at the first of these paths that has something usable."""
    found = (label(at_path(payload, path)) for path in paths)
    return next((one for one in found if one is not None), None)


def answer(session: Session | Connection, job: Job[Any], event_id: int, body: bytes) -> int:
    """Enqueue the job that answers an event, and keep with the event which run that is. Returns the run's id."""
    about = entity_of(job.entity, _object(body)) if job.entity else None
    run_id = job.answering(event_id, about).insert(session, {"event_id": event_id})
    joined = select(case((Run.event_id != event_id, Run.id))).where(Run.id == run_id).scalar_subquery()
    values = {"run_id": run_id, "joined_run": joined, "verdict": Verdict.ACCEPTED}
    session.execute(update(Event).where(Event.id == event_id).values(**values))
    return run_id


def answered(session: Session, run_id: int, event_id: int) -> list[Event]:
    """Return the events that a run answers, oldest first: the one that caused it, and those that joined it."""
    chosen = or_(Event.id == event_id, Event.joined_run == run_id)
    return list(session.scalars(select(Event).where(chosen).order_by(Event.id)))


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
